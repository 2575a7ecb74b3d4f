"""One timed run, and the table of a group made from all of them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest

OURS = "pymetaner"
SLOW = 0.1  # seconds; a call that takes longer is timed once a turn
BUDGET = 8.0  # seconds; a contender that has been timed for longer, in two turns or more, is left out of further ones


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
    """Checks an answer of `function` and times it: for as long as pytest-benchmark is told, or once if it is slow.

    The first call of all is a warm-up, and tells whether it is slow.
    """
    turns = _turns.setdefault((case, contender), [])
    if len(turns) > 1 and sum(turns) > BUDGET:
        pytest.skip(f"{contender} has had its {BUDGET:.0f} seconds")
    benchmark.group = case
    benchmark.extra_info.update(contender=contender, dtype=dtype, device="cpu")
    seconds = turns[-1] if turns else 0.0
    if seconds < SLOW:
        started = time.perf_counter()
        answer = function()
        seconds = time.perf_counter() - started
        check(answer)
    if seconds < SLOW:
        benchmark(function)
    else:
        check(benchmark.pedantic(function))
    turns.append(benchmark.stats.stats.median)


_turns: dict[tuple[str, str], list[float]] = {}  # of a case and contender: the median seconds of each turn so far


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
