"""One SGD step for a whole batch of tasks, in two passes, without forming a weight.

For a linear layer y = W x + b, the step on supports with inputs x_t and output gradients g_t gives
W' = W - lr * sum_t g_t x_t^T, so the adapted layer is the plain one plus a thin product:

    y'(q) = y(q) - lr * ((q X^T) G + 1 G),    X (T, in) and G (T, out): a row a support piece.

For LayerNorm, with xhat the normalised input: y'(q) = y(q) - lr * (qhat * sum_t g_t xhat_t + sum_t g_t). One forward
and backward over the distinct supports of a batch gives (X, G) of every adapted layer; one forward over the queries
with these terms added is the adapted model's. Exact but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from pymetaner.engine.task import InnerStep, Task
from pymetaner.errors import SettingError, UnsupportedModelError
from pymetaner.model import MetaNER
from pymetaner.network import adapted_modules, forward
from pymetaner.ops import masked_token_loss
from pymetaner.sentence import Sentence
from pymetaner.windows import IGNORE, Window, make_batch

__all__ = ["batched_logits", "can_batch"]

_SUPPORT_PIECES = 8192  # of a batch, with padding: about 2 GB of inputs and gradients in 8 layers of width 384


def can_batch(inner: InnerStep) -> bool:
    """Whether the batched engine takes this inner step: one step of SGD."""
    return inner.optimizer == "sgd" and inner.steps == 1


def batched_logits(
    model: MetaNER, tasks: Sequence[Task], inner: InnerStep, batch_size: int, progress: bool = False
) -> list[NDArray[np.floating[Any]]]:
    """Word logits (W, C) of each query, adapted on its own supports by one SGD step.

    Args:
        model: the model; nothing of it is changed.
        tasks: the queries with their supports.
        inner: the inner step.
        batch_size: the most windows of queries in a batch; fewer where supports are many or long.
        progress: show a progress bar.

    Raises:
        SettingError: for more than one step, or another optimiser than SGD.
        UnsupportedModelError: if an adapted layer is not a Linear or LayerNorm that reads each sentence just once.
    """
    if not can_batch(inner):
        raise SettingError(
            f"the batched engine takes one step of SGD, not {inner.steps} of {inner.optimizer}: use engine='reference'"
        )
    network = model.view()
    modules = adapted_modules(network, model.settings.freeze_layers)

    def run(windows: list[Window]) -> Tensor:
        batch = make_batch(windows, model.pad_id).to(model.device)
        supports = [tasks[window.sentence].supports for window in windows]
        if not any(supports):
            with torch.no_grad():
                return forward(network, batch.input_ids, batch.attention_mask)[0]
        factors = _support_factors(model, network, modules, supports)
        with torch.no_grad(), factors.added_to(modules, inner.lr):
            return forward(network, batch.input_ids, batch.attention_mask)[0]

    queries = [task.query for task in tasks]
    batch_size = min(batch_size, _most_queries(model, tasks))
    return model.word_logits(queries, run, batch_size=batch_size, progress=progress, title="adapting")


def _most_queries(model: MetaNER, tasks: Sequence[Task]) -> int:
    """How many queries a batch may have at most, so that what is kept of their supports fits into memory."""
    windows = [model.words.windows(task.supports) for task in tasks]
    longest = max((len(window.ids) for group in windows for window in group), default=1)
    most = max(map(len, windows), default=0)
    return max(1, _SUPPORT_PIECES // max(1, most * longest))


@dataclass(frozen=True)
class _Factors:
    """Inputs and output gradients of the adapted layers on the support windows of a batch.

    Attributes:
        inputs: by module, (S, T, in): what a Linear read, or what a LayerNorm made of it before its own weights.
        gradients: by module, (S, T, out): of the summed loss of the labelled words.
        rows: (B, R) int64, the support windows of each query window, padded with any.
        weights: (B, R), 1 / number of labelled words in all supports of the query; 0 on padding.
    """

    inputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    rows: Tensor
    weights: Tensor

    @contextmanager
    def added_to(self, modules: dict[str, nn.Module], lr: float) -> Iterator[None]:
        """While it lasts, each module adds the step that its query takes to its output."""
        handles = [module.register_forward_hook(self._hook(name, lr)) for name, module in modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, lr: float):  # type: ignore[no-untyped-def]
        def add(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            inputs = self.inputs[name][self.rows].flatten(1, 2)
            gradients = (self.gradients[name][self.rows] * (-lr * self.weights)[:, :, None, None]).flatten(1, 2)
            (query,) = args
            if len(query) != len(inputs):
                raise UnsupportedModelError(_not_once(name, module))
            if isinstance(module, nn.LayerNorm):
                step = _normalised(module, query) * (gradients * inputs).sum(1, keepdim=True)
            else:
                step = torch.bmm(torch.bmm(query, inputs.transpose(1, 2)), gradients)
            if module.bias is not None:
                step = step + gradients.sum(1, keepdim=True)
            return output + step

        return add


def _support_factors(
    model: MetaNER,
    network: PreTrainedModel,
    modules: dict[str, nn.Module],
    supports: Sequence[tuple[Sentence, ...]],
) -> _Factors:
    """One forward and backward over the distinct supports of some query windows."""
    distinct = {support: i for i, support in enumerate(dict.fromkeys(s for group in supports for s in group))}
    windows = model.words.windows(list(distinct))
    batch = make_batch(windows, model.pad_id).to(model.device)
    labels = batch.labels([model.labels.encode(support.tags or ()) for support in distinct])
    counted = (labels != IGNORE).sum(1)

    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def record(name: str):  # type: ignore[no-untyped-def]
        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            _check_layer(name, module, args, output, batch.input_ids.shape, seen=name in inputs)
            inputs[name] = (
                _normalised(module, args[0]).detach() if isinstance(module, nn.LayerNorm) else args[0].detach()
            )
            # The weights ask for no gradient, so the first adapted layers are where the graph begins.
            outputs[name] = output if output.requires_grad else output.requires_grad_(True)

        return keep

    handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        with torch.enable_grad():
            logits, _ = forward(network, batch.input_ids, batch.attention_mask)
            unread = next((name for name in modules if name not in inputs), None)
            if unread is not None:
                raise UnsupportedModelError(_not_once(unread, modules[unread]))
            loss = masked_token_loss(logits, labels, 0.0, sentence_weights=counted.to(logits.dtype)).sum()
            gradients = torch.autograd.grad(loss, list(outputs.values()))
    finally:
        for handle in handles:
            handle.remove()

    of_support: list[list[int]] = [[] for _ in distinct]
    for row, window in enumerate(windows):
        of_support[window.sentence].append(row)
    groups = [[row for support in group for row in of_support[distinct[support]]] for group in supports]
    rows = torch.zeros((len(groups), max(map(len, groups))), dtype=torch.int64, device=model.device)
    weights = torch.zeros(rows.shape, dtype=logits.dtype, device=model.device)
    for i, group in enumerate(groups):
        if group:
            rows[i, : len(group)] = torch.tensor(group, device=model.device)
            weights[i, : len(group)] = 1 / int(counted[group].sum())
    return _Factors(inputs, dict(zip(outputs, gradients, strict=True)), rows, weights)


def _normalised(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """What a LayerNorm multiplies by its weight."""
    return functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)


def _check_layer(
    name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor, shape: torch.Size, seen: bool
) -> None:
    simple = type(module) in (nn.Linear, nn.LayerNorm) and len(args) == 1
    if seen or not simple or output.dim() != 3 or output.shape[:2] != shape:
        raise UnsupportedModelError(_not_once(name, module))


def _not_once(name: str, module: nn.Module) -> str:
    return (
        f"the layer {name!r} ({type(module).__name__}) does not read each sentence once as a Linear or LayerNorm, "
        "so the batched engine cannot adapt it: use engine='reference'"
    )
