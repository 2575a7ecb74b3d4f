"""The native operations on CUDA tensors: `pymetaner._cuda`, imported when it is first needed.

Nothing here waits for the device: kernels run on PyTorch's current stream, in memory from PyTorch's allocator. So what
would need waiting is not checked: a vector that is not finite is never found, and a label that is neither a class nor
`ignore_index` makes its sentence's loss and gradient NaN.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType

import torch
from torch import Tensor

from pymetaner.errors import BackendError, InputError, SettingError

__all__ = ["EncodedRows", "cosine_topk", "encode", "extension", "masked_token_loss_with_gradient"]

_LOGITS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@cache
def extension() -> ModuleType:
    """The module `pymetaner._cuda`.

    Raises:
        BackendError: if it cannot be imported, with what to do.
    """
    try:
        return importlib.import_module("pymetaner._cuda")
    except ImportError as error:
        raise BackendError(
            f"pymetaner._cuda cannot be imported ({error}): it is built where nvcc is found. Put nvcc on the path and "
            "build again with\n    pip install --force-reinstall --no-deps --no-binary pymetaner pymetaner "
            "--config-settings=cmake.define.PYMETANER_CUDA=ON\nor leave tensors on CUDA to PyTorch: unset "
            "PYMETANER_BACKEND, or set it to reference"
        ) from None


@dataclass(frozen=True)
class EncodedRows:
    """Vectors on a device and what a search needs beside them, from `encode`.

    Attributes:
        rows: (N, d) float32, contiguous.
        norms: (N,) float64; -1 for a vector that is not finite.
        copy: (N rounded up, d rounded up) float16, unit vectors; NaN for those not finite and behind the last.
    """

    rows: Tensor
    norms: Tensor
    copy: Tensor

    @cached_property
    def pointers(self) -> tuple[int, int, int, int, int]:
        """What the extension takes for them."""
        return self.rows.data_ptr(), *self.rows.shape, self.norms.data_ptr(), self.copy.data_ptr()


def encode(rows: Tensor) -> EncodedRows:
    """Encodes vectors (N, d) of a floating dtype on a CUDA device; anything but float32 is converted to it first.

    Raises:
        BackendError: if `pymetaner._cuda` cannot be imported or launched.
        InputError: if they are not such a tensor.
    """
    module = extension()
    rows = _checked(rows, "rows")
    count, dim = rows.shape
    copy = (-(-count // module.tile) * module.tile, -(-dim // module.step) * module.step)
    norms = rows.new_empty(count, dtype=torch.float64)
    encoded = EncodedRows(rows, norms, rows.new_empty(copy, dtype=torch.float16))
    _launch(module.encode, rows, encoded.pointers)
    return encoded


def cosine_topk(
    queries: Tensor, bank: Tensor | EncodedRows, k: int, exclude: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) float32 and indices (Q, k) int64, as `pymetaner.ops.cosine_topk` gives them.

    For up to 4 queries two kernels, for more three, beside the one that encodes a bank that has not been encoded.

    Args:
        queries: (Q, d) on a CUDA device.
        bank: (N, d) there, or what `encode` made of it, which saves encoding it at each search.
        k: how many neighbours, 1 to 1,024.
        exclude: (Q,) int64 there, one index that each query may not find, -1 for none.

    Raises:
        BackendError: if `pymetaner._cuda` cannot be imported or launched.
        InputError: if shapes, dtypes or devices do not go together.
        SettingError: if k is not 1 to 1,024.
    """
    module = extension()
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= module.max_k:
        raise SettingError(f"k is {k!r}: expected 1 to {module.max_k} on CUDA")
    queries = _checked(queries, "queries")
    if not isinstance(bank, EncodedRows):
        bank = encode(bank)
    (count, dim), (size, bank_dim) = queries.shape, bank.rows.shape
    if dim != bank_dim or queries.device != bank.rows.device:
        raise InputError(
            f"queries of {dim} dimensions on {queries.device} for a bank of {bank_dim} on {bank.rows.device}: both "
            "must agree"
        )
    left_out = 0
    if exclude is not None:
        if exclude.dtype != torch.int64 or exclude.shape != queries.shape[:1]:
            given = f"{exclude.dtype} of shape {tuple(exclude.shape)}"
            raise InputError(f"exclude is {given}: expected int64, one per query")
        exclude = exclude.to(queries.device).contiguous()
        left_out = exclude.data_ptr()
    workspace = queries.new_empty(module.plan(count, size, dim)[-1], dtype=torch.uint8)
    scores, indices = queries.new_empty((count, k)), queries.new_empty((count, k), dtype=torch.int64)
    addresses = (workspace.data_ptr(), scores.data_ptr(), indices.data_ptr())
    _launch(module.cosine_topk, queries, queries.data_ptr(), count, bank.pointers, left_out, k, *addresses)
    return scores, indices


def masked_token_loss_with_gradient(
    logits: Tensor, labels: Tensor, lambda_max: float, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Losses (B,) and gradients (B, T, C), float32, of `pymetaner.ops.masked_token_loss`, from one kernel.

    Args:
        logits: (B, T, C) float32, bfloat16 or float16 on a CUDA device; C at most 1,024.
        labels: (B, T) int64 there.
        lambda_max: weight of the largest token loss.
        ignore_index: the label of tokens that are not counted.

    Raises:
        BackendError: if `pymetaner._cuda` cannot be imported or launched.
        InputError: if shapes, dtypes or devices do not go together.
    """
    module = extension()
    if not logits.is_cuda or logits.dtype not in _LOGITS or logits.ndim != 3 or not supports(logits):
        raise InputError(
            f"logits are {logits.dtype} of shape {tuple(logits.shape)} on {logits.device}: expected float32, bfloat16 "
            f"or float16 of shape (B, T, C), C 1 to {module.max_classes}, on a CUDA device"
        )
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:2] or labels.device != logits.device:
        raise InputError(f"labels are {labels.dtype} of shape {tuple(labels.shape)} on {labels.device}: one per token")
    logits, labels = logits.detach().contiguous(), labels.contiguous()
    loss = logits.new_empty(logits.shape[:1], dtype=torch.float32)
    gradient = logits.new_empty(logits.shape, dtype=torch.float32)
    given = (logits.data_ptr(), _LOGITS[logits.dtype], labels.data_ptr(), *logits.shape, lambda_max, ignore_index)
    _launch(module.masked_token_loss, logits, *given, loss.data_ptr(), gradient.data_ptr())
    return loss, gradient


def supports(logits: Tensor) -> bool:
    """Whether the loss kernel takes logits of this dtype and number of classes."""
    return logits.dtype in _LOGITS and 1 <= logits.shape[2] <= extension().max_classes


def _checked(rows: Tensor, name: str) -> Tensor:
    valid = isinstance(rows, Tensor) and rows.is_cuda and rows.ndim == 2 and rows.is_floating_point()
    if not valid or rows.shape[1] == 0:
        given = f"{rows.dtype} of shape {tuple(rows.shape)} on {rows.device}" if isinstance(rows, Tensor) else rows
        raise InputError(f"{name} are {given!s:.100}: expected floating point of shape (n, d), d > 0, on a CUDA device")
    return (rows.detach() if rows.requires_grad else rows).float().contiguous()


def _launch(function: Callable[..., None], tensor: Tensor, *arguments: object) -> None:
    """Calls a function of the extension for the tensor's device and PyTorch's current stream there."""
    index = tensor.get_device()
    if index != torch.cuda.current_device():
        with torch.cuda.device(index):
            return _launch(function, tensor, *arguments)
    try:
        # The number alone: a torch.cuda.Stream takes longer to make than the launch.
        function(*arguments, torch._C._cuda_getCurrentRawStream(index))
    except RuntimeError as error:
        raise BackendError(f"{error}: is this device one that pymetaner._cuda was built for?") from None
