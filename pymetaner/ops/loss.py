"""The token loss of Wu et al. (AAAI 2020), equation 4 onwards, on the native kernel or in PyTorch."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pymetaner.errors import InputError, SettingError
from pymetaner.ops import cuda
from pymetaner.ops.backends import extension, plain, runs_natively, transformed

__all__ = ["masked_token_loss", "masked_token_loss_reference", "masked_token_loss_with_gradient"]


_LARGEST = sys.float_info.max  # an int may be larger
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def masked_token_loss(
    logits: Tensor,
    labels: Tensor,
    lambda_max: float,
    ignore_index: int = -100,
    sentence_weights: Tensor | None = None,
) -> Tensor:
    """The loss of each sentence, (B,): mean cross-entropy of its counted tokens + lambda_max * the largest of them.

    Of equal largest tokens the first takes the gradient. A sentence without a counted token has loss 0 and no
    gradient. The result is float64 for float64 logits, float32 for all others. Differentiable twice.

    Args:
        logits: (B, T, C) of a floating dtype.
        labels: (B, T) int64 on the same device: a class from 0 to C - 1, or `ignore_index`.
        lambda_max: weight of the largest token loss, 0 or more (2.0 in the paper's training).
        ignore_index: the label of tokens that are not counted.
        sentence_weights: (B,), what each sentence's loss is multiplied with.

    Raises:
        InputError: if shapes, dtypes or devices do not go together, or a label is neither a class nor `ignore_index`.
        SettingError: if lambda_max is negative or not finite, or ignore_index is not a whole number.

    Source: Wu et al., *Enhanced Meta-Learning for Cross-lingual NER with Minimal Resources*, AAAI 2020.

    Example:
        >>> logits = torch.zeros(1, 3, 2)
        >>> masked_token_loss(logits, torch.tensor([[0, 1, -100]]), lambda_max=1.0)
        tensor([1.3863])
    """
    _check(logits, labels, lambda_max, ignore_index, sentence_weights)
    if _native(logits) and not transformed():
        arguments = (logits, labels, float(lambda_max), ignore_index)
        if plain(logits):
            loss, _ = _run(*arguments)
        elif torch.compiler.is_compiling():
            loss, _ = torch.ops.pymetaner.masked_token_loss(*arguments)
        else:
            loss, _ = _MaskedTokenLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    else:
        loss = _reference(logits, labels, lambda_max, ignore_index)
    return _weighted(loss, sentence_weights)


def masked_token_loss_reference(
    logits: Tensor,
    labels: Tensor,
    lambda_max: float,
    ignore_index: int = -100,
    sentence_weights: Tensor | None = None,
) -> Tensor:
    """The same as `masked_token_loss` in plain PyTorch, on any device, differentiable any number of times."""
    _check(logits, labels, lambda_max, ignore_index, sentence_weights)
    return _weighted(_reference(logits, labels, lambda_max, ignore_index), sentence_weights)


def masked_token_loss_with_gradient(
    logits: Tensor, labels: Tensor, lambda_max: float, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """The losses (B,) of `masked_token_loss`, and the gradient (B, T, C) of each with respect to its own logits.

    For code that goes on from the logits by itself, ``logits.backward(weights[:, None, None] * gradient)``: one pass,
    without what autograd costs. Both are float64 for float64 logits, float32 for all others, and carry no graph.

    Arguments and errors are those of `masked_token_loss`.

    Example:
        >>> logits = torch.zeros(1, 3, 2)
        >>> loss, gradient = masked_token_loss_with_gradient(logits, torch.tensor([[0, 1, -100]]), lambda_max=1.0)
        >>> gradient[0, 1]
        tensor([ 0.2500, -0.2500])
    """
    _check(logits, labels, lambda_max, ignore_index, None)
    return _run(logits.detach(), labels, float(lambda_max), ignore_index)


def _reference(logits: Tensor, labels: Tensor, lambda_max: float, ignore_index: int) -> Tensor:
    _check_labels(labels, logits.shape[2], ignore_index)
    _, _, losses, weights = _tokens(logits, labels, lambda_max, ignore_index)
    return (losses * weights).sum(1)


def _tokens(
    logits: Tensor, labels: Tensor, lambda_max: float, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities (B, T, C), classes, losses and weights (B, T): the loss of a sentence is sum(losses * weights).

    Tokens that are not counted have uniform probabilities, class 0, loss 0 and weight 0, whatever their logits are.
    """
    counted = labels != ignore_index
    log_probabilities = functional.log_softmax(_widened(logits).masked_fill(~counted[..., None], 0.0), dim=-1)
    classes = labels.masked_fill(~counted, 0)
    losses = -log_probabilities.gather(2, classes[..., None]).squeeze(2).masked_fill(~counted, 0.0)
    weights = counted / counted.sum(1, keepdim=True).clamp(min=1).to(losses.dtype)
    if labels.shape[1] > 0:
        largest = losses.detach().masked_fill(~counted, -torch.inf).argmax(1, keepdim=True)
        weights = weights.scatter_add(1, largest, lambda_max * counted.gather(1, largest).to(losses.dtype))
    return log_probabilities, classes, losses, weights


def _widened(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _weighted(loss: Tensor, sentence_weights: Tensor | None) -> Tensor:
    return loss if sentence_weights is None else loss * sentence_weights.to(loss.dtype)


def _check(logits: object, labels: object, lambda_max: object, ignore_index: object, sentence_weights: object) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[2] == 0 or not logits.is_floating_point():
        raise InputError(f"logits are {_describe(logits)}: expected floating point of shape (B, T, C), C at least 1")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != logits.shape[:2]:
        raise InputError(
            f"labels are {_describe(labels)}: expected torch.int64 of shape {tuple(logits.shape[:2])}, one per token"
        )
    if labels.device != logits.device:
        raise InputError(f"logits are on {logits.device} and labels on {labels.device}: move one to the other")
    if isinstance(lambda_max, bool) or not isinstance(lambda_max, (int, float)) or not 0 <= lambda_max <= _LARGEST:
        raise SettingError(f"lambda_max is {lambda_max!r}: expected a finite number, 0 or more")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int) or not -(2**63) <= ignore_index < 2**63:
        raise SettingError(f"ignore_index is {ignore_index!r}: expected a whole number of 64 bits")
    if sentence_weights is None:
        return
    if not isinstance(sentence_weights, Tensor) or sentence_weights.shape != logits.shape[:1]:
        raise InputError(
            f"sentence_weights are {_describe(sentence_weights)}: expected a tensor of shape ({logits.shape[0]},), "
            "one per sentence"
        )
    if sentence_weights.device != logits.device:
        raise InputError(
            f"logits are on {logits.device} and sentence_weights on {sentence_weights.device}: move one to the other"
        )


def _describe(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.100}"


def _check_labels(labels: Tensor, classes: int, ignore_index: int) -> None:
    if torch.compiler.is_compiling():  # what the labels hold is not known while tracing
        return
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= classes))
    try:
        found = bool(wrong.any())
    except RuntimeError:  # under vmap nobody may look
        return
    if found:
        sentence, token = wrong.nonzero()[0].tolist()
        raise InputError(
            f"labels[{sentence}, {token}] is {int(labels[sentence, token])}: expected a class from 0 to {classes - 1}, "
            f"or ignore_index ({ignore_index})"
        )


def _native(logits: Tensor) -> bool:
    return logits.dtype in _DTYPES and runs_natively(logits) and (not logits.is_cuda or cuda.supports(logits))


def _run(logits: Tensor, labels: Tensor, lambda_max: float, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Losses (B,) and the gradient of each with respect to its own logits (B, T, C), in one pass."""
    if _native(logits) and logits.is_cuda:
        return cuda.masked_token_loss_with_gradient(logits, labels, lambda_max, ignore_index)
    if _native(logits):
        if logits.requires_grad:
            logits = logits.detach()
        if logits.dtype == torch.bfloat16:
            logits = logits.view(torch.int16)  # NumPy has no bfloat16; the extension takes its bits for it
        arrays = [x.contiguous().numpy() for x in (logits, labels)]
        try:
            loss, gradient = extension().masked_token_loss(*arrays, lambda_max, ignore_index, torch.get_num_threads())
        except ValueError as error:
            raise InputError(str(error)) from None
        return torch.from_numpy(loss), torch.from_numpy(gradient)
    _check_labels(labels, logits.shape[2], ignore_index)
    log_probabilities, classes, losses, weights = _tokens(logits, labels, lambda_max, ignore_index)
    gradient = log_probabilities.exp()
    gradient.scatter_add_(2, classes[..., None], -torch.ones_like(gradient[..., :1]))
    return (losses * weights).sum(1), gradient * weights[..., None]


_op = torch.library.custom_op(
    "pymetaner::masked_token_loss",
    _run,
    mutates_args=(),
    schema="(Tensor logits, Tensor labels, float lambda_max, int ignore_index=-100) -> (Tensor, Tensor)",
)


@_op.register_fake
def _(logits: Tensor, labels: Tensor, lambda_max: float, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    gradient = torch.empty_like(logits, dtype=dtype, memory_format=torch.contiguous_format)
    return logits.new_empty(logits.shape[:1], dtype=dtype), gradient


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, labels, ctx.lambda_max, ctx.ignore_index = inputs
    ctx.save_for_backward(logits, labels, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, grad_gradient: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    logits, labels, gradient = ctx.saved_tensors
    to_logits = None if grad is None else grad[:, None, None] * gradient
    if grad_gradient is not None:  # the second derivative, which the kernel does not give
        to_logits = (0 if to_logits is None else to_logits) + _second(ctx, logits, labels, grad_gradient)
    return None if to_logits is None else to_logits.to(logits.dtype), None, None, None


def _second(ctx: Any, logits: Tensor, labels: Tensor, grad_gradient: Tensor) -> Tensor:
    """grad_gradient times the Hessian: weight * (p * v - p * sum(p * v)) for each token, p the probabilities."""
    log_probabilities, _, _, weights = _tokens(logits, labels, ctx.lambda_max, ctx.ignore_index)
    p = log_probabilities.exp()
    pv = p * grad_gradient
    return weights[..., None] * (pv - p * pv.sum(-1, keepdim=True))


_op.register_autograd(_backward, setup_context=_setup_context)


class _MaskedTokenLoss(torch.autograd.Function):
    """The operator for eager code: its registration with autograd takes longer than the kernel.

    For the same reason the context is set up in `forward`: a `setup_context` has its arguments bound by inspection at
    each call.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _run(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(_backward)
