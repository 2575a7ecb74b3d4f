"""The token loss, forward and backward, against its formula in PyTorch, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.contest import OURS, measure
from pymetaner.ops import masked_token_loss, masked_token_loss_reference, masked_token_loss_with_gradient

LAMBDA_MAX = 2.0
Loss = Callable[[Tensor, Tensor, float], Tensor]


class Case(NamedTuple):
    sentences: int
    tokens: int
    classes: int
    quick: bool

    @property
    def name(self) -> str:
        return f"{self.sentences} x {self.tokens} x {self.classes}"


CASES = [
    Case(32, 64, 13, quick=True),
    Case(64, 128, 13, quick=True),
    Case(256, 128, 13, quick=False),
    Case(64, 128, 73, quick=False),
]


def in_torch(logits: Tensor, labels: Tensor, lambda_max: float) -> Tensor:
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    losses = losses.view(labels.shape)
    counts = (labels != -100).sum(1).clamp(min=1)
    return losses.sum(1) / counts + lambda_max * losses.max(1).values


@cache
def compiled() -> Loss:
    return torch.compile(in_torch)


ONE_PASS = "pymetaner, loss and gradient in one call"
CONTENDERS = (OURS, ONE_PASS, "torch, eager", "torch.compile", "pymetaner reference")


def function_of(contender: str) -> Loss:
    functions: dict[str, Callable[[], Loss]] = {
        OURS: lambda: masked_token_loss,
        "torch, eager": lambda: in_torch,
        "torch.compile": compiled,
        "pymetaner reference": lambda: masked_token_loss_reference,
    }
    return functions[contender]()


@cache
def inputs(case: Case) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(case.sentences, case.tokens, case.classes, generator=generator).requires_grad_()
    labels = torch.randint(0, case.classes, (case.sentences, case.tokens), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = -100
    return logits, labels


def forward_backward(function: Loss, case: Case) -> tuple[Tensor, Tensor]:
    logits, labels = inputs(case)
    loss = function(logits, labels, LAMBDA_MAX)
    (gradient,) = torch.autograd.grad(loss.mean(), logits)
    return loss.detach(), gradient


def one_pass(case: Case) -> tuple[Tensor, Tensor]:
    """What `forward_backward` does, for code that goes on from the logits itself."""
    logits, labels = inputs(case)
    loss, gradient = masked_token_loss_with_gradient(logits, labels, LAMBDA_MAX)
    return loss, gradient.mul_(1 / len(loss))


@cache
def expected(case: Case) -> tuple[Tensor, Tensor]:
    return forward_backward(masked_token_loss, case)


def test_loss(benchmark: Any, case: Case, contender: str) -> None:
    def check(answer: tuple[Tensor, Tensor]) -> None:
        torch.testing.assert_close(answer, expected(case), rtol=1e-5, atol=1e-6)

    if contender == ONE_PASS:
        run: Callable[[], tuple[Tensor, Tensor]] = lambda: one_pass(case)  # noqa: E731
    else:
        function = function_of(contender)
        run = lambda: forward_backward(function, case)  # noqa: E731
    measure(benchmark, case.name, contender, "float32", run, check)
