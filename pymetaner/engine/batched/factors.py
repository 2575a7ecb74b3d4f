"""What one support window adds to the gradient of every adapted layer: the factors of a sum of outer products.

For a Linear y = W x + b, the gradient of W over the pieces t of a window is sum_t g_t x_t^T and that of b is sum_t g_t,
g_t being the gradient of the loss with respect to y_t: keeping X (R, in) and G (R, out) instead of the (out, in) matrix
is what makes the batched engine cheap. For a LayerNorm y = w * xhat + b the gradients are vectors, and kept as such.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pymetaner.errors import UnsupportedModelError
from pymetaner.ops import masked_token_loss
from pymetaner.view import Listener, View
from pymetaner.windows import IGNORE, Batch

__all__ = ["WindowFactors", "check_adaptable", "factors_of", "normalised"]


@dataclass(frozen=True)
class WindowFactors:
    """Factors of one support window, for the sum of its words' losses and, if asked for, for its largest one alone.

    Attributes:
        words: how many labelled words it has.
        inputs: (R, in) what each Linear read, by `View.source`; R pieces.
        gradients: (R, out) gradients of each Linear's output, one tensor for each of the losses.
        norms: (2, d) or, without bias, (1, d), gradients of each LayerNorm's weight and bias, one for each loss.
    """

    words: int
    inputs: dict[str, Tensor]
    gradients: dict[str, tuple[Tensor, ...]]
    norms: dict[str, tuple[Tensor, ...]]

    @property
    def pieces(self) -> int:
        """R, the pieces of the window."""
        return len(next(iter(self.inputs.values())))

    def tensors(self) -> list[Tensor]:
        """All of its tensors."""
        groups = (*self.gradients.values(), *self.norms.values())
        return [*self.inputs.values(), *(tensor for group in groups for tensor in group)]

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> WindowFactors:
        """A compact copy on a device and in a type; None leaves it as it is."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype, copy=True, memory_format=torch.contiguous_format)

        return WindowFactors(
            self.words,
            {name: moved(tensor) for name, tensor in self.inputs.items()},
            {name: tuple(map(moved, parts)) for name, parts in self.gradients.items()},
            {name: tuple(map(moved, parts)) for name, parts in self.norms.items()},
        )


def check_adaptable(view: View) -> None:
    """Raise UnsupportedModelError unless every adapted module is a Linear, or a LayerNorm of the last dimension."""
    for name, module in view.modules.items():
        if name in view.unheard or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1):
            raise UnsupportedModelError(
                f"the layer {name!r} ({type(module).__name__}) is not called as a Linear or LayerNorm, so the batched "
                "engine cannot adapt it: use engine='reference'"
            )


def factors_of(
    view: View,
    batch: Batch,
    labels: Tensor,
    lower: Tensor | None,
    *,
    modules: Collection[str],
    correction: Listener | None = None,
    with_largest: bool = False,
    differentiable: bool = False,
) -> list[WindowFactors]:
    """The factors of every window of a batch; one forward pass, and one backward for each loss, no weight gradient.

    Args:
        view: the network.
        batch: B support windows.
        labels: (B, T) int64 tag ids, IGNORE where a piece carries none.
        lower: what ``view.lower`` gives for them.
        modules: names of the adapted modules that take steps.
        correction: steps taken before, added to each layer.
        with_largest: also factors of the largest token loss of each window.
        differentiable: keep the graph, so that factors have gradients of their own.
    """
    read: dict[str, list[Tensor]] = {}
    gave: dict[str, list[Tensor]] = {}

    def record(name: str, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if correction is not None:
            y = correction(name, module, x, y)
        if name not in modules:
            return y
        if not y.requires_grad:  # the first adapted modules: the graph begins here
            y.requires_grad_()
        if view.source.get(name, name) == name:
            x = x.to(y.dtype) if isinstance(module, nn.Linear) else x  # autocast reads it so
            read.setdefault(name, []).append(x if differentiable else x.detach())
        gave.setdefault(name, []).append(y)
        return y

    with torch.enable_grad():
        logits = view.upper(batch.input_ids, batch.attention_mask, lower, record)
        mean = masked_token_loss(logits, labels, 0.0)
        counted = (labels != IGNORE).sum(1)
        losses = [(mean * counted).sum()]
        if with_largest:
            losses.append((masked_token_loss(logits, labels, 1.0) - mean).sum())
        outputs = [y for calls in gave.values() for y in calls]
        found = [
            torch.autograd.grad(
                loss, outputs, create_graph=differentiable, retain_graph=loss is not losses[-1] or differentiable
            )
            for loss in losses
        ]
    flows = [iter(gradients) for gradients in found]
    by_module = {name: [[next(flow) for _ in calls] for flow in flows] for name, calls in gave.items()}
    lengths = [len(window.ids) for window in batch.windows]
    words = counted.tolist()
    with torch.set_grad_enabled(differentiable):
        if view.one_by_one:
            return [_of_lone_window(view, read, by_module, words[0])]
        return _by_window(view, read, by_module, lengths, words)


def normalised(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """What a LayerNorm multiplies by its weight."""
    return functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)


def _by_window(
    view: View,
    read: dict[str, list[Tensor]],
    by_module: dict[str, list[list[Tensor]]],
    lengths: Sequence[int],
    words: Sequence[int],
) -> list[WindowFactors]:
    """The factors of each row of a batch, padding left out."""
    norms: dict[str, list[Tensor]] = {}
    for name, losses in by_module.items():
        if isinstance(view.modules[name], nn.LayerNorm):
            # Padding takes no part: its output gradient is 0.
            norms[name] = [_norm_gradient(view.modules[name], read[name], calls) for calls in losses]
    return [
        WindowFactors(
            words[row],
            {name: calls[0][row, :length] for name, calls in read.items() if name not in norms},
            {
                name: tuple(calls[0][row, :length] for calls in losses)
                for name, losses in by_module.items()
                if name not in norms
            },
            {name: tuple(part[row] for part in parts) for name, parts in norms.items()},
        )
        for row, length in enumerate(lengths)
    ]


def _of_lone_window(
    view: View, read: dict[str, list[Tensor]], by_module: dict[str, list[list[Tensor]]], words: int
) -> WindowFactors:
    """The factors of the only window of a batch, whatever each module read, and however often."""
    norms = {name for name in by_module if isinstance(view.modules[name], nn.LayerNorm)}

    def rows(calls: list[Tensor]) -> Tensor:
        return torch.cat([call.flatten(0, -2) for call in calls])

    return WindowFactors(
        words,
        {name: rows(calls) for name, calls in read.items() if name not in norms},
        {name: tuple(map(rows, losses)) for name, losses in by_module.items() if name not in norms},
        {
            name: tuple(_norm_gradient(view.modules[name], read[name], calls)[0] for calls in by_module[name])
            for name in norms
        },
    )


def _norm_gradient(norm: nn.Module, read: list[Tensor], calls: list[Tensor]) -> Tensor:
    """(B, 2, d), or (B, 1, d) without bias: gradients of weight and bias for each row."""
    assert isinstance(norm, nn.LayerNorm)
    total: Tensor | None = None
    for x, g in zip(read, calls, strict=True):
        x, g = x.flatten(1, -2), g.flatten(1, -2)
        sums = [(g * normalised(norm, x)).sum(1)] + ([] if norm.bias is None else [g.sum(1)])
        stacked = torch.stack(sums, dim=1)
        total = stacked if total is None else total + stacked
    assert total is not None
    return total
