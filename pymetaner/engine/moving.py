"""Weights that move: a copy of the adapted ones that takes steps on a task's supports and is set back for the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from pymetaner.engine.bertadam import bertadam_update, zero_moments
from pymetaner.engine.task import InnerStep, Task
from pymetaner.errors import SettingError
from pymetaner.model import MetaNER
from pymetaner.network import adapted_groups, adapted_modules, adapted_parameters, forward, weight_sharing_copy
from pymetaner.objective import batch_loss, parts
from pymetaner.windows import Batch

__all__ = ["MovingWeights", "handing_over"]


class MovingWeights:
    """A network whose adapted weights are its own; its other tensors are the model's, which is never written to.

    Attributes:
        network: that network, in evaluation mode.
        start: the model's own adapted weights by name.
        groups: names of the adapted modules: a tuple for each unfrozen layer, and one for the head.
        weights: the adapted weights by name; they ask for gradients.
        rates: step size of each weight; those without one stand still.

    Args:
        model: the model.
        inner: how the weights move.
        standing: `weights` are all adapted ones, and not only those that have a step size.

    Raises:
        SettingError: if there are not as many step sizes as layers, or layers that share a weight have several.
    """

    def __init__(self, model: MetaNER, inner: InnerStep, *, standing: bool = False) -> None:
        frozen = model.settings.freeze_layers
        _check_shared(model, inner)
        self._model = model
        self._inner = inner
        self.start = adapted_parameters(model.network, frozen)
        self.network = weight_sharing_copy(model.network, own=adapted_modules(model.network, frozen).values())
        self.network.requires_grad_(False)
        self.groups = [tuple(group) for group in adapted_groups(model.network, frozen)]
        self.weights = adapted_parameters(self.network, frozen)
        self.rates = self.rates_of(inner.rates(self.groups))
        if not standing:
            self.weights = {name: self.weights[name] for name in self.rates}
        for weight in self.weights.values():
            weight.requires_grad_(True)
        # BertAdam's, kept from task to task, since new memory costs more than what is written there.
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._norms: list[Tensor] = []  # of the gradients that went into them
        self._taken: Counter[str] = Counter()

    def rates_of(self, modules: Mapping[str, float]) -> dict[str, float]:
        """The step size of every weight whose module has one."""
        of_weight = {name: modules.get(name.rpartition(".")[0]) for name in self.weights}
        return {name: rate for name, rate in of_weight.items() if rate is not None}

    @torch.no_grad()
    def reset(self) -> None:
        """Sets the weights to the model's, with no step taken."""
        self._taken.clear()
        # What is not finite would outlive the next task's first step, which takes the old moments times 0.
        if self._norms and not torch.stack(self._norms).isfinite().all():
            self._moments.clear()
        self._norms.clear()
        for name, weight in self.weights.items():
            weight.copy_(self.start[name])
            weight.grad = None

    @torch.no_grad()
    def move(self, name: str, gradient: Tensor) -> None:
        """Takes a step with one weight, and uses its gradient up."""
        rate = self.rates.get(name)
        if rate is None:
            return
        weight = self.weights[name]
        if self._inner.optimizer == "sgd":
            weight.sub_(gradient, alpha=rate)
            return
        if name not in self._moments:
            self._moments[name] = zero_moments(weight)
        self._taken[name] += 1
        self._norms.append(bertadam_update(weight, gradient, *self._moments[name], rate, step=self._taken[name]))

    def step(self, task: Task) -> None:
        """Moves by the gradient of the supports' loss (`InnerStep`); a weight that has none stands still.

        Supports without a word move nothing.
        """
        model, lambda_max = self._model, self._inner.lambda_max
        windows = model.words.windows(task.supports)
        if not windows:
            return
        tag_ids = [model.labels.encode(support.tags or ()) for support in task.supports]

        def backward(part: tuple[Batch, Tensor, int]) -> None:
            batch, labels, total = part
            with torch.enable_grad():
                logits, _ = forward(self.network, batch.input_ids, batch.attention_mask)
                loss = batch_loss(logits, labels, lambda_max, pieces=total, sentences=len(windows))
                loss.backward(inputs=[self.weights[name] for name in self.rates])

        # Several where the supports are many or of unlike length.
        *others, last = parts(model, windows, tag_ids)
        for part in others:
            backward(part)
        with handing_over(self.weights, self.move):
            backward(last)


def _check_shared(model: MetaNER, inner: InnerStep) -> None:
    """Raise SettingError if a weight that stands in several layers is to move at several rates."""
    rates: dict[int, float] = {}
    groups = adapted_groups(model.network, model.settings.freeze_layers)
    for lr, group in zip(inner.lr if isinstance(inner.lr, tuple) else (), groups, strict=False):
        for name, module in group.items():
            for weight in module.parameters(recurse=False):
                if rates.setdefault(id(weight), lr) != lr:
                    raise SettingError(
                        f"the layer {name!r} and one before it share a weight, to which lr={inner.lr!r} gives the step "
                        f"sizes {lr:g} and {rates[id(weight)]:g}: give them the same, or a single number"
                    )


@contextmanager
def handing_over(weights: Mapping[str, nn.Parameter], take: Callable[[str, Tensor], None]) -> Iterator[None]:
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
