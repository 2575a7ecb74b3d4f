"""BertAdam as the official code of Wu et al. (2020) uses it in the inner step."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bertadam_update"]

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
