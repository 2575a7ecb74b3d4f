"""The steps that tasks have taken, added to what each adapted layer gives: no adapted weight is kept, or even formed.

SGD: with W' = W - lr * sum_t c_t g_t x_t^T, a Linear gives y'(q) = y(q) - lr * ((q X^T + 1) * c) G, two thin products;
the 1 is the step of the bias. A LayerNorm's steps are vectors. Several steps add up.

BertAdam: a step is elementwise in the gradient, so the gradients of a few tasks are formed (G^T X), turned into the
steps' sum, multiplied with the queries and dropped, a tile at a time (`pymetaner.engine.bertadam` has the rule).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pymetaner.engine.batched.factors import Layout, WindowFactors, normalised
from pymetaner.engine.bertadam import WEIGHT_DECAY, steps_of, steps_of_
from pymetaner.engine.task import InnerOptimizer

__all__ = ["Rates", "StepRows", "TakenSteps"]

Rates = Mapping[str, "float | Tensor"]

# Numbers in a tile of BertAdam: on a CPU what its caches hold, on a GPU enough to be worth a launch.
_TILE = (1 << 20, 1 << 26)


class StepRows:
    """The factors of one step for the rows of a batch, gathered layer by layer when a layer asks.

    Args:
        layout: which columns are whose.
        windows: for each of the B rows, the factors of its task's support windows; none if it takes no step.
        lambda_max: weight of the largest token loss; the layout has columns for it if it is above 0.
        like: says device and type of the coefficients.
        weighted: the factors carry the weights that the losses of windows have in that of the task.
    """

    def __init__(
        self,
        layout: Layout,
        windows: Sequence[Sequence[WindowFactors]],
        lambda_max: float,
        like: Tensor,
        *,
        weighted: bool = False,
    ) -> None:
        self._layout = layout
        self._windows = windows
        self._gathered: tuple[int, Tensor] = (-1, like)
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32

        def column(values: Iterable[float]) -> Tensor:
            return torch.tensor(list(values), device=like.device, dtype=dtype)[:, None, None]

        # (B, 1, 1): whether the task takes the step, 1 / words of the task, lambda_max / windows of the task
        self.takes = column(bool(row) for row in windows)
        self._mean = column(1 if weighted else 1 / max(1, sum(window.words for window in row)) for row in windows)
        self._largest = column(lambda_max / max(1, len(row)) for row in windows)
        # (B, norm_width): gradients of all LayerNorms, summed row by row, so that NaN stays in its own
        most = max(map(len, windows))
        missing = [torch.zeros_like(next(row for row in windows if row)[0].norms)] * most
        vectors = torch.stack([v for row in windows for v in (*(each.norms for each in row), *missing[len(row) :])])
        sums = vectors.to(like.device, dtype).unflatten(0, (len(windows), most)).sum(1)
        self._norms: Tensor = sums[:, 0] * self._mean[..., 0]
        if layout.losses == 2:
            self._norms = self._norms + sums[:, 1] * self._largest[..., 0]

    def inputs(self, name: str, like: Tensor) -> Tensor:
        """(B, R, in) what a Linear read."""
        columns = self._layout.linears[name]
        return self._rows(columns.layer, like)[..., columns.inputs]

    def gradients(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R, out) output gradients and (B, 1, 1) weights: their product is the gradient of the task's loss."""
        columns = self._layout.linears[name]
        rows = self._rows(columns.layer, like)
        parts = [rows[..., part] for part in columns.gradients]
        if len(parts) == 1:
            return parts[0], self._mean
        return (parts[0] * self._mean + parts[1] * self._largest).to(like.dtype), torch.ones_like(self._mean)

    def norm(self, name: str) -> Tensor:
        """(B, d), or with bias (B, 2 d): gradients of a LayerNorm's weight and bias."""
        return self._norms[:, self._layout.norms[name]]

    def of_lone_task(self, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
        """Gradients of the weights themselves, by name, where there is one task.

        Args:
            modules: the adapted ones, by name.
        """
        for name in self._layout.linears:
            weight = modules[name].weight
            assert isinstance(weight, Tensor)
            factor, weights = self.gradients(name, weight)
            gradient = factor[0] * weights[0].to(weight.dtype)
            yield f"{name}.weight", gradient.t() @ self.inputs(name, weight)[0]
            if modules[name].bias is not None:
                yield f"{name}.bias", gradient.sum(0)
        for name in self._layout.norms:
            weight = modules[name].weight
            assert isinstance(weight, Tensor)
            parts = self.norm(name)[0].to(weight.dtype).split(len(weight))
            yield from zip((f"{name}.weight", f"{name}.bias"), parts, strict=False)

    def _rows(self, layer: int, like: Tensor) -> Tensor:
        """(B, R, width): each row's windows below each other, padded with zeros to the longest row."""
        if self._gathered[0] != layer:
            self._gathered = (layer, self._gather(layer).to(like.device, like.dtype))
        return self._gathered[1]

    def _gather(self, layer: int) -> Tensor:
        rows = [[window.layer(layer) for window in row] for row in self._windows]
        lengths = [sum(map(len, row)) for row in rows]
        if len(rows) == 1 and len(rows[0]) == 1:
            return rows[0][0].unsqueeze(0)
        longest = max(lengths)
        first = next(row for row in rows if row)[0]
        zeros = first.new_zeros((longest - min(lengths), first.shape[1]))
        below: list[Tensor] = []
        for row, length in zip(rows, lengths, strict=True):
            below += row
            if length < longest:
                below.append(zeros[: longest - length])
        return torch.cat(below).view(len(rows), longest, -1)


class TakenSteps:
    """The steps taken so far by the tasks of a batch: a `Listener` that adds them to each adapted layer.

    Args:
        steps: first to last; at least one row takes a step.
        rates: the step size of each module; modules without one stand still.
        optimizer: what took the steps.
        source: `View.source`.
    """

    def __init__(
        self, steps: Sequence[StepRows], rates: Rates, optimizer: InnerOptimizer, source: Mapping[str, str]
    ) -> None:
        self.steps = steps
        self.rates = rates
        self.optimizer = optimizer
        self.source = source
        # What was last read, and its products with the supports' inputs: query, key and value share them.
        self._shared: tuple[Tensor | None, str, bool, list[Tensor]] = (None, "", False, [])

    def __call__(self, name: str, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What the adapted module gives for `x`, where the plain one gives `y`."""
        rate = self.rates.get(name)
        if rate is None:
            return y
        if y.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(y.device.type):
            return self._adapted(name, module, x, y, rate)
        with torch.autocast(y.device.type, enabled=False):  # types are chosen here: sums of vectors stay in float32
            return self._adapted(name, module, x, y, rate)

    def _adapted(self, name: str, module: nn.Module, x: Tensor, y: Tensor, rate: float | Tensor) -> Tensor:
        if isinstance(module, nn.LayerNorm):
            return self._norm(name, module, x, y, rate)
        assert isinstance(module, nn.Linear)
        if self.optimizer == "sgd":
            return self._sgd(name, module, x, y, rate)
        return self._bertadam(name, module, x, y, rate)

    # ---- SGD ----

    def _sgd(self, name: str, linear: nn.Linear, x: Tensor, y: Tensor, rate: float | Tensor) -> Tensor:
        products = self._products(self.source[name], x.to(y.dtype), linear.bias is not None, x)
        for step, product in zip(self.steps, products, strict=True):
            gradients, weights = step.gradients(name, y)
            scaled = product * (weights * -rate).to(y.dtype)
            if torch.is_grad_enabled():
                y = torch.baddbmm(y, scaled, gradients)
            else:
                y.baddbmm_(scaled, gradients)
        return y

    def _products(self, source: str, x: Tensor, biased: bool, key: Tensor) -> list[Tensor]:
        """(B, T, R) x X^T of every step, + 1 where there is a bias."""
        seen, of, with_bias, products = self._shared
        if seen is not key or of != source or with_bias != biased:
            one = x.new_ones(())
            transposed = [step.inputs(source, x).transpose(1, 2) for step in self.steps]
            products = [torch.baddbmm(one, x, t) if biased else torch.bmm(x, t) for t in transposed]
            self._shared = (key, source, biased, products)
        return products

    # ---- BertAdam ----

    def _bertadam(self, name: str, linear: nn.Linear, x: Tensor, y: Tensor, rate: float | Tensor) -> Tensor:
        dtype = y.dtype
        inputs, gradients = [], []
        for step in self.steps:
            inputs.append(step.inputs(name, y))
            g, weights = step.gradients(name, y)
            gradients.append(g * weights.to(y.dtype))
        takes = self.steps[0].takes.to(y.dtype)
        plain = y if linear.bias is None else y - linear.bias
        y = y + takes * ((1 - rate * WEIGHT_DECAY) ** len(self.steps) - 1) * plain
        if linear.bias is not None:
            y = y - rate * steps_of([g.sum(1) for g in gradients], 0.0)[:, None]
        size = max(1, _TILE[y.device.type != "cpu"] // linear.weight.numel())
        x = x.to(dtype)
        moved = []
        for at in range(0, len(x), size):
            tile = slice(at, at + size)
            factors = [tensor[tile] for pair in zip(gradients, inputs, strict=True) for tensor in pair]
            constant = not any(isinstance(given, Tensor) and given.requires_grad for given in (rate, *factors))
            if torch.is_grad_enabled() and not constant:
                moved.append(
                    # nothing random is computed again
                    checkpoint(_times_steps, x[tile], rate, *factors, use_reentrant=False, preserve_rng_state=False)
                )
            else:
                moved.append(_TimesConstantSteps.apply(x[tile], float(rate), *factors))  # type: ignore[no-untyped-call]
        return (y - rate * torch.cat(moved)).to(dtype)

    # ---- LayerNorm ----

    def _norm(self, name: str, norm: nn.LayerNorm, x: Tensor, y: Tensor, rate: float | Tensor) -> Tensor:
        gradients = [step.norm(name).unflatten(1, (-1, x.shape[-1])) for step in self.steps]
        if self.optimizer == "sgd":
            moved = gradients[0] if len(gradients) == 1 else torch.stack(gradients).sum(0)
        else:
            parts = range(gradients[0].shape[1])
            moved = torch.stack([steps_of([g[:, part] for g in gradients], 0.0) for part in parts], dim=1)
        moved = (moved * -rate).to(y.dtype)
        y = torch.addcmul(y, normalised(norm, x.to(y.dtype)), moved[:, :1])
        return y if norm.bias is None else y + moved[:, 1:]


def _times_steps(x: Tensor, rate: float | Tensor, *factors: Tensor) -> Tensor:
    """(b, T, out): x times the summed BertAdam steps of a tile of tasks, which are formed here and nowhere else."""
    moved = steps_of(_gradients(factors), rate * WEIGHT_DECAY).to(x.dtype)
    return torch.bmm(x, moved.transpose(1, 2))


class _TimesConstantSteps(torch.autograd.Function):
    """The same where nothing but x has a gradient: the steps are formed in place, and anew for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, *factors: Tensor) -> Tensor:
        ctx.rate = rate
        ctx.save_for_backward(*factors)
        moved = steps_of_(_gradients(factors), rate * WEIGHT_DECAY).to(x.dtype)
        return torch.bmm(x, moved.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, felt: Tensor) -> tuple[Tensor | None, ...]:
        factors = ctx.saved_tensors
        moved = steps_of_(_gradients(factors), ctx.rate * WEIGHT_DECAY).to(felt.dtype)
        return torch.bmm(felt, moved), None, *[None] * len(factors)


def _gradients(factors: Sequence[Tensor]) -> list[Tensor]:
    """(b, out, in) of each step, from its output gradients and inputs in turn."""
    return [torch.bmm(g.transpose(1, 2), inputs) for g, inputs in zip(factors[::2], factors[1::2], strict=True)]
