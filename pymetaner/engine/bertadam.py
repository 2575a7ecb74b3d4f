"""BertAdam as the official code of Wu et al. (2020) uses it: Adam without bias correction, clipped tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["WEIGHT_DECAY", "BertAdam", "bertadam_update", "first_step_", "steps_of", "steps_of_", "zero_moments"]

BETA1, BETA2, EPSILON, WEIGHT_DECAY, CLIP = 0.9, 0.999, 1e-6, 0.01, 1.0
_LATE = 1e9  # a step number for which 1 - BETA ** step is 1


def _roomy(tensor: Tensor) -> Tensor:
    """The tensor in a type that has room for squares of gradients, most of which would be 0 in float16."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def zero_moments(weight: Tensor) -> tuple[Tensor, Tensor]:
    """First and second moment of a weight before its first step, laid out as it is; float32 if it is float16."""
    return torch.zeros_like(_roomy(weight)), torch.zeros_like(_roomy(weight))


def bertadam_update(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    lr: float,
    *,
    weight_decay: float = WEIGHT_DECAY,
    clip: float = CLIP,
    step: int | None = None,
) -> Tensor:
    """Move one weight in place; gives the norm that its gradient had, which is not finite if that is not.

    The weight decay is decoupled, and there is none on biases and normalisation weights (every vector). It is a step of
    PyTorch's AdamW, whose fused form goes once over the four tensors, at a step number so high that its correction of
    the moments is 1.

    Args:
        weight: the weight; changed.
        gradient: its gradient; clipped in place.
        first: first moment of earlier steps, at first as `zero_moments` gives it; changed.
        second: second moment, likewise.
        lr: step size.
        weight_decay: 0 or more.
        clip: largest norm of the gradient.
        step: the number of this step, from 1, if moments are to be kept as means, m / (1 - BETA1^step) and
            v / (1 - BETA2^step). The first step then ignores what the moments hold (any finite numbers), so they need
            not be set to 0 for a new run of steps. None: moments as the official code keeps them.
    """
    if weight.dtype != first.dtype:  # the weight is float16
        moved = weight.to(first.dtype)
        gradient = gradient.to(first.dtype)
        found = bertadam_update(moved, gradient, first, second, lr, weight_decay=weight_decay, clip=clip, step=step)
        weight.copy_(moved)
        return found
    beta1, beta2, epsilon = BETA1, BETA2, EPSILON
    if step is not None:
        of_first, of_second = 1 - BETA1**step, 1 - BETA2**step
        beta1, beta2 = 1 - (1 - BETA1) / of_first, 1 - (1 - BETA2) / of_second
        # lr m / (sqrt(v) + eps), written with the means
        scale = of_first / math.sqrt(of_second)
        lr, weight_decay, epsilon = lr * scale, weight_decay / scale, EPSILON / math.sqrt(of_second)
    norm: Tensor = torch.linalg.vector_norm(gradient)
    factor = clip / (norm + 1e-6)
    if gradient.device.type != "cpu" or factor < 1:  # to look at it makes a GPU wait, and spares a CPU a pass
        gradient.mul_(factor.clamp(max=1.0))
    # The fused step takes it for granted that numbers of one place lie at one offset.
    alike = weight.stride() == gradient.stride() == first.stride() == second.stride()
    adamw(
        [weight],
        [gradient],
        [first],
        [second],
        [],
        [torch.full((), _LATE, device=weight.device)],
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=weight_decay if weight.dim() > 1 else 0.0,
        eps=epsilon,
        maximize=False,
        foreach=False,
        fused=alike,
    )
    return norm


class BertAdam(torch.optim.Optimizer):
    """BertAdam over all steps of a run.

    Args:
        params: parameters, or groups of them, as for every optimiser; a group may have a `weight_decay` of its own.
        lr: step size.
        weight_decay: decoupled, for matrices only.
        clip: largest norm of the gradient of each tensor.

    Example:
        >>> optimizer = BertAdam([torch.nn.Parameter(torch.ones(2, 2))], lr=3e-5)
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, weight_decay: float = WEIGHT_DECAY, clip: float = CLIP
    ) -> None:
        # `fused` as torch's own optimisers say it: what the step moves does not count as changed by itself.
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "clip": clip, "fused": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient, which is clipped in place."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = zero_moments(parameter)
                bertadam_update(
                    parameter,
                    parameter.grad,
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    group["lr"],
                    weight_decay=group["weight_decay"],
                    clip=group["clip"],
                )


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
    gradients of 0 too. In float32 for float16 gradients.

    Args:
        gradients: (b, ...) of each step, first to last.
        decay: lr * weight decay.
    """
    first: Tensor | None = None
    second: Tensor | None = None
    total: Tensor | None = None
    for gradient in map(_roomy, gradients):
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


def steps_of_(gradients: Sequence[Tensor], decay: float) -> Tensor:
    """The same as `steps_of` in place of the gradients, not differentiable: fewer passes over them, fewer copies."""
    if len(gradients) == 1:
        return first_step_(gradients[0])
    gradients = [_roomy(gradient) for gradient in gradients]
    first = gradients[0] * (_clip(gradients[0]) * (1 - BETA1))
    second = (first * first).mul_((1 - BETA2) / (1 - BETA1) ** 2)
    total = first_step_(gradients[0])
    for gradient in gradients[1:]:
        gradient.mul_(_clip(gradient))
        first.mul_(BETA1).add_(gradient, alpha=1 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        torch.sqrt(second, out=gradient)
        total.mul_(1 - decay).addcdiv_(first, gradient.add_(EPSILON))
    return total
