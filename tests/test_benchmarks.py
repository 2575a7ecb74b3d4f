"""The benchmark tool's arithmetic: from a pytest-benchmark report to rows, and from rows to a picture."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

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


class Benchmark:
    """What pytest-benchmark hands to a test, of calls that take some seconds each."""

    def __init__(self, seconds):
        self.extra_info, self.how = {}, None
        self.stats = SimpleNamespace(stats=SimpleNamespace(median=seconds))

    def __call__(self, function):
        self.how = "as long as it is told"
        return function()

    def pedantic(self, function):
        self.how = "once"
        return function()


@pytest.mark.parametrize(
    ("seconds", "turns"),
    [(0.01, ["as long as it is told"] * 5), (2.0, ["once"] * 5), (20.0, ["once", "once", None, None, None])],
)
def test_a_slow_contender_gets_fewer_rounds_and_its_answers_are_checked_all_the_same(monkeypatch, seconds, turns):
    clock = [0.0]

    def function():
        clock[0] += seconds
        return "answer"

    monkeypatch.setattr(contest, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    found, checked = [], []
    for turn in range(5):
        benchmark = Benchmark(seconds)
        checked.clear()
        try:
            contest.measure(benchmark, f"case of {seconds}", "peer", "float32", function, checked.append)
        except pytest.skip.Exception:
            assert turn > 1
        else:
            assert "answer" in checked
        found.append(benchmark.how)
    assert found == turns
