"""One timed run, and the table of a group made from all of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

OURS = "pymetaner"


class Row(TypedDict):
    """One case against one peer; `ratio` is how many times longer the peer takes."""

    case: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    device: str
    dtype: str


def measure(
    benchmark: Any, case: str, contender: str, dtype: str, function: Callable[[], Any], check: Callable[[Any], None]
) -> None:
    """Checks the answer of `function`, which is its warm-up too, then times it."""
    check(function())
    benchmark.group = case
    benchmark.extra_info.update(contender=contender, dtype=dtype, device="cpu")
    benchmark(function)


def rows_of(report: Path) -> list[Row]:
    """The rows that a pytest-benchmark report holds, the fastest exact peer of each case first.

    Behind the exact peers come those of 16 bits, and other ways to call pymetaner.
    """
    times: dict[tuple[str, str], list[float]] = {}
    notes: dict[str, dict[str, str]] = {}
    for run in json.loads(report.read_text(encoding="utf-8"))["benchmarks"]:
        note = run["extra_info"]
        times.setdefault((run["group"], note["contender"]), []).append(1e3 * run["stats"]["median"])
        notes[note["contender"]] = note
    medians = {key: statistics.median(values) for key, values in times.items()}
    rows = [
        Row(
            case=case,
            ours_ms=medians[case, OURS],
            peer=contender,
            peer_ms=milliseconds,
            ratio=milliseconds / medians[case, OURS],
            device=notes[contender]["device"],
            dtype=notes[contender]["dtype"],
        )
        for (case, contender), milliseconds in medians.items()
        if contender != OURS
    ]
    order = list(dict.fromkeys(row["case"] for row in rows))
    beside = {row["peer"] for row in rows if row["peer"].startswith(OURS) or row["dtype"] == "bfloat16"}
    return sorted(rows, key=lambda row: (order.index(row["case"]), row["peer"] in beside, row["peer_ms"]))


def plot(rows: list[Row], path: Path) -> None:
    """Bars of the ratios, one a case and peer, with a line where both are equally fast."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([f"{row['case']}  {row['peer']}" for row in rows], [row["ratio"] for row in rows])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("time of the peer / time of pymetaner")
    figure.savefig(path)
