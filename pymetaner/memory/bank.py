"""The vectors of a memory in RAM, ready for the top-k kernel, and their ids."""

from __future__ import annotations

import operator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pymetaner.errors import InputError
from pymetaner.ops import CosineBank

__all__ = ["Bank", "as_id"]

Item = TypeVar("Item", bound=np.generic)


class Bank:
    """Unit vectors and their ids, ascending by id.

    `ids`, `vectors` and `rows` are snapshots: an append writes only behind them. So a search may go on reading them
    without a lock while the bank grows.

    Args:
        dim: the length of a vector.

    Example:
        >>> bank = Bank(2)
        >>> bank.append(np.array([3, 7]), np.array([[1, 0], [0, 1]], np.float32))
        >>> bank = bank.kept(np.array([7]))
        >>> bank.ids, bank.vectors
        (array([7]), array([[0., 1.]], dtype=float32))
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._ids = np.empty(0, np.int64)
        self._rows = CosineBank(max(dim, 1))  # before a memory knows its encoder there are no dimensions, and no rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids (N,), ascending; a read-only view."""
        return _read_only(self._ids[: len(self)])

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors (N, dim), in the order of `ids`; a read-only view."""
        return self._rows.vectors[:, : self.dim]

    @property
    def rows(self) -> CosineBank:
        """The vectors with what a search needs beside them; a snapshot."""
        return self._rows.snapshot()

    @property
    def last(self) -> int:
        """The largest id, 0 if there is none."""
        return int(self._ids[len(self) - 1]) if len(self) else 0

    def __contains__(self, key: int) -> bool:
        if not 0 < key <= self.last:
            return False  # not for numpy, which has no integers of any size
        row = int(np.searchsorted(self._ids[: len(self)], key))
        return row < len(self) and int(self._ids[row]) == key

    def append(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds rows behind the others; the ids must ascend and be larger than `last`."""
        count = len(self) + len(ids)
        if count > len(self._ids):
            # Twice the room of before, so that appends cost O(1) amortised.
            grown = np.empty(max(64, 1 << max(count - 1, 0).bit_length()), np.int64)
            grown[: len(self)] = self._ids[: len(self)]
            self._ids = grown
        self._ids[len(self) : count] = ids
        self._rows.append(vectors)  # last: whoever reads without the lock sees only complete rows

    def kept(self, ids: NDArray[np.int64]) -> Bank:
        """A bank of the rows whose id is among `ids`."""
        rows = np.flatnonzero(np.isin(self._ids[: len(self)], ids))
        bank = Bank(self.dim)
        bank._ids, bank._rows = self._ids[rows], self.rows
        bank._rows.keep(rows)
        return bank


def as_id(key: Any) -> int:
    """The id that an integer of any kind is.

    Raises:
        InputError: if it is none: neither ``"2"`` nor 1.7 is an id.
    """
    try:
        return operator.index(key)
    except TypeError:
        raise InputError(f"{key!r} is not an id: expected a whole number, as `ids` and `add` give them") from None


def _read_only(view: NDArray[Item]) -> NDArray[Item]:
    view.flags.writeable = False
    return view
