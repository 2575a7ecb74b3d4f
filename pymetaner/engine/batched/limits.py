"""How much a batch may hold, so that any number of sentences passes in the same memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from pymetaner.engine.batched.factors import Layout
from pymetaner.engine.task import Computation
from pymetaner.errors import MemoryLimitError
from pymetaner.view import View

__all__ = ["Limits", "split_on_overflow"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MOST_PIECES = 4096  # of a pass: larger ones are no faster


@dataclass(frozen=True)
class Limits:
    """What fits.

    Attributes:
        queries: windows of queries in a block.
        piece: bytes of the factors of one support piece.
        block: bytes of factors in a block.
        pieces: pieces of a pass, padding included.
    """

    queries: int
    piece: int
    block: int
    pieces: int

    @classmethod
    def of(cls, view: View, layout: Layout, computation: Computation) -> Limits:
        """The limits of a network whose factors lie as the layout says."""
        weight = next(view.network.parameters())
        width = weight.itemsize if computation.precision != "bf16" else 2
        memory = computation.memory_bytes or _default_memory(weight.device)
        piece = max(1, sum(layout.widths) * width)
        # A half is for factors; a quarter for a pass that makes them, whose graph is about twice as large as they are.
        return cls(computation.batch_size, piece, memory // 2, max(1, min(_MOST_PIECES, memory // 4 // (3 * piece))))

    def check(self, needed: int, supports: int) -> None:
        """Raise MemoryLimitError if the factors of one task are more than a block may hold."""
        if needed > self.block:
            raise MemoryLimitError(
                f"one sentence with its {supports} supports needs {needed / 1e9:.2f} GB, more than the "
                f"{self.block / 1e9:.2f} GB for it: give fewer or shorter supports (k=), more memory (memory_bytes=), "
                "precision='bf16', or engine='reference'"
            )


def split_on_overflow(run: Callable[[Sequence[Item]], Answer], items: Sequence[Item]) -> Iterator[Answer]:
    """What `run` gives for the items: all at once, or in halves where the memory does not suffice.

    Raises:
        MemoryLimitError: if it does not suffice for one item.
    """
    try:
        answer = run(items)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_overflow(error):
            raise
        if len(items) == 1:
            raise MemoryLimitError(
                f"one sentence does not fit into memory ({str(error).splitlines()[0]}): give fewer or shorter supports "
                "(k=), precision='bf16', or engine='reference'"
            ) from error
    else:
        yield answer
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    yield from split_on_overflow(run, items[:middle])
    yield from split_on_overflow(run, items[middle:])


def _is_overflow(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _default_memory(device: torch.device) -> int:
    """Half of what is free on a GPU; a quarter of the machine's, or of what the process may have of it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 33
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            memory = min(memory, int(Path(file).read_text()))
        except (OSError, ValueError):  # no such limit
            continue
    return memory // 4
