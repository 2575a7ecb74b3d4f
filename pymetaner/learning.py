"""What `pymetaner.adapt` learns from and how: its settings, given, calibrated or by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from pymetaner.checks import keep, number, one_of, truth, whole
from pymetaner.engine import FineTuning, InnerOptimizer, InnerStep
from pymetaner.errors import SettingError
from pymetaner.memory import Memory
from pymetaner.model import MetaNER

__all__ = ["EngineName", "Learning", "SupportCount", "inner_step", "learning_of", "step_size"]

EngineName = Literal["auto", "batched", "reference"]

SupportCount = int | Literal["all"]

_DEFAULTS: dict[str, Any] = {"k": 2, "lr": None, "steps": 1, "inner_optimizer": "sgd", "lambda_max": 0.0, "knn": 0.0}
_DEFAULTS_OF_ALL: dict[str, Any] = {"lr": None, "steps": None, "lambda_max": 0.0, "knn": 0.0}


@dataclass(frozen=True)
class Learning:
    """What to learn from before tagging, and how; the arguments of `pymetaner.adapt`.

    With k="all" `inner` is a FineTuning, else an InnerStep.
    """

    memory: Memory
    k: SupportCount
    inner: InnerStep | FineTuning
    engine: EngineName = "auto"
    exclude_self: bool = False
    knn: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.memory, Memory):
            raise SettingError(
                f"memory is a {type(self.memory).__name__}: expected a Memory; Memory(model) makes one, to add to"
            )
        keep(self, truth, "exclude_self")
        if self.k != "all":
            keep(self, whole, "k", or_else="'all'")
        if (self.k == "all") != isinstance(self.inner, FineTuning):
            raise SettingError(f"k={self.k!r} with {self.inner}: expected a FineTuning with 'all', else an InnerStep")
        if self.k == "all" and self.exclude_self:
            raise SettingError(
                "k='all' learns from the whole memory at once, where exclude_self cannot leave a sentence out: give a "
                "number, or leave exclude_self out"
            )
        if self.k == "all" and self.engine == "reference":
            raise SettingError(
                "k='all' fine-tunes one model for all sentences, which the loop over sentences cannot: leave engine out"
            )
        one_of("engine", self.engine, get_args(EngineName))
        keep(self, number, "knn", most=1)


def learning_of(
    model: MetaNER,
    memory: Memory | None = None,
    *,
    k: SupportCount | None = None,
    lr: float | Sequence[float] | None = None,
    steps: int | None = None,
    inner_optimizer: InnerOptimizer | None = None,
    lambda_max: float | None = None,
    knn: float | None = None,
    engine: EngineName = "auto",
    exclude_self: bool = False,
) -> Learning:
    """The settings given; where none is, those that `Memory.calibrate` found for the memory; else the defaults.

    A calibration to ``k="all"`` is passed over where `exclude_self` or the reference engine is asked for.

    Arguments as for `pymetaner.adapt`.

    Raises:
        SettingError: if one is out of range.

    Example:
        >>> learning = pymetaner.learning_of(model, k=4)  # doctest: +SKIP
        >>> pymetaner.evaluate(model, pymetaner.read("test.conll"), learning=learning).adapted.f1  # doctest: +SKIP
    """
    given = {
        "k": k, "lr": lr, "steps": steps, "inner_optimizer": inner_optimizer, "lambda_max": lambda_max, "knn": knn
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    memory = model.memory if memory is None else memory
    calibrated = memory.calibration if not given and isinstance(memory, Memory) else None
    if calibrated and calibrated.get("k") == "all" and (exclude_self or engine == "reference"):
        calibrated = None  # which these do not go with
    chosen: dict[str, Any] = calibrated or given
    if chosen.get("k") == "all":
        chosen = _DEFAULTS_OF_ALL | chosen
        if "inner_optimizer" in chosen:
            raise SettingError(
                f"inner_optimizer={chosen['inner_optimizer']!r} with k='all', which fine-tunes with AdamW: leave it out"
            )
        how = FineTuning(step_size(model, chosen["lr"], "adamw"), chosen["steps"], chosen["lambda_max"])
        return Learning(memory, "all", how, engine, exclude_self, chosen["knn"])
    chosen = _DEFAULTS | chosen
    inner = inner_step(model, chosen["lr"], chosen["steps"], chosen["inner_optimizer"], chosen["lambda_max"])
    return Learning(memory, chosen["k"], inner, engine, exclude_self, chosen["knn"])


def inner_step(
    model: MetaNER, lr: float | Sequence[float] | None, steps: int, optimizer: InnerOptimizer, lambda_max: float = 0.0
) -> InnerStep:
    """The inner step of these settings, the model's own step size by default."""
    step = InnerStep(steps=steps, optimizer=optimizer, lambda_max=lambda_max, lr=1.0)  # checks the optimiser first
    return replace(step, lr=step_size(model, lr, optimizer))


def step_size(model: MetaNER, lr: float | Sequence[float] | None, optimizer: str) -> float | tuple[float, ...]:
    """The step size given, or the model's own."""
    if lr is None:
        return model.settings.lr[optimizer]
    return tuple(lr) if isinstance(lr, Sequence) and not isinstance(lr, str) else lr
