"""python -m benchmarks.unlabelled MODEL DATA [--languages de,fr] [--texts 1000] [--steps 64] [--lr 2e-4]

What text without labels is worth: the model trains itself on some sentences of each target language
(`pymetaner.self_train`), and its test set is tagged before and after. Appends a line to
benchmarks/results/unlabelled.jsonl for each language: both F1 and the p of a paired bootstrap.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.paper.runs import TEST, UNLABELLED, sentences, unlabelled
from benchmarks.paper.table import bootstrap
from benchmarks.records import append, commit
from pymetaner import MetaNER, evaluate, self_train
from pymetaner.scoring import sentence_counts

RESULTS = Path(__file__).parent / "results" / "unlabelled.jsonl"


def main(
    model: Annotated[str, typer.Argument(help="a model's folder")],
    data: Annotated[Path, typer.Argument(help="folder with conll2002, conll2003, europeana, msra, uner")],
    languages: Annotated[str, typer.Option("--languages")] = ",".join(TEST),
    texts: Annotated[int, typer.Option("--texts", help="spread over the train set")] = 1000,
    steps: Annotated[int | None, typer.Option("--steps")] = None,
    lr: Annotated[float, typer.Option("--lr")] = 2e-4,
    seed: Annotated[int, typer.Option("--seed")] = 0,
) -> None:
    """Scores every language on its whole test set."""
    net = MetaNER.from_pretrained(model)
    for language in languages.split(","):
        test = sentences(data / TEST[language])
        pool = unlabelled(data / UNLABELLED[language], texts, test)
        started = time.perf_counter()
        trained = self_train(net, pool, steps=steps, lr=lr, seed=seed)
        seconds = time.perf_counter() - started
        before, after = (evaluate(each, test, batch_size=32) for each in (net, trained))
        counts = [sentence_counts(before.gold, found.plain_tags) for found in (after, before)]
        difference, samples = bootstrap(np.stack(counts)[None])
        line = {
            "model": Path(model).name,
            "lang": language,
            "texts": len(pool),
            "steps": steps,
            "lr": lr,
            "seed": seed,
            "seconds": round(seconds),
            "sentences": len(test),
            "plain": round(100 * before.plain.f1, 3),
            "adapted": round(100 * after.plain.f1, 3),
            "difference": round(difference, 3),
            "p": float((samples <= 0).mean()),
            "commit": commit(),
        }
        append(RESULTS, line)
        print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
