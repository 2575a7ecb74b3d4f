"""python -m benchmarks.new_types TRAIN TEST TYPE: a new entity type taught to the default model by `pymetaner.extend`.

From 20, 50 and 100 sentences of the training file that have the type, three draws each; F1 of the type, of the old
types and of all, and the seconds that `extend` took, as JSON, a line a draw.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from pymetaner import MetaNER, Sentence, default_model, evaluate, extend, read
from pymetaner.scoring import Score

SIZES, DRAWS = (20, 50, 100), 3


def figures(model: MetaNER, test: list[Sentence], new: str) -> dict[str, float]:
    """F1 of the new type, of the others together and of all, and precision and recall of the new one, in percent."""
    plain = evaluate(model, test).plain
    taught = plain.per_type[new]
    old = [score for name, score in plain.per_type.items() if name != new]
    others = Score(*(sum(getattr(score, what) for score in old) for what in ("correct", "predicted", "support")))
    found = {
        "new": taught.f1,
        "precision": taught.precision,
        "recall": taught.recall,
        "old": others.f1,
        "all": plain.f1,
    }
    return {name: round(100 * value, 1) for name, value in found.items()}


def main(
    train: Annotated[Path, typer.Argument(help="labelled sentences to draw from")],
    test: Annotated[Path, typer.Argument(help="labelled sentences to score on")],
    new: Annotated[str, typer.Argument(help="the type that the model does not know")],
    every: Annotated[int, typer.Option(help="score on every so many sentences of the test file")] = 4,
    threads: Annotated[int | None, typer.Option(help="of the CPU")] = None,
) -> None:
    """Prints a line for the model as it is, and one for each draw."""
    if threads is not None:
        torch.set_num_threads(threads)
    model, scored = default_model(), list(read(test))[::every]
    pool = [s for s in read(train) if any(tag.endswith(f"-{new}") for tag in s.tags or ())]
    print(json.dumps({"sentences": 0, **figures(model, scored, new)}), flush=True)
    for size in SIZES:
        for draw in range(DRAWS):
            started = time.process_time()
            extended = extend(model, random.Random(draw).sample(pool, max(SIZES))[:size])
            seconds = round(time.process_time() - started, 1)
            row = {"sentences": size, "draw": draw, **figures(extended, scored, new), "cpu_seconds": seconds}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    typer.run(main)
