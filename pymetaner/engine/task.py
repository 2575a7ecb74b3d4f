"""What an engine is given: queries with their supports, the inner step to take on them, and how to compute it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pymetaner.cache import FactorCache
from pymetaner.checks import keep, number, one_of, step_sizes, truth, whole
from pymetaner.engine.precision import Precision, check_precision
from pymetaner.errors import SettingError
from pymetaner.sentence import Sentence

if TYPE_CHECKING:
    from pymetaner.model import MetaNER

__all__ = ["Computation", "Dropout", "Engine", "InnerOptimizer", "InnerStep", "Task", "Work"]

InnerOptimizer = Literal["sgd", "bertadam"]
Dropout = Literal["none", "queries", "all"]  # in which passes of meta-training the network drops out


@dataclass(frozen=True)
class Task:
    """A sentence to tag and the labelled sentences to learn from first; without supports it is tagged as it is.

    Attributes:
        query: the sentence to tag.
        supports: the labelled sentences; one that comes twice counts twice.
        lower: hidden states (T, d) after the frozen layers of each window of the query, if they are known already.
    """

    query: Sentence
    supports: tuple[Sentence, ...]
    lower: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class InnerStep:
    """How the weights move on the supports of a task.

    The loss is the mean cross-entropy over all labelled words of the supports + `lambda_max` * the mean over the
    supports' windows of the largest one (equations 9 and 10 of Wu et al. 2020).

    Attributes:
        lr: step size, above 0; or one for each layer that is not frozen and, last, one for the head: 0 or more.
        steps: how many, 1 or more.
        optimizer: ``"sgd"``, or ``"bertadam"`` as in the official code (`pymetaner.engine.bertadam`).
        lambda_max: weight of the largest token loss, 0 or more.
    """

    lr: float | tuple[float, ...]
    steps: int = 1
    optimizer: InnerOptimizer = "sgd"
    lambda_max: float = 0.0

    def __post_init__(self) -> None:
        one_of("inner_optimizer", self.optimizer, get_args(InnerOptimizer))
        keep(self, whole, "steps", least=1)
        keep(self, step_sizes, "lr")
        keep(self, number, "lambda_max")

    def rates(self, groups: Sequence[Collection[str]]) -> dict[str, float]:
        """The step size of every adapted module; modules that stand still are left out.

        Args:
            groups: names of the modules of each adapted layer and, last, of the head (`pymetaner.network`).

        Raises:
            SettingError: if there are not as many step sizes as groups.
        """
        lrs = self.lr if isinstance(self.lr, tuple) else (self.lr,) * len(groups)
        if len(lrs) != len(groups):
            raise SettingError(
                f"{len(lrs)} step sizes: expected {len(groups)}, one for each of {len(groups) - 1} unfrozen layers and "
                "one for the head, or a single number"
            )
        return {name: lr for lr, group in zip(lrs, groups, strict=True) if lr for name in group}


@dataclass(frozen=True)
class Computation:
    """How an engine computes: nothing of this changes the answer but for rounding.

    Attributes:
        batch_size: the most windows of queries in a batch.
        precision: ``"fp32"``, ``"tf32"`` (CUDA) or ``"bf16"``; a float64 model computes in float64.
        cache: where factors of supports are kept between calls; None for nowhere.
        memory_bytes: what a batch may take, about; batches that would take more are split. None: a quarter of the
            machine's memory, or half of what is free on the GPU.
        progress: show a progress bar.
    """

    batch_size: int = 16
    precision: Precision = "fp32"
    cache: FactorCache | None = None
    memory_bytes: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        check_precision(self.precision)
        keep(self, whole, "batch_size", least=1)
        if self.memory_bytes is not None:
            keep(self, whole, "memory_bytes", least=1)
        if not isinstance(self.cache, FactorCache | None):
            raise SettingError(f"cache={self.cache!r}: expected a FactorCache, or None")
        keep(self, truth, "progress")


@dataclass
class Work:
    """What an engine had to do; engines add to it.

    Attributes:
        batches: passes over padded queries.
        pieces: pieces of the queries.
        padded: the same with padding.
        supports: windows of distinct supports that batches asked for.
        cached: how many of them were found in the cache.
    """

    batches: int = 0
    pieces: int = 0
    padded: int = 0
    supports: int = 0
    cached: int = 0


# (model, tasks, inner step, computation, work) -> word logits (W, C) of each query
Engine = Callable[["MetaNER", Sequence[Task], InnerStep, Computation, Work], "list[NDArray[np.floating[Any]]]"]
