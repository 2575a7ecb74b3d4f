"""The sequential loop of Wu et al. (2020): for each query, step on its supports, tag it, take the step back.

Plain autograd and plain optimisers, one task at a time: slow, and the oracle that every other engine is held to. It
works on a copy of the weights that move, so the model itself is never written to. For meta-training with BertAdam on a
CPU it is also the fastest way (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from pymetaner.engine.bertadam import WEIGHT_DECAY, bertadam_update
from pymetaner.engine.precision import computing_in
from pymetaner.engine.task import Computation, Dropout, InnerStep, Task, Work
from pymetaner.model import MetaNER
from pymetaner.network import adapted_groups, adapted_modules, adapted_parameters, forward, weight_sharing_copy
from pymetaner.objective import batch_loss, parts
from pymetaner.progress import track
from pymetaner.reading import word_logits
from pymetaner.windows import Batch, Window, make_batch

__all__ = ["SequentialMetaLearner", "moving_copy", "reference_logits"]

Moments = dict[str, tuple[Tensor, Tensor]]  # of each weight; kept from task to task, since new memory costs more


def reference_logits(
    model: MetaNER, tasks: Sequence[Task], inner: InnerStep, computation: Computation, work: Work
) -> list[NDArray[np.floating[Any]]]:
    """Word logits (W, C) of each query, its weights adapted on its own supports.

    Args:
        model: the model; nothing of it is changed.
        tasks: the queries with their supports.
        inner: the inner step.
        computation: batch size (of one query's windows) and precision.
        work: what was done is added to it.

    Raises:
        SettingError: if there are not as many step sizes as layers, or the precision does not fit the model.
    """
    network, weights, rates = moving_copy(model, inner)
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    moments: Moments = {}
    results: list[NDArray[np.floating[Any]]] = []
    with computing_in(computation.precision, network):
        for task in track(tasks, "adapting", computation.progress):
            if task.supports:
                _take_steps(model, network, weights, task, inner, rates, moments)
                work.supports += len(task.supports)

            def run(windows: list[Window]) -> Tensor:
                batch = make_batch(windows, model.pad_id).to(model.device)
                work.batches += 1
                work.pieces += sum(len(window.ids) for window in windows)
                work.padded += batch.input_ids.numel()
                return forward(network, batch.input_ids, batch.attention_mask)[0]

            with torch.inference_mode():
                results += word_logits(model, [task.query], run, batch_size=computation.batch_size)
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(start[name])
    return results


class SequentialMetaLearner:
    """`MetaLearner` of first order, task after task on a copy of the weights; arguments and errors as there.

    A task takes `inner.steps` passes over its supports and one over its query, and the memory of one task at a time;
    BertAdam's moments stay for the next one.
    """

    def __init__(
        self, model: MetaNER, inner: InnerStep, *, computation: Computation | None = None, dropout: Dropout = "none"
    ) -> None:
        self.model = model
        self.inner = inner
        self.computation = computation or Computation(batch_size=32)
        frozen = model.settings.freeze_layers
        self.groups = [tuple(group) for group in adapted_groups(model.network, frozen)]
        self._rates = inner.rates(self.groups)
        self._network, self._weights = _copy_to_move(model)
        self._moments: Moments = {}
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
        model, network, weights = self.model, self._network, self._weights
        step_sizes = _of_weights(self._rates if rates is None else rates, weights)
        moving = {name: weights[name] for name in step_sizes}
        own = adapted_parameters(model.network, model.settings.freeze_layers)
        decay = WEIGHT_DECAY if self.inner.optimizer == "bertadam" else 0.0
        windows: list[list[Window]] = [[] for _ in tasks]
        for window in model.words.windows([task.query for task in tasks]):
            windows[window.sentence].append(window)
        size = self.computation.batch_size
        for task, of_query in zip(tasks, windows, strict=True):
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(own[name])
                    weight.grad = None
            if task.supports:
                network.train(self._dropout == "all")
                with computing_in(self.computation.precision, network):
                    _take_steps(model, network, moving, task, self.inner, step_sizes, self._moments)
            network.train(self._dropout != "none")

            def add(name: str, gradient: Tensor, task: Task = task) -> None:
                if not own[name].requires_grad:
                    return
                if decay and gradient.dim() > 1 and task.supports:
                    # The decay of a matrix is part of its step, not of the gradient that is taken as a constant.
                    gradient.mul_((1 - step_sizes.get(name, 0.0) * decay) ** self.inner.steps)
                before = own[name].grad
                own[name].grad = gradient if before is None else before.add_(gradient)

            for start in range(0, len(of_query), size):
                batch = make_batch(of_query[start : start + size], model.pad_id).to(model.device)
                pieces = batch.input_ids if edit is None else edit(batch)
                with computing_in(self.computation.precision, network):
                    logits = forward(network, pieces, batch.attention_mask)[0]
                with _handing_over(weights, add):
                    yield batch, logits


def moving_copy(model: MetaNER, inner: InnerStep) -> tuple[PreTrainedModel, dict[str, nn.Parameter], dict[str, float]]:
    """A network whose moving weights are its own and whose other tensors are the model's; those weights; their rates.

    Raises:
        SettingError: if there are not as many step sizes as layers.
    """
    network, weights = _copy_to_move(model)
    rates = _of_weights(inner.rates(adapted_groups(model.network, model.settings.freeze_layers)), weights)
    for name in weights.keys() - rates.keys():
        weights.pop(name).requires_grad_(False)
    return network, weights, rates


def _copy_to_move(model: MetaNER) -> tuple[PreTrainedModel, dict[str, nn.Parameter]]:
    """A network whose adapted weights are its own and ask for gradients, and these weights; the rest is the model's."""
    frozen = model.settings.freeze_layers
    network = weight_sharing_copy(model.network, own=adapted_modules(model.network, frozen).values())
    network.requires_grad_(False)
    weights = adapted_parameters(network, frozen)
    for weight in weights.values():
        weight.requires_grad_(True)
    return network, weights


def _of_weights(rates: Mapping[str, float], weights: Iterable[str]) -> dict[str, float]:
    """The step size of every weight whose module has one."""
    modules = {name: name.rpartition(".")[0] for name in weights}
    return {name: rates[module] for name, module in modules.items() if module in rates}


def _take_steps(
    model: MetaNER,
    network: PreTrainedModel,
    weights: Mapping[str, nn.Parameter],
    task: Task,
    inner: InnerStep,
    rates: Mapping[str, float],
    moments: Moments,
) -> None:
    """Move the weights by the gradient of the supports' loss: `InnerStep` says which.

    Args:
        model: reads the supports and knows their labels.
        network: has the weights; run as it is, with or without dropout.
        weights: by name; changed. One without a gradient stands still.
        task: its supports.
        inner: says what takes the steps.
        rates: step size of each weight.
        moments: of each weight, made where there are none; changed.
    """

    def move(name: str, gradient: Tensor) -> None:
        if inner.optimizer == "sgd":
            weights[name].sub_(gradient, alpha=rates[name])
            return
        if name not in moments:
            moments[name] = torch.zeros_like(weights[name]), torch.zeros_like(weights[name])
        bertadam_update(weights[name], gradient, *moments[name], rates[name])

    windows = model.words.windows(task.supports)
    tag_ids = [model.labels.encode(support.tags or ()) for support in task.supports]
    # Several where the supports are many or of unlike length.
    *others, last = parts(model, windows, tag_ids)

    def backward(part: tuple[Batch, Tensor, int]) -> None:
        batch, labels, total = part
        with torch.enable_grad():
            logits, _ = forward(network, batch.input_ids, batch.attention_mask)
            loss = batch_loss(logits, labels, inner.lambda_max, pieces=total, sentences=len(windows))
            loss.backward(inputs=list(weights.values()))

    for moment in chain.from_iterable(moments.values()):
        moment.zero_()
    for _ in range(inner.steps):
        for part in others:
            backward(part)
        with _handing_over(weights, move):
            backward(last)


@contextmanager
def _handing_over(weights: Mapping[str, nn.Parameter], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """In backward passes under it, `take` gets each weight's gradient once it is complete; the weight keeps none.

    It may change the weight then, which no later part of the pass reads. A gradient's memory serves the next one: to a
    CPU memory that is new costs more than the numbers that are written there.
    """

    def hand_over(name: str, weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None  # it has just been added to
        with torch.no_grad():
            take(name, gradient)

    handles = [weight.register_post_accumulate_grad_hook(partial(hand_over, name)) for name, weight in weights.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
