"""The precisions that products are computed in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from pymetaner.errors import SettingError

__all__ = ["Precision", "check_precision", "computing_in"]

Precision = Literal["fp32", "tf32", "bf16"]


def check_precision(precision: str) -> None:
    """Raise SettingError unless it is one of `Precision`."""
    if precision not in get_args(Precision):
        raise SettingError(f"precision={precision!r}: expected one of {get_args(Precision)}")


@contextmanager
def computing_in(precision: Precision, network: torch.nn.Module) -> Iterator[None]:
    """While it lasts, products of the network are computed in that precision.

    ``"fp32"`` holds within a caller's autocast too. ``"tf32"`` is a setting of the whole process while it lasts,
    ``"bf16"`` is autocast, of this thread alone; weights stay what they are.

    Raises:
        SettingError: for tf32 without CUDA, or a precision that float64 or float16 weights do not go with.
    """
    weight = next(network.parameters())
    if precision == "fp32":
        with torch.autocast(weight.device.type, enabled=False):  # a caller's own would round what is kept for later
            yield
        return
    if weight.dtype in (torch.float64, torch.float16):
        kind = str(weight.dtype).removeprefix("torch.")
        raise SettingError(f"precision={precision!r} for a {kind} model: expected 'fp32', which leaves it in {kind}")
    if precision == "bf16":
        with torch.autocast(weight.device.type, torch.bfloat16):
            yield
        return
    if weight.device.type != "cuda":
        raise SettingError(f"precision='tf32' on {weight.device}: it is of CUDA devices; use 'fp32' or 'bf16'")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
