from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pymetaner.memory.bank import Bank


def rows(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.float32)[:, None] * np.ones(3, np.float32)


@given(st.lists(st.one_of(st.integers(0, 100), st.sets(st.integers(1, 200))), max_size=12))
def test_any_appends_and_removals(steps: list[int | set[int]]) -> None:
    """A number appends so many rows, a set keeps only those ids."""
    bank, expected, last = Bank(3), [], 0
    snapshots = []
    for step in steps:
        if isinstance(step, int):
            new = list(range(last + 1, last + 1 + step))
            last += step
            bank.append(np.array(new, np.int64), rows(new))
            expected = expected + new
        else:
            bank = bank.kept(np.array(sorted(step), np.int64))
            expected = [key for key in expected if key in step]
        assert bank.ids.tolist() == expected and len(bank) == len(expected)
        assert bank.last == (expected[-1] if expected else 0)
        assert [key for key in range(-1, last + 3) if key in bank] == expected
        snapshots.append((bank.ids, bank.vectors, expected))
    for ids, vectors, then in snapshots:
        assert ids.tolist() == then
        np.testing.assert_array_equal(vectors, rows(then).reshape(-1, 3))


def test_one_by_one_rows_are_seldom_moved() -> None:
    bank, moves, place = Bank(4), 0, None
    for i in range(1, 10_001):
        bank.append(np.array([i]), np.zeros((1, 4), np.float32))
        here = bank.vectors.__array_interface__["data"][0]
        moves, place = moves + (here != place), here
    assert moves <= 9
    assert bank.vectors.flags.c_contiguous
