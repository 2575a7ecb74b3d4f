"""python -m benchmarks.precision MODEL FILE [--sentences N]: what precision and the engine change on real sentences.

Every sentence of a labelled file is adapted on its nearest sentences of the model's memory by the sequential loop in
float32, the standard here, and by the batched engine in each precision that the device has. Prints how far logits are
apart and the share of entities that differ.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.contest import OURS
from benchmarks.sampling import spread
from pymetaner.cache import FactorCache
from pymetaner.decode import decode
from pymetaner.engine import Computation, InnerStep, Precision, Task, Work, batched_logits, reference_logits
from pymetaner.model import MetaNER
from pymetaner.readers import read
from pymetaner.words import regroup

SETTINGS = {
    "sgd 0.02": InnerStep(lr=0.02),
    "sgd 0.1": InnerStep(lr=0.1),
    "sgd 0.02, 2 steps, max term 2": InnerStep(lr=0.02, steps=2, lambda_max=2.0),
    "bertadam 1e-5": InnerStep(lr=1e-5, optimizer="bertadam"),
}


def entities(model: MetaNER, tasks: list[Task], logits: list[np.ndarray]) -> set[tuple[int, int, int, str]]:
    """(sentence, start, end, type) of every entity."""
    tagged = decode(logits, model.labels, model.settings.decoding)
    return {
        (i, entity.start, entity.end, entity.label)
        for i, (task, (tags, scores)) in enumerate(zip(tasks, tagged, strict=True))
        for entity in task.query.entities_of(tags, scores.tolist())
    }


def main(
    folder: Annotated[str, typer.Argument(metavar="MODEL", help="a model's folder or hub id, with a memory")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a labelled file")],
    sentences: Annotated[int, typer.Option(help="how many, spread over the file")] = 200,
    k: Annotated[int, typer.Option("-k", help="supports per sentence")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Prints the table."""
    model = MetaNER.from_pretrained(folder, device=device)
    chosen = spread([regroup(s.with_tags(None)) for s in read(file) if s.words], sentences)
    hits = model.memory.search(model.embed(chosen), k)
    tasks = [Task(s, tuple(hit.sentence for hit in found)) for s, found in zip(chosen, hits, strict=True)]
    precisions: list[Precision] = ["fp32", "bf16"] if torch.device(device).type == "cpu" else ["fp32", "tf32", "bf16"]
    table = Table("inner step", OURS, "largest logit difference", "moved by", "entities", "differing")
    for name, inner in SETTINGS.items():
        standard = reference_logits(model, tasks, inner, Computation(), Work())
        plain = batched_logits(model, [Task(t.query, ()) for t in tasks], inner, Computation(), Work())
        expected = entities(model, tasks, standard)
        runs = {precision: Computation(precision=precision) for precision in precisions}
        rounded = FactorCache(1 << 33, dtype=torch.bfloat16)
        for label, computation in (*runs.items(), ("fp32, cache in bf16", Computation(cache=rounded))):
            found = batched_logits(model, tasks, inner, computation, Work())
            differing = entities(model, tasks, found) ^ expected
            print(f"{name}, {label}: done", file=sys.stderr, flush=True)
            table.add_row(
                name,
                label,
                f"{largest(found, standard):.1e}",
                f"{largest(plain, standard):.2f}",
                str(len(expected)),
                f"{len(differing) / max(1, len(expected)):.2%}",
            )
    Console(width=120).print(table)


def largest(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference of two numbers."""
    return max(float(np.abs(a - b).max(initial=0)) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    typer.run(main)
