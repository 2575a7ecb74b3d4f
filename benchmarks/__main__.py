"""python -m benchmarks GROUP [--quick] [--json FILE] [--plot FILE.png]

Runs a group of pytest-benchmark cases: pymetaner and its peers by turns, answers compared in the same run. Prints each
case against its fastest peer; `ratio` is the time of the peer over ours, so more than 1 means that we are faster.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import pytest
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Row, plot, rows_of
from pymetaner.ops import backend

HERE = Path(__file__).parent
GROUPS = ("engine", "loss", "meta", "topk")


def run(group: str, quick: bool) -> list[Row]:
    """Runs the group and returns its rows; ends the program if an answer is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        limits = ("--benchmark-min-rounds=3", f"--benchmark-max-time={0.2 if quick else 0.5}")
        arguments = [str(HERE / f"{group}.py"), "-q", "-rfE", "--no-header", f"--rootdir={HERE.parent}", *limits]
        arguments += [f"--benchmark-json={report}", "--benchmark-quiet", *(["--quick"] if quick else [])]
        status = pytest.main([*arguments, "--benchmark-columns=median", "-p", "no:cacheprovider"])
        if status != pytest.ExitCode.OK:
            sys.exit(int(status))
        return rows_of(report)


def show(rows: list[Row]) -> None:
    """Prints each case with its fastest peer."""
    table = Table("case", "ours, ms", "best peer", "peer, ms", "ratio")
    for case in dict.fromkeys(row["case"] for row in rows):
        best = next(row for row in rows if row["case"] == case)
        figures = f"{best['ours_ms']:.3f}", best["peer"], f"{best['peer_ms']:.3f}", f"{best['ratio']:.2f}"
        table.add_row(case, *figures)
    Console().print(table)


def main(
    group: Annotated[str, typer.Argument(help=f"one of {', '.join(GROUPS)}")],
    quick: Annotated[bool, typer.Option(help="only the small cases: within a minute on 2 cores")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write every case and peer there")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="draw the ratios there, as PNG")] = None,
) -> None:
    """Runs a group of benchmarks and prints ours against the best peer."""
    if group not in GROUPS:
        raise typer.BadParameter(f"there is no group {group!r}: choose one of {', '.join(GROUPS)}")
    if backend() != "native":
        raise typer.BadParameter("the compiled extension is needed: unset PYMETANER_BACKEND, or build it first")
    if plot_file is not None and importlib.util.find_spec("matplotlib") is None:
        raise typer.BadParameter("--plot needs matplotlib: pip install 'pymetaner[bench]'")
    rows = run(group, quick)
    show(rows)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if plot_file is not None:
        plot(rows, plot_file)


if __name__ == "__main__":
    typer.run(main)
