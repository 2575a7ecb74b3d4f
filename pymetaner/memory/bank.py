"""The vectors of a memory in RAM: one contiguous float32 array, ready for the top-k kernel."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bank"]

Item = TypeVar("Item", bound=np.generic)


class Bank:
    """Unit vectors and their ids, ascending by id.

    `ids` and `vectors` are snapshots: an append writes only behind them, a removal copies what stays. So a search may
    go on reading them without a lock while the bank changes.

    Args:
        dim: the length of a vector.

    Example:
        >>> bank = Bank(2)
        >>> bank.append(np.array([3, 7]), np.array([[1, 0], [0, 1]], np.float32))
        >>> bank.keep(np.array([7]))
        >>> bank.ids, bank.vectors
        (array([7]), array([[0., 1.]], dtype=float32))
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._count = 0
        self._ids = np.empty(0, np.int64)
        self._vectors = np.empty((0, dim), np.float32)

    def __len__(self) -> int:
        return self._count

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids (N,), ascending; a read-only view."""
        return _read_only(self._ids[: self._count])

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors (N, dim), in the order of `ids`; a read-only view."""
        return _read_only(self._vectors[: self._count])

    @property
    def last(self) -> int:
        """The largest id, 0 if there is none."""
        return int(self._ids[self._count - 1]) if self._count else 0

    def __contains__(self, key: int) -> bool:
        row = int(np.searchsorted(self._ids[: self._count], key))
        return row < self._count and int(self._ids[row]) == key

    def append(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds rows behind the others; the ids must ascend and be larger than `last`."""
        count = self._count + len(ids)
        if count > len(self._ids):
            self._move(np.arange(self._count), count)
        self._ids[self._count : count] = ids
        self._vectors[self._count : count] = vectors
        self._count = count  # last: whoever reads without the lock sees only complete rows

    def keep(self, ids: NDArray[np.int64]) -> None:
        """Drops every row whose id is not among `ids`."""
        rows = np.flatnonzero(np.isin(self._ids[: self._count], ids))
        self._move(rows, len(rows))
        self._count = len(rows)

    def _move(self, rows: NDArray[np.intp], count: int) -> None:
        """Copies rows into new arrays with room for `count` or more: a power of two, so appends cost O(1) amortised."""
        capacity = max(64, 1 << max(count - 1, 0).bit_length())
        ids, vectors = np.empty(capacity, np.int64), np.empty((capacity, self.dim), np.float32)
        np.take(self._ids, rows, out=ids[: len(rows)], mode="clip")  # without a mode NumPy copies twice
        np.take(self._vectors, rows, axis=0, out=vectors[: len(rows)], mode="clip")
        self._ids, self._vectors = ids, vectors


def _read_only(view: NDArray[Item]) -> NDArray[Item]:
    view.flags.writeable = False
    return view
