"""python -m benchmarks.peak_memory MODEL FILE: the most memory that adapting takes, by the number of sentences.

Each number of sentences is a process of its own; the sentences of a labelled file are repeated to reach it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

SIZES = (64, 256, 1024)


def main(
    folder: Annotated[str, typer.Argument(metavar="MODEL", help="a model's folder or hub id, with a memory")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a labelled file")],
    only: Annotated[int | None, typer.Option(hidden=True)] = None,
    cache_bytes: Annotated[int, typer.Option(help="bound of the factor cache")] = 2**28,
) -> None:
    """Prints the table."""
    if only is not None:
        print(peak(folder, file, only, cache_bytes))
        return
    table = Table("sentences", "peak, MB")
    for size in SIZES:
        arguments = [folder, str(file), "--only", str(size), "--cache-bytes", str(cache_bytes)]
        command = [sys.executable, "-m", "benchmarks.peak_memory", *arguments]
        table.add_row(str(size), subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    Console().print(table)


def peak(folder: str, file: Path, size: int, cache_bytes: int) -> int:
    """Megabytes of this process at most, once it has adapted to that many sentences."""
    import pymetaner

    model = pymetaner.MetaNER.from_pretrained(folder)
    model.cache = pymetaner.FactorCache(cache_bytes)
    sentences = list(islice(cycle(list(s.words) for s in pymetaner.read(file)), size))
    pymetaner.adapt(model, sentences)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    typer.run(main)
