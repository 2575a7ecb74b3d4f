"""Weights in a small form: 4 bits where that is exact, 16 where it is not.

A matrix whose every block of 32 consecutive values is `(n - 8) * scale` with integers n in 0..15 and a float16 scale
(what a 4-bit encoder unpacks to, and what its frozen layers still are after training) goes back into 4.5 bits a value
without loss, but for the sign of a zero. Other matrices are stored as float16 (relative error at most 2^-11 in
float16's normal range), or as float32 where float16 would overflow. Vectors, which are few, stay float32, so the frozen
layers of a 4-bit encoder, and the sentence vectors that they make, come out as they went in.

Layout of a 4-bit matrix ``name``: ``name.q4`` uint8 (blocks, 16), low nibbles first, and ``name.scale`` float16
(blocks,); the shape is in the file's metadata under ``shapes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

__all__ = ["pack_tensors", "unpack_file"]

BLOCK = 32


def pack_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Packed tensors and the metadata of their safetensors file, whole numbers as they are."""
    packed: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        shapes[name] = list(tensor.shape)
        if not tensor.is_floating_point() or not tensor.numel():
            packed[name] = tensor.detach().to("cpu").contiguous()
            continue
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        blocks = _four_bits(values.numpy()) if values.dim() == 2 and values.numel() % BLOCK == 0 else None
        if blocks is not None:
            packed[f"{name}.q4"], packed[f"{name}.scale"] = map(torch.from_numpy, blocks)
        elif values.dim() > 1 and values.abs().max() < torch.finfo(torch.float16).max:
            packed[name] = values.to(torch.float16)
        else:
            packed[name] = values
    return packed, {"format": "pt", "shapes": json.dumps(shapes)}


def _four_bits(matrix: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]] | None:
    """Nibbles and scales that give the matrix back exactly, or None if there are none."""
    blocks = matrix.reshape(-1, BLOCK)
    largest = np.abs(blocks).max(axis=1)
    if not np.isfinite(largest).all():
        return None
    scale = np.zeros(len(blocks), dtype=np.float32)
    open_rows = np.flatnonzero(largest > 0)
    # The largest value of a block is m * scale for some m in 1..8 (up to sign): try each.
    for m in range(8, 0, -1):
        if not len(open_rows):
            break
        with np.errstate(over="ignore"):
            candidate = (largest[open_rows] / np.float32(m)).astype(np.float16).astype(np.float32)
        usable = (candidate > 0) & np.isfinite(candidate)
        steps = np.rint(blocks[open_rows] / np.where(usable, candidate, 1)[:, None])
        exact = usable & (steps * candidate[:, None] == blocks[open_rows]).all(axis=1)
        exact &= np.abs(steps).max(axis=1) <= 8  # a scale near 0 is rounded coarsely
        # Nibbles reach from -8 to 7, so a block whose largest value is +8 steps takes the scale with its sign turned.
        turned = exact & (steps.max(axis=1) > 7)
        exact &= ~(turned & (steps.min(axis=1) < -7))
        scale[open_rows[exact]] = np.where(turned, -candidate, candidate)[exact]
        open_rows = open_rows[~exact]
        if m == 8 and len(open_rows) > 0.99 * len(blocks) and len(blocks) > 1000:
            sample = open_rows[:1000]  # trained weights fit no grid: find out on a few blocks
            if _four_bits(np.ascontiguousarray(blocks[sample])) is None:
                return None
    if len(open_rows):
        return None
    steps = np.divide(blocks, scale[:, None], out=np.zeros_like(blocks), where=scale[:, None] != 0)
    nibbles = (np.rint(steps) + 8).astype(np.uint8)
    return (nibbles[:, :16] | (nibbles[:, 16:] << 4)).astype(np.uint8), scale.astype(np.float16)


def unpack_file(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a packed safetensors file, float32 where they are not whole numbers."""
    tensors: dict[str, Tensor] = {}
    with safe_open(str(path), framework="pt") as file:
        names = set(file.keys())
        for name, shape in json.loads(file.metadata()["shapes"]).items():
            if f"{name}.q4" in names:
                nibbles = file.get_tensor(f"{name}.q4")
                scale = file.get_tensor(f"{name}.scale").to(torch.float32)
                steps = torch.cat([nibbles & 15, nibbles >> 4], dim=1).to(torch.float32).sub_(8)
                tensors[name] = steps.mul_(scale[:, None]).view(shape)
            else:
                tensor = file.get_tensor(name)
                tensors[name] = (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).view(shape)
    return tensors
