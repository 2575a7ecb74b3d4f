"""Meta-training on whole batches of tasks: adapted logits with a graph back to the weights.

Model-agnostic meta-learning (Finn et al. 2017) moves the weights by the gradient of the query loss *after* the inner
steps. The corrected forward pass is an ordinary differentiable function, so that is one backward pass for all tasks:
of first order if the supports' factors are constants, of second order if they keep their graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from torch import Tensor

from pymetaner.engine.batched.engine import BatchedEngine
from pymetaner.engine.batched.factors import check_adaptable
from pymetaner.engine.batched.steps import Rates
from pymetaner.engine.task import Computation, Dropout, InnerStep, Task, Work
from pymetaner.errors import SettingError
from pymetaner.model import MetaNER
from pymetaner.view import View
from pymetaner.windows import Batch

__all__ = ["MetaLearner"]


class MetaLearner:
    """Gives the logits of tasks after their inner steps, differentiable in the model's weights.

    Args:
        model: the model; parameters that ask for gradients get them.
        inner: the inner step.
        order: 1 takes the inner steps as constants, as Wu et al. do; 2 differentiates through them.
        computation: batch size, precision and memory; there is no cache, since the weights move at every step.
        dropout: where the network's own is on: nowhere, so that a step is a function of the weights alone; on the
            queries; or in all passes, as in the official code, where tasks that share a support share what is dropped
            of it in the first step.

    Raises:
        SettingError: if the order is neither 1 nor 2, or the step sizes do not fit the layers.
        UnsupportedModelError: if an adapted layer is not a Linear or LayerNorm.

    Example:
        >>> learner = MetaLearner(model, InnerStep(lr=0.02))  # doctest: +SKIP
        >>> for batch, logits in learner.logits(tasks):  # doctest: +SKIP
        ...     functional.cross_entropy(logits.flatten(0, 1), labels_of(batch).flatten()).backward()
    """

    def __init__(
        self,
        model: MetaNER,
        inner: InnerStep,
        *,
        order: Literal[1, 2] = 1,
        computation: Computation | None = None,
        dropout: Dropout = "none",
    ) -> None:
        if order not in (1, 2):
            raise SettingError(f"order={order!r}: expected 1 or 2")
        self.model = model
        self.inner = inner
        self.order = order
        self.computation = computation or Computation(batch_size=32)
        self.work = Work()
        self._view = View(model.network, model.settings.freeze_layers, trainable=True)
        self._rates = inner.rates(self._view.groups)
        check_adaptable(self._view)
        self._dropout = dropout

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Names of the adapted modules: a tuple for each unfrozen layer, and one for the head."""
        return self._view.groups

    def logits(
        self,
        tasks: Sequence[Task],
        *,
        rates: Rates | None = None,
        edit: Callable[[Batch], Tensor] | None = None,
    ) -> Iterator[tuple[Batch, Tensor]]:
        """The queries in padded batches, each with its adapted logits (B, T, C); the window of a row names its task.

        With order 1 every batch has a graph of its own: call backward on each as it comes, and gradients add up. With
        order 2 batches share the graph of their supports: add the losses up and call backward once.

        Args:
            tasks: the queries with their supports.
            rates: step sizes of the adapted modules by name, instead of the inner step's: tensors may be learned.
            edit: gives the pieces (B, T) to read instead of a batch's own, e.g. masked ones.
        """
        rates = self._rates if rates is None else rates
        engine = BatchedEngine(
            self.model, self._view, self.inner, rates, self.computation, self.work, self.order, self._dropout
        )
        for block in engine.blocks(tasks):
            yield from engine.run(tasks, block, edit)
