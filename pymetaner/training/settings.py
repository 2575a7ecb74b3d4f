"""What a training run does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pymetaner.checks import LARGEST_SEED, keep, number, one_of, truth, whole
from pymetaner.engine import Dropout, InnerOptimizer, InnerStep, Precision
from pymetaner.errors import SettingError
from pymetaner.scoring import Scoring

__all__ = ["MetaSettings", "TrainSettings"]

_CHOICES = {
    "optimizer": ("adamw", "bertadam"),
    "scoring": ("strict", "conlleval"),
    "vectors": ("model", "cls"),
    "leave_out": ("itself", "best"),
    "reduction": ("mean", "sum"),
    "precision": get_args(Precision),
    "dropout": get_args(Dropout),
}
# Of each inner optimiser: step size and weight of the max term. The steps of SGD grow with the loss, so that a max term
# makes them too large; those of the others do not.
_INNER: dict[str, tuple[float, float]] = {"sgd": (0.02, 0.0), "bertadam": (3e-5, 2.0)}


@dataclass(frozen=True)
class TrainSettings:
    """What a training run does.

    Attributes:
        steps: optimiser steps, 1 or more.
        batch_size: windows (sentences, but for very long ones) a step.
        optimizer: ``"adamw"``, or ``"bertadam"`` as in the official code (`pymetaner.engine.bertadam`).
        lr: peak learning rate; linear warm-up, then linear decay to 0.
        warmup: share of the steps that warm up, 0 to 1.
        weight_decay: decoupled, none on biases and normalisation weights.
        clip: largest norm of the gradient: of all tensors together with AdamW, of each with BertAdam.
        mask_probability: of replacing a piece with an entity tag by the mask piece, 0 to 1.
        lambda_max: weight of the largest token loss of each sentence.
        scoring: what the dev set is scored by, as for `pymetaner.evaluate`.
        evaluate_every: steps between two looks at the dev set.
        checkpoint_every: steps between two checkpoints.
        seed: fixes batches, masks and dropout.
        precision: of products: ``"fp32"``, ``"tf32"`` (CUDA) or ``"bf16"``.
    """

    steps: int = 1200
    batch_size: int = 32
    optimizer: Literal["adamw", "bertadam"] = "adamw"
    lr: float = 3e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    mask_probability: float = 0.2
    lambda_max: float = 2.0
    scoring: Scoring = "strict"
    evaluate_every: int = 300
    checkpoint_every: int = 100
    seed: int = 95
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        _check_choices(self)
        keep(self, whole, "steps", "batch_size", "evaluate_every", "checkpoint_every", least=1)
        keep(self, number, "lr", "clip", positive=True)
        keep(self, number, "warmup", "mask_probability", most=1)
        keep(self, number, "weight_decay", "lambda_max")
        keep(self, whole, "seed", most=LARGEST_SEED)


@dataclass(frozen=True)
class MetaSettings:
    """How a run learns to learn: each training sentence is a task, its nearest neighbours the supports.

    Attributes:
        k: supports of a task, 1 or more.
        optimizer: what takes the inner steps.
        lr: inner step size; None for 0.02 (SGD) or 3e-5 (BertAdam, as in the official code).
        steps: inner steps, 1 or more.
        lambda_max: weight of the largest token loss of each support in the inner loss; None for 2.0 (BertAdam,
            as in the official code) or 0 (the others).
        order: 1 takes inner steps as constants, as Wu et al. do; 2 differentiates through them.
        learn_rates: learn a step size for each layer and the head, from `lr` on, by the gradient of the query loss.
        scheduled: the inner step size rises and falls with the outer learning rate, as in the official code.
        dropout: where the network's own is on: ``"queries"``, since tagging will take its steps without; ``"all"``, in
            the inner steps too, as in the official code; ``"none"``.
        plain_share: share of the run's steps, the first ones, that learn the queries as they stand, 0 to 1: a third of
            the cost, while there is no tagger yet whose neighbours could teach it.
        average: train twice, first without inner steps, and keep the mean of the weights of both runs, which transfers
            better across languages than either of them (`pymetaner.average`).
        reduction: ``"mean"``: in the loss of a step every query word weighs the same; ``"sum"``: the tasks' own losses
            added up, as in the official code.
        vectors: what says which sentences are similar: ``"model"``, the model's sentence vectors; ``"cls"``, the first
            hidden state of the last layer as it is before the run, as in the official code.
        leave_out: of the nearest sentences of a task's query: ``"itself"``, or, as in the official code, the ``"best"``
            hit, which may be another one with the same words.
        final_lr: the step size for BertAdam or SGD that becomes the model's own; None for the one trained with.
    """

    k: int = 2
    optimizer: InnerOptimizer = "sgd"
    lr: float | None = None
    steps: int = 1
    lambda_max: float | None = None
    order: Literal[1, 2] = 1
    learn_rates: bool = False
    scheduled: bool = False
    dropout: Dropout = "queries"
    plain_share: float = 0.5
    average: bool = True
    reduction: Literal["mean", "sum"] = "mean"
    vectors: Literal["model", "cls"] = "model"
    leave_out: Literal["itself", "best"] = "itself"
    final_lr: float | None = None

    def __post_init__(self) -> None:
        keep(self, whole, "k", least=1)
        _check_choices(self, but="optimizer")
        one_of("optimizer", self.optimizer, tuple(_INNER))
        for name in ("lr", "final_lr"):
            if isinstance(rate := getattr(self, name), tuple):
                raise SettingError(f"{name}={rate!r}: expected a number; learn_rates=True learns one for each layer")
        one_of("order", self.order, (1, 2))
        keep(self, truth, "learn_rates", "scheduled", "average")
        keep(self, number, "plain_share", most=1)
        if self.final_lr is not None:
            if self.learn_rates:
                raise SettingError(f"final_lr={self.final_lr!r} with learn_rates=True: expected one of them")
            InnerStep(lr=self.final_lr)
        self.inner()

    def inner(self) -> InnerStep:
        """The inner step of a task."""
        lr, lambda_max = _INNER[self.optimizer]
        return InnerStep(
            lr=lr if self.lr is None else self.lr,
            steps=self.steps,
            optimizer=self.optimizer,
            lambda_max=lambda_max if self.lambda_max is None else self.lambda_max,
        )


def _check_choices(settings: TrainSettings | MetaSettings, but: str = "") -> None:
    for name, options in _CHOICES.items():
        value = getattr(settings, name, options[0])
        if name != but:
            one_of(name, value, options)
