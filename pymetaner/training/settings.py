"""What a training run does."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from pymetaner.engine import InnerOptimizer, InnerStep, Precision
from pymetaner.errors import SettingError

__all__ = ["MetaSettings", "TrainSettings"]


@dataclass(frozen=True)
class TrainSettings:
    """What a training run does.

    Attributes:
        steps: optimiser steps, 1 or more.
        batch_size: windows (sentences, but for very long ones) a step.
        lr: peak learning rate of AdamW; linear warm-up, then linear decay to 0.
        warmup: share of the steps that warm up, 0 to 1.
        weight_decay: decoupled, none on biases and normalisation weights.
        clip: largest norm of the gradient.
        mask_probability: of replacing a piece with an entity tag by the mask piece, 0 to 1.
        lambda_max: weight of the largest token loss of each sentence.
        evaluate_every: steps between two looks at the dev set.
        checkpoint_every: steps between two checkpoints.
        seed: fixes batches, masks and dropout.
        precision: of products: ``"fp32"``, ``"tf32"`` (CUDA) or ``"bf16"``.
    """

    steps: int = 1200
    batch_size: int = 32
    lr: float = 3e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    mask_probability: float = 0.2
    lambda_max: float = 2.0
    evaluate_every: int = 300
    checkpoint_every: int = 100
    seed: int = 95
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise SettingError(f"precision={self.precision!r}: expected one of {', '.join(get_args(Precision))}")
        for name, value in asdict(self).items():
            if name == "precision":
                continue
            whole = name in ("steps", "batch_size", "evaluate_every", "checkpoint_every", "seed")
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise SettingError(f"{name}={value!r}: expected a {'whole ' if whole else ''}number")
            if whole and value < 1 and name != "seed":
                raise SettingError(f"{name}={value}: expected 1 or more")
            if name in ("lr", "clip") and not 0 < value < math.inf:
                raise SettingError(f"{name}={value}: expected a positive number")
            if name in ("warmup", "mask_probability") and not 0 <= value <= 1:
                raise SettingError(f"{name}={value}: expected 0 to 1")
            if name in ("weight_decay", "lambda_max") and not 0 <= value < math.inf:
                raise SettingError(f"{name}={value}: expected 0 or more")


@dataclass(frozen=True)
class MetaSettings:
    """How a run learns to learn: each training sentence is a task, its nearest neighbours the supports.

    Attributes:
        k: supports of a task, 1 or more.
        optimizer: what takes the inner steps.
        lr: inner step size; None for 0.02 (SGD) or 3e-5 (BertAdam, as in the official code).
        steps: inner steps, 1 or more.
        lambda_max: weight of the largest token loss of each support in the inner loss.
        order: 1 takes inner steps as constants, as Wu et al. do; 2 differentiates through them.
        learn_rates: learn a step size for each layer and the head, from `lr` on, by the gradient of the query loss.
        scheduled: the inner step size rises and falls with the outer learning rate, as in the official code.
    """

    k: int = 2
    optimizer: InnerOptimizer = "sgd"
    lr: float | None = None
    steps: int = 1
    lambda_max: float = 2.0
    order: Literal[1, 2] = 1
    learn_rates: bool = False
    scheduled: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise SettingError(f"k={self.k!r}: expected a whole number, 1 or more")
        if isinstance(self.lr, tuple):
            raise SettingError(f"lr={self.lr!r}: expected a number; learn_rates=True learns one for each layer")
        if self.order not in (1, 2):
            raise SettingError(f"order={self.order!r}: expected 1 or 2")
        for name in ("learn_rates", "scheduled"):
            if not isinstance(getattr(self, name), bool):
                raise SettingError(f"{name}={getattr(self, name)!r}: expected True or False")
        self.inner()

    def inner(self) -> InnerStep:
        """The inner step of a task."""
        lr = self.lr if self.lr is not None else {"sgd": 0.02, "bertadam": 3e-5}.get(self.optimizer, 1.0)
        return InnerStep(lr=lr, steps=self.steps, optimizer=self.optimizer, lambda_max=self.lambda_max)
