"""The benchmark tool's arithmetic: from a pytest-benchmark report to rows, and from rows to a picture."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("contest", Path(__file__).parents[1] / "benchmarks" / "contest.py")
contest = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(contest)


@pytest.fixture
def report(tmp_path):
    def run(case, contender, seconds, dtype="float32"):
        note = {"contender": contender, "dtype": dtype, "device": "cpu"}
        return {"group": case, "extra_info": note, "stats": {"median": seconds}}

    turns = [run("small", "pymetaner", s) for s in (0.002, 0.001, 0.009)]  # one slow turn does not decide
    turns += [run("small", "slow", 0.008), run("small", "fast", 0.004)]
    turns += [run("small", "inexact", 0.001, "bfloat16"), run("small", "pymetaner, otherwise", 0.0005)]  # no peers
    turns += [run("large", "fast", 0.5), run("large", "pymetaner", 1.0)]
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"benchmarks": turns}))
    return path


def test_rows_put_the_fastest_peer_first(report):
    rows = contest.rows_of(report)
    assert [(row["case"], row["peer"], row["ratio"]) for row in rows] == [
        ("small", "fast", 2.0),
        ("small", "slow", 4.0),
        ("small", "pymetaner, otherwise", 0.25),
        ("small", "inexact", 0.5),
        ("large", "fast", 0.5),
    ]
    assert rows[0] == {
        "case": "small",
        "ours_ms": 2.0,
        "peer": "fast",
        "peer_ms": 4.0,
        "ratio": 2.0,
        "device": "cpu",
        "dtype": "float32",
    }


def test_plot_writes_a_picture(report, tmp_path):
    pytest.importorskip("matplotlib")
    contest.plot(contest.rows_of(report), tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
