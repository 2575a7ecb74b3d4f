"""Meta-training of first order task after task, on weights that really move: for BertAdam on a CPU the fastest way.

A step of BertAdam has no thin form. The batched engine makes its matrices anew in every pass, where here each weight is
moved once a step. What tasks can share they do: their first pass over supports is in the same weights, so many tasks
make it together (`factors.py`), with rows enough for the matrix products to be fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from pymetaner.engine.batched import BatchedEngine
from pymetaner.engine.batched.factors import check_adaptable
from pymetaner.engine.batched.supports import windows_of
from pymetaner.engine.bertadam import WEIGHT_DECAY
from pymetaner.engine.moving import MovingWeights, handing_over
from pymetaner.engine.precision import computing_in
from pymetaner.engine.task import Computation, Dropout, InnerStep, Task, Work
from pymetaner.model import MetaNER
from pymetaner.network import check_trainable, forward
from pymetaner.view import View
from pymetaner.windows import Batch, make_batch

__all__ = ["SequentialMetaLearner"]

_TOGETHER = 512  # pieces of the supports that pass together at first: with more a product is no faster


class SequentialMetaLearner:
    """`MetaLearner` of first order, task after task on a copy of the weights; arguments and errors as there.

    A task takes `inner.steps` passes over its supports, the first one together with other tasks, and one over its
    query.
    """

    def __init__(
        self, model: MetaNER, inner: InnerStep, *, computation: Computation | None = None, dropout: Dropout = "none"
    ) -> None:
        self.model = model
        self.inner = inner
        self.computation = computation or Computation(batch_size=32)
        check_trainable(model.network, model.settings.freeze_layers)
        self._moving = MovingWeights(model, inner, standing=True)
        self.groups = self._moving.groups
        self._rates = inner.rates(self.groups)
        self._view = View(model.network, model.settings.freeze_layers)
        check_adaptable(self._view)
        self._dropout = dropout

    def logits(
        self,
        tasks: Sequence[Task],
        *,
        rates: Mapping[str, float] | None = None,
        edit: Callable[[Batch], Tensor] | None = None,
    ) -> Iterator[tuple[Batch, Tensor]]:
        """As `MetaLearner.logits`, with numbers for rates; the model's gradients are there at the end of the loop.

        Call backward on each logits before asking for the next.
        """
        model, moving = self.model, self._moving
        rates = self._rates if rates is None else rates
        moving.rates = moving.rates_of(rates)
        own = moving.start
        # The decay of a matrix is part of its step, not of the gradient that is taken as a constant.
        decay = WEIGHT_DECAY if self.inner.optimizer == "bertadam" else 0.0
        engine = BatchedEngine(
            model, self._view, self.inner, rates, self.computation, Work(), order=1, dropout=self._dropout
        )
        windows = windows_of(model, [task.query for task in tasks])
        size = self.computation.batch_size
        for task, of_query, first in zip(tasks, windows, engine.own_first_steps(tasks, _TOGETHER), strict=True):
            moving.reset()
            if first is not None:
                for name, gradient in first.of_lone_task(self._view.modules):
                    moving.move(name, gradient)
                moving.network.train(self._dropout == "all")
                with computing_in(self.computation.precision, moving.network):
                    for _ in range(self.inner.steps - 1):
                        moving.step(task)
            moving.network.train(self._dropout != "none")

            def add(name: str, gradient: Tensor, stepped: bool = first is not None) -> None:
                if not own[name].requires_grad:
                    return
                kept = 1.0
                if gradient.dim() > 1 and stepped:
                    kept = (1 - moving.rates.get(name, 0.0) * decay) ** self.inner.steps
                before = own[name].grad
                own[name].grad = gradient.mul_(kept) if before is None else before.add_(gradient, alpha=kept)

            for start in range(0, len(of_query), size):
                batch = make_batch(of_query[start : start + size], model.pad_id).to(model.device)
                pieces = batch.input_ids if edit is None else edit(batch)
                with computing_in(self.computation.precision, moving.network):
                    logits = forward(moving.network, pieces, batch.attention_mask)[0]
                with handing_over(moving.weights, add):
                    yield batch, logits
