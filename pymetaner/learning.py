"""What `pymetaner.adapt` learns from and how: its settings, given, calibrated or by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pymetaner.engine import InnerOptimizer, InnerStep
from pymetaner.errors import SettingError
from pymetaner.memory import Memory
from pymetaner.model import MetaNER

__all__ = ["EngineName", "Learning", "SupportCount", "inner_step", "learning_of"]

EngineName = Literal["auto", "batched", "reference"]

SupportCount = int | Literal["all"]

_DEFAULTS: dict[str, Any] = {"k": 2, "lr": None, "steps": 1, "inner_optimizer": "sgd", "lambda_max": 0.0, "knn": 0.0}
_DEFAULTS_OF_ALL = _DEFAULTS | {"steps": 2, "inner_optimizer": "signsgd"}


@dataclass(frozen=True)
class Learning:
    """What to learn from before tagging, and how; the arguments of `pymetaner.adapt`."""

    memory: Memory
    k: SupportCount
    inner: InnerStep
    engine: EngineName = "auto"
    exclude_self: bool = False
    knn: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.memory, Memory):
            raise SettingError(
                f"memory is a {type(self.memory).__name__}: expected a Memory; Memory(model) makes one, to add to"
            )
        if self.k != "all" and (isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 0):
            raise SettingError(f"k={self.k!r}: expected a whole number, 0 or more, or 'all'")
        if self.k == "all" and self.exclude_self:
            raise SettingError(
                "k='all' learns from the whole memory at once, where exclude_self cannot leave a sentence out: give a "
                "number, or leave exclude_self out"
            )
        if self.engine not in ("auto", "batched", "reference"):
            raise SettingError(f"engine={self.engine!r}: expected 'auto', 'batched' or 'reference'")
        if isinstance(self.knn, bool) or not isinstance(self.knn, int | float) or not 0 <= self.knn <= 1:
            raise SettingError(f"knn={self.knn!r}: expected a weight from 0 to 1")


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

    Raises:
        SettingError: if one is out of range.
    """
    given = {
        "k": k, "lr": lr, "steps": steps, "inner_optimizer": inner_optimizer, "lambda_max": lambda_max, "knn": knn
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    memory = model.memory if memory is None else memory
    calibrated = memory.calibration if not given and isinstance(memory, Memory) else None
    chosen: dict[str, Any] = calibrated or given
    chosen = (_DEFAULTS_OF_ALL if chosen.get("k") == "all" else _DEFAULTS) | chosen
    inner = inner_step(model, chosen["lr"], chosen["steps"], chosen["inner_optimizer"], chosen["lambda_max"])
    return Learning(memory, chosen["k"], inner, engine, exclude_self, chosen["knn"])


def inner_step(
    model: MetaNER, lr: float | Sequence[float] | None, steps: int, optimizer: InnerOptimizer, lambda_max: float = 0.0
) -> InnerStep:
    """The inner step of these settings, the model's own step size by default."""
    if isinstance(lr, Sequence) and not isinstance(lr, str):
        lr = tuple(lr)
    step = InnerStep(lr=1.0 if lr is None else lr, steps=steps, optimizer=optimizer, lambda_max=lambda_max)
    return step if lr is not None else replace(step, lr=model.settings.lr[optimizer])
