"""python -m benchmarks.errors MODEL FILE [--sentences N]: what kind of mistakes a model makes, plain.

Labelled entities are found, found with another type, with other bounds, with both wrong, or missed; predicted ones that
overlap no labelled entity are made up. Beside that the F1, and that of spans without their types.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.sampling import spread
from pymetaner import MetaNER, evaluate, read
from pymetaner.scoring import score
from pymetaner.sentence import tag_spans

KINDS = ("right", "other type", "other bounds", "other type and bounds", "missed", "made up")
Span = tuple[int, int, str]


def kinds(gold: list[Span], found: list[Span]) -> Counter[str]:
    """How many of each of `KINDS` in a sentence."""
    counts: Counter[str] = Counter()
    for first, last, name in gold:
        touching = [span for span in found if span[0] < last and first < span[1]]
        if (first, last, name) in touching:
            counts["right"] += 1
        elif any(span[:2] == (first, last) for span in touching):
            counts["other type"] += 1
        elif any(span[2] == name for span in touching):
            counts["other bounds"] += 1
        else:
            counts["other type and bounds" if touching else "missed"] += 1
    counts["made up"] += sum(not any(g[0] < last and first < g[1] for g in gold) for first, last, _ in found)
    return counts


def untyped(tags: tuple[str, ...]) -> list[str]:
    """The tags with one type for all."""
    return [tag if tag == "O" else f"{tag[:2]}X" for tag in tags]


def main(
    model: Annotated[str, typer.Argument(help="a model's folder or hub id")],
    file: Annotated[Path, typer.Argument(help="labelled sentences")],
    sentences: Annotated[int, typer.Option("--sentences", help="so many, spread over the file; 0 for all")] = 0,
) -> None:
    """Prints the table."""
    test = spread(list(read(file)), sentences)
    found = evaluate(MetaNER.from_pretrained(model), test, progress=True)
    counts: Counter[str] = Counter()
    examples: dict[str, Counter[str]] = {}
    for gold, tags in zip(found.gold, found.plain_tags, strict=True):
        expected, predicted = tag_spans(gold), tag_spans(tags)
        counts += kinds(expected, predicted)
        for span in expected:
            examples.setdefault(span[2], Counter()).update(kinds([span], predicted))
    table = Table("", *KINDS)
    for name, row in [("all", counts), *sorted(examples.items())]:
        total = sum(row[kind] for kind in KINDS[:-1])
        cells = [f"{row[kind]} ({100 * row[kind] / max(1, total):.0f} %)" for kind in KINDS]
        table.add_row(name, *(cells if name == "all" else [*cells[:-1], ""]))
    Console().print(table)
    plain = found.plain
    spans = score([untyped(g) for g in found.gold], [untyped(t) for t in found.plain_tags])
    print(f"F1 {100 * plain.f1:.2f} (precision {100 * plain.precision:.2f}, recall {100 * plain.recall:.2f}), ", end="")
    print(f"without types {100 * spans.f1:.2f}")


if __name__ == "__main__":
    typer.run(main)
