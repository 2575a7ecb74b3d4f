"""What an engine is given: queries with their supports, and the inner step to take on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pymetaner.errors import SettingError
from pymetaner.sentence import Sentence

if TYPE_CHECKING:
    from pymetaner.model import MetaNER

__all__ = ["Engine", "InnerOptimizer", "InnerStep", "Task"]

InnerOptimizer = Literal["sgd", "bertadam"]


@dataclass(frozen=True)
class Task:
    """A sentence to tag and the labelled sentences to learn from first; without supports it is tagged as it is."""

    query: Sentence
    supports: tuple[Sentence, ...]


@dataclass(frozen=True)
class InnerStep:
    """How the weights move on the supports of a task.

    Attributes:
        lr: step size, above 0.
        steps: how many, 1 or more.
        optimizer: ``"sgd"``, or ``"bertadam"`` as in the official code (`pymetaner.engine.bertadam`).
    """

    lr: float
    steps: int = 1
    optimizer: InnerOptimizer = "sgd"

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(InnerOptimizer):
            raise SettingError(f"inner_optimizer={self.optimizer!r}: expected one of {get_args(InnerOptimizer)}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise SettingError(f"steps={self.steps!r}: expected a whole number, 1 or more")
        if isinstance(self.lr, bool) or not isinstance(self.lr, (int, float)) or not 0 < self.lr < math.inf:
            raise SettingError(f"lr={self.lr!r}: expected a positive number")


# (model, tasks, inner step, batch size, show progress) -> word logits (W, C) of each query
Engine = Callable[["MetaNER", Sequence[Task], InnerStep, int, bool], "list[NDArray[np.floating[Any]]]"]
