"""The token loss fused with the classifier before it: logits of a few sentences at a time, never of a whole batch.

For each part: logits = hidden W^T + b (the BLAS that PyTorch ships), loss and gradient from the kernel of
`masked_token_loss`, and at once what follows from them, d hidden = gradient W, d W = gradient^T hidden and d b; then
the part's logits are gone. A part has 2 MB of logits, which is where the products stop gaining.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pymetaner.errors import InputError
from pymetaner.ops.loss import masked_token_loss_with_gradient

__all__ = ["classifier_token_loss"]

_PART = {"cpu": 1 << 21, "cuda": 1 << 26}  # bytes of logits that are made at once


def classifier_token_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    lambda_max: float,
    ignore_index: int = -100,
    sentence_weights: Tensor | None = None,
) -> Tensor:
    """The summed loss of all sentences: `masked_token_loss` of ``hidden @ weight.T + bias``, each times its weight.

    A scalar, so that the gradients are known in the forward pass, and nothing of the size of the logits is kept for the
    backward pass. float64 for float64, float32 for all others. Differentiable once, in `hidden`, `weight` and `bias`.

    Args:
        hidden: (B, T, d) of a floating dtype: what the classifier reads.
        weight: (C, d) of the same dtype and device.
        bias: (C,), or None.
        labels: (B, T) int64 on the same device: a class from 0 to C - 1, or `ignore_index`.
        lambda_max: weight of the largest token loss, 0 or more.
        ignore_index: the label of tokens that are not counted.
        sentence_weights: (B,) what each sentence's loss is multiplied with, e.g. 1 / B; constants.

    Raises:
        InputError: if shapes, dtypes or devices do not go together, or (on the CPU) a label is out of range.
        SettingError: if lambda_max is negative or not finite.

    Example:
        >>> hidden, weight = torch.zeros(1, 2, 3), torch.zeros(2, 3)
        >>> classifier_token_loss(hidden, weight, None, torch.tensor([[0, 1]]), lambda_max=1.0)
        tensor(1.3863)
    """
    if hidden.ndim != 3 or weight.ndim != 2 or hidden.shape[2] != weight.shape[1]:
        raise InputError(
            f"hidden is {tuple(hidden.shape)} and weight {tuple(weight.shape)}: expected (B, T, d) and (C, d)"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"bias is {tuple(bias.shape)}: expected one number per class, ({len(weight)},)")
    tensors = [hidden, weight] if bias is None else [hidden, weight, bias]
    if len({(tensor.dtype, tensor.device) for tensor in tensors}) != 1:
        given = ", ".join(f"{tensor.dtype} on {tensor.device}" for tensor in tensors)
        raise InputError(f"hidden, weight and bias are {given}: expected one dtype on one device")
    if sentence_weights is None:
        sentence_weights = hidden.new_ones(len(hidden))
    if sentence_weights.shape != hidden.shape[:1] or sentence_weights.device != hidden.device:
        given = f"{tuple(sentence_weights.shape)} on {sentence_weights.device}"
        raise InputError(f"sentence_weights are {given}: expected {tuple(hidden.shape[:1])} on {hidden.device}")
    if labels.shape != hidden.shape[:2] or labels.device != hidden.device:
        given = f"{tuple(labels.shape)} on {labels.device}"
        raise InputError(f"labels are {given}: expected {tuple(hidden.shape[:2])} on {hidden.device}")
    arguments = (hidden, weight, bias, labels, lambda_max, ignore_index, sentence_weights.detach())
    loss: Tensor = _ClassifierTokenLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss


class _ClassifierTokenLoss(torch.autograd.Function):
    """Gradients in the forward pass; the backward pass multiplies them with the scalar that it is given."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        lambda_max: float,
        ignore_index: int,
        sentence_weights: Tensor,
    ) -> Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        weights = sentence_weights.to(wide)
        total = hidden.new_zeros((), dtype=wide)
        to_hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight, dtype=wide)
        to_bias = weight.new_zeros(len(weight), dtype=wide)
        bytes_each = max(1, labels.shape[1] * len(weight) * total.element_size())
        size = max(1, _PART.get(hidden.device.type, _PART["cpu"]) // bytes_each)
        for first in range(0, len(hidden), size):
            part = slice(first, first + size)
            logits = functional.linear(hidden[part], weight, bias)
            losses, gradient = masked_token_loss_with_gradient(logits, labels[part], lambda_max, ignore_index)
            total += losses @ weights[part]
            gradient *= weights[part, None, None]
            to_bias += gradient.sum((0, 1))
            narrow = gradient.to(hidden.dtype)
            to_weight += narrow.flatten(0, 1).T @ hidden[part].flatten(0, 1)
            if to_hidden is not None:
                torch.matmul(narrow, weight, out=to_hidden[part])
        ctx.save_for_backward(to_hidden, to_weight.to(weight.dtype), None if bias is None else to_bias.to(bias.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = list(ctx.saved_tensors)
        if grad.is_cuda or grad != 1:  # another pass over all of it; on CUDA asking would wait for the device
            found = [None if tensor is None else tensor * grad.to(tensor.dtype) for tensor in found]
        return (*found, None, None, None, None)
