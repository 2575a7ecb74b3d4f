"""Draws that a seed fixes: torch's own generators, which dropout draws from, lent for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeding"]


@contextmanager
def seeding(device: torch.device) -> Iterator[Callable[[int], None]]:
    """Gives a function that seeds the generators of the CPU and of a device; afterwards they are as they were.

    `torch.manual_seed` would seed those of every other GPU too. Devices that are neither CPU nor CUDA are not set back.
    """

    def seed(value: int) -> None:
        torch.default_generator.manual_seed(value)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(value)
        elif device.type != "cpu":
            torch.manual_seed(value)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield seed
