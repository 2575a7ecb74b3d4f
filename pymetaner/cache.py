"""Factors of supports, kept between calls: a support that is met again need not pass the network again."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch

from pymetaner.checks import floating, present_device, whole
from pymetaner.forks import ForkSafe

if TYPE_CHECKING:
    from pymetaner.engine.batched.factors import WindowFactors

__all__ = ["FactorCache"]

DEFAULT_BYTES = 1 << 30
Key = TypeVar("Key", bound=Hashable)


class FactorCache(ForkSafe):
    """A bounded store that forgets what was used least recently.

    What it holds depends on weights and loss settings; engines name both as a `state`, and another state empties it.
    Threads may share one.

    Args:
        cache_bytes: the most bytes it holds; 0 keeps nothing.
        device: where to keep them; None leaves them where they were computed.
        dtype: as what to keep them, `torch.bfloat16` for half of the memory; None leaves them as they were computed.

    Raises:
        SettingError: for a negative size, an unknown or missing device, or a type that is not of floating point.

    Example:
        >>> model.cache = FactorCache(cache_bytes=2**28, dtype=torch.bfloat16)  # doctest: +SKIP
    """

    def __init__(
        self,
        cache_bytes: int = DEFAULT_BYTES,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.cache_bytes = whole("cache_bytes", cache_bytes)
        self.device = None if device is None else present_device("device", device)
        self.dtype = None if dtype is None else floating("dtype", dtype)
        self.hits = 0
        self.misses = 0
        super().__init__()
        self._state: Hashable = None
        self._entries: OrderedDict[Hashable, list[WindowFactors]] = OrderedDict()
        self._users: Counter[int] = Counter()  # windows kept of each batch that passed together
        self._bytes = 0

    def __repr__(self) -> str:
        return f"FactorCache({len(self)} supports, {self.nbytes:,} of {self.cache_bytes:,} bytes)"

    def __len__(self) -> int:
        return len(self._entries)

    def __deepcopy__(self, memo: dict[int, object]) -> FactorCache:
        """An empty one of the same size: what a cache holds is never part of a model's copy."""
        return FactorCache(self.cache_bytes, device=self.device, dtype=self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._drop_all()

    def get(self, state: Hashable, key: Hashable) -> list[WindowFactors] | None:
        """The factors of a support's windows, or None if they are not here, or were made in another state."""
        with self._lock:
            windows = self._entries.get(key) if state == self._state else None
            if windows is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return windows

    def put(self, state: Hashable, supports: Mapping[Key, Sequence[WindowFactors]]) -> dict[Key, list[WindowFactors]]:
        """Keep the factors of some supports' windows, as far as they fit, and give back what to use instead."""
        whole = {id(w.batch): w.batch for windows in supports.values() for w in windows}
        moved = {known: batch.to(self.device, self.dtype) for known, batch in whole.items()}
        kept = {
            key: [replace(window, batch=moved[id(window.batch)]) for window in windows]
            for key, windows in supports.items()
        }
        with self._lock:
            if state != self._state:
                self._drop_all()
            self._state = None  # until all is counted: what an interrupt leaves half done is dropped by the next call
            for key, windows in kept.items():
                if sum({id(w.batch): w.batch.nbytes for w in windows}.values()) > self.cache_bytes:
                    continue
                self._drop(key)
                self._entries[key] = windows
                self._count(windows, 1)
            while self._bytes > self.cache_bytes:
                self._drop(next(iter(self._entries)))
            self._state = state
        return kept

    def _count(self, windows: Sequence[WindowFactors], by: int) -> None:
        # Windows that passed together lie in the same tensors, which stay as long as one of them is kept.
        for window in windows:
            batch = window.batch
            before = self._users[id(batch)]
            self._users[id(batch)] += by
            if before == 0:
                self._bytes += batch.nbytes
            elif before + by == 0:
                self._bytes -= batch.nbytes
                del self._users[id(batch)]

    def _drop(self, key: Hashable) -> None:
        self._count(self._entries.pop(key, ()), -1)

    def _drop_all(self) -> None:
        self._state = None
        self._entries.clear()
        self._users.clear()
        self._bytes = 0
