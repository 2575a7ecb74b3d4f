"""Lays out a group: every case, several turns, and in each turn every contender, so that slow phases hit all alike.

A module may say how many: `TURNS`.
"""

from __future__ import annotations

import pytest

TURNS = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only the cases marked quick")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module
    quick = metafunc.config.getoption("--quick")
    runs = [
        pytest.param(case, contender, id=f"{case.name} {contender} {turn}")
        for case in module.CASES
        if case.quick or not quick
        for turn in range(getattr(module, "TURNS", TURNS))
        for contender in module.CONTENDERS
    ]
    metafunc.parametrize(("case", "contender"), runs)
