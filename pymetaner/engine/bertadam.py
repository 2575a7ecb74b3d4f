"""BertAdam as the official code of Wu et al. (2020) uses it in the inner step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["WEIGHT_DECAY", "bertadam_update", "first_step_", "steps_of"]

BETA1, BETA2, EPSILON, WEIGHT_DECAY, CLIP = 0.9, 0.999, 1e-6, 0.01, 1.0


def bertadam_update(
    name: str, weight: Tensor, gradient: Tensor, state: dict[str, tuple[Tensor, Tensor]], lr: float
) -> None:
    """Move one weight in place: Adam without bias correction, the gradient clipped tensor by tensor.

    The weight decay is decoupled, and there is none on biases and normalisation weights (every vector).

    Args:
        name: the weight's key in `state`.
        weight: the weight; changed.
        gradient: its gradient.
        state: first and second moments of earlier steps; empty at first, changed.
        lr: step size.
    """
    norm = torch.linalg.vector_norm(gradient)
    gradient = gradient * (CLIP / (norm + 1e-6)).clamp(max=1.0)
    first, second = state.get(name, (torch.zeros_like(weight), torch.zeros_like(weight)))
    first = BETA1 * first + (1 - BETA1) * gradient
    second = BETA2 * second + (1 - BETA2) * gradient * gradient
    state[name] = (first, second)
    update = first / (second.sqrt() + EPSILON)
    if weight.dim() > 1:
        update = update + WEIGHT_DECAY * weight
    weight -= lr * update


def first_step_(gradient: Tensor) -> Tensor:
    """What `steps_of` gives for a single step, in place of the gradient (b, ...): fewer passes over it.

    From zero moments, with a = 1 - BETA1, s = sqrt(1 - BETA2) and the gradient clipped by a factor c,
    u = a c g / (s c |g| + eps) = a / s * g / (|g| + eps / (s c)).
    """
    root = math.sqrt(1 - BETA2)
    floor = EPSILON / (root * _clip(gradient))
    return gradient.div_(gradient.abs().add_(floor)).mul_((1 - BETA1) / root)


def _clip(gradient: Tensor) -> Tensor:
    """(b, 1, ...) what each of b gradients is multiplied with, so that its norm is at most CLIP."""
    norm = torch.linalg.vector_norm(gradient, dim=tuple(range(1, gradient.dim())), keepdim=True)
    clip: Tensor = (CLIP / (norm + 1e-6)).clamp(max=1.0)
    return clip


def steps_of(gradients: Sequence[Tensor], decay: float | Tensor) -> Tensor:
    """(b, ...) what b weights have moved by, over -lr and their own decay, from their gradients step by step.

    With W_s = (1 - decay) W_(s-1) - lr u_s, the result D gives W_n = (1 - decay)^n W_0 - lr D. Differentiable, at
    gradients of 0 too.

    Args:
        gradients: (b, ...) of each step, first to last.
        decay: lr * weight decay.
    """
    first: Tensor | None = None
    second: Tensor | None = None
    total: Tensor | None = None
    for gradient in gradients:
        gradient = gradient * _clip(gradient)
        if first is None or second is None or total is None:
            # From zero moments the step is in closed form, and sqrt(v) = sqrt(1 - BETA2) |g| has a slope at 0.
            total = gradient * (1 - BETA1) / (gradient.abs() * math.sqrt(1 - BETA2) + EPSILON)
            if len(gradients) > 1:
                first, second = (1 - BETA1) * gradient, (1 - BETA2) * gradient * gradient
            continue
        first = BETA1 * first + (1 - BETA1) * gradient
        second = BETA2 * second + (1 - BETA2) * gradient * gradient
        root = second.clamp(min=torch.finfo(second.dtype).tiny).sqrt()
        total = total * (1 - decay) + first / (root + EPSILON)
    assert total is not None
    return total
