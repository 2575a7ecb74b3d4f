"""Factors of supports, kept between calls: a support that is met again need not pass the network again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch

from pymetaner.errors import SettingError

if TYPE_CHECKING:
    from pymetaner.engine.batched.factors import WindowFactors

__all__ = ["FactorCache"]

DEFAULT_BYTES = 1 << 30


class FactorCache:
    """A bounded store that forgets what was used least recently.

    What it holds depends on weights and loss settings; engines name both as a `state`, and another state empties it.
    Threads may share one.

    Args:
        cache_bytes: the most bytes it holds; 0 keeps nothing.
        device: where to keep them; None leaves them where they were computed.
        dtype: as what to keep them, `torch.bfloat16` for half of the memory; None leaves them as they were computed.

    Raises:
        SettingError: for a negative size or a type that is not of floating point.

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
        if isinstance(cache_bytes, bool) or not isinstance(cache_bytes, int) or cache_bytes < 0:
            raise SettingError(f"cache_bytes={cache_bytes!r}: expected a whole number of bytes, 0 or more")
        if dtype is not None and not dtype.is_floating_point:
            raise SettingError(f"dtype={dtype}: expected a floating-point type, such as torch.bfloat16")
        self.cache_bytes = cache_bytes
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._state: Hashable = None
        self._entries: OrderedDict[Hashable, tuple[list[WindowFactors], int]] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"FactorCache({len(self)} supports, {self.nbytes:,} of {self.cache_bytes:,} bytes)"

    def __len__(self) -> int:
        return len(self._entries)

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
            entry = self._entries.get(key) if state == self._state else None
            if entry is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, state: Hashable, key: Hashable, factors: Sequence[WindowFactors]) -> list[WindowFactors]:
        """Keep a copy of the factors of a support's windows, if they fit, and give back what to use."""
        size = sum(
            tensor.numel() * (self.dtype or tensor.dtype).itemsize for window in factors for tensor in window.tensors()
        )
        if size > self.cache_bytes:
            return list(factors)
        kept = [window.to(self.device, self.dtype) for window in factors]
        with self._lock:
            if state != self._state:
                self._drop_all()
                self._state = state
            replaced = self._entries.pop(key, None)
            self._bytes += size - (replaced[1] if replaced else 0)
            self._entries[key] = (kept, size)
            while self._bytes > self.cache_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self._bytes -= freed
        return kept

    def _drop_all(self) -> None:
        self._entries.clear()
        self._bytes = 0
        self._state = None
