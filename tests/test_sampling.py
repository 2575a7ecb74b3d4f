"""Some of many, spread evenly: as many as may be, each once, in order."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pymetaner.sampling import spread


@pytest.mark.parametrize("count", [0, 1, 5, 99, 100, 101, 150, 199, 201, 5121])
@pytest.mark.parametrize("most", [1, 7, 100])
def test_as_many_as_may_be_evenly_spread(count, most):
    found = spread(range(count), most)
    assert len(found) == min(most, count) == len(set(found)) and found == sorted(found)
    gaps = [after - before for before, after in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert found[:1] == list(range(min(1, count)))
