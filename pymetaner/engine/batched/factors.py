"""What support windows add to the gradient of every adapted layer: the factors of sums of outer products.

For a Linear y = W x + b, the gradient of W over the pieces t of a window is sum_t g_t x_t^T and that of b is sum_t g_t,
g_t being the gradient of the loss with respect to y_t: keeping X (R, in) and G (R, out) instead of the (out, in) matrix
is what makes the batched engine cheap. For a LayerNorm y = w * xhat + b the gradients are vectors, and kept as such.

All X and G of an encoder layer lie side by side in the columns of one matrix, so that gathering the factors of a batch
is one operation per layer and not one per module; `Layout` says which columns are whose.
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

__all__ = ["Columns", "Layout", "SupportFactors", "WindowFactors", "check_adaptable", "factors_of", "normalised"]


@dataclass(frozen=True)
class Columns:
    """Where the factors of a Linear are.

    Attributes:
        layer: index of the matrix.
        inputs: columns of what it read; modules that read the same tensor share them.
        gradients: columns of its output gradients, one slice for each loss.
    """

    layer: int
    inputs: slice
    gradients: tuple[slice, ...]


class Layout:
    """Which columns hold the factors of which module.

    Args:
        view: the network.
        adapting: names of the modules that take steps.
        losses: 1 for the sum of the words' losses; 2 if the largest one has factors of its own.

    Attributes:
        linears: the columns of each Linear that takes steps.
        norms: for each LayerNorm that does, its columns in the vectors of all of them, weight before bias.
        widths: columns of each matrix.
        norm_width: columns of the vectors.
        losses: as given.
    """

    def __init__(self, view: View, adapting: Collection[str], losses: int) -> None:
        self.losses = losses
        self.linears: dict[str, Columns] = {}
        self.norms: dict[str, slice] = {}
        self.widths: list[int] = []
        self.norm_width = 0
        for group in view.groups:
            width = 0
            for name in group:
                module = view.modules[name]
                if name not in adapting:
                    continue
                if isinstance(module, nn.LayerNorm):
                    size = module.normalized_shape[0] * (1 if module.bias is None else 2)
                    self.norms[name] = slice(self.norm_width, self.norm_width + size)
                    self.norm_width += size
                    continue
                assert isinstance(module, nn.Linear)
                if view.source[name] == name:
                    inputs = slice(width, width := width + module.in_features)
                else:
                    inputs = self.linears[view.source[name]].inputs
                gradients = tuple(slice(width, width := width + module.out_features) for _ in range(losses))
                self.linears[name] = Columns(len(self.widths), inputs, gradients)
            if width:
                self.widths.append(width)


@dataclass(frozen=True)
class SupportFactors:
    """The factors of a batch of S support windows.

    Attributes:
        layers: (S, R, width) of each layer; rows of padding hold anything finite.
        norms: (S, losses, norm_width) gradients of the LayerNorms.
        lengths: how many of the R rows each window has.
        words: how many labelled words each window has.
    """

    layers: tuple[Tensor, ...]
    norms: Tensor
    lengths: tuple[int, ...]
    words: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (*self.layers, self.norms))

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> SupportFactors:
        """The same on a device and in a type; None leaves it as it is."""
        moved = [tensor.to(device=device or tensor.device, dtype=dtype or tensor.dtype) for tensor in self.layers]
        norms = self.norms.to(device=device or self.norms.device, dtype=dtype or self.norms.dtype)
        return SupportFactors(tuple(moved), norms, self.lengths, self.words)


@dataclass(frozen=True)
class WindowFactors:
    """The factors of one window: a row of a batch of them."""

    batch: SupportFactors
    row: int

    @property
    def pieces(self) -> int:
        """R, its rows in each layer's matrix."""
        return self.batch.lengths[self.row]

    @property
    def words(self) -> int:
        """How many labelled words it has."""
        return self.batch.words[self.row]

    @property
    def norms(self) -> Tensor:
        """(losses, norm_width)."""
        return self.batch.norms[self.row]

    def layer(self, index: int) -> Tensor:
        """(R, width) of a layer."""
        return self.batch.layers[index][self.row, : self.pieces]


def check_adaptable(view: View) -> None:
    """Raise UnsupportedModelError unless every adapted module is a Linear, or a LayerNorm of the last dimension.

    Nor may its weights be in another place of the network, since what that adds to their gradient is not heard.
    """
    for name, module in view.modules.items():
        if name in view.shared:
            raise UnsupportedModelError(
                f"the weights of the layer {name!r} and of another are one and the same, so the batched engine cannot "
                "adapt them: use engine='reference'"
            )
        if name in view.unheard or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1):
            raise UnsupportedModelError(
                f"the layer {name!r} ({type(module).__name__}) is not called as a Linear or LayerNorm, so the batched "
                "engine cannot adapt it: use engine='reference'"
            )


def factors_of(
    view: View,
    layout: Layout,
    batch: Batch,
    labels: Tensor,
    lower: Tensor | None,
    *,
    weights: Sequence[tuple[float, float]] | None = None,
    correction: Listener | None = None,
    differentiable: bool = False,
) -> SupportFactors:
    """The factors of a batch of windows: one forward pass, and one backward for each loss, no weight gradient.

    Args:
        view: the network; one whose modules read what belongs to no sentence takes one window at a time.
        layout: where the factors go, and of which modules.
        batch: S support windows.
        labels: (S, T) int64 tag ids, IGNORE where a piece carries none.
        lower: what ``view.lower`` gives for them.
        weights: of each window's summed and largest loss in the loss of its task, which is the one loss then.
        correction: steps taken before, added to each layer.
        differentiable: keep the graph, so that factors have gradients of their own.
    """
    read: dict[str, list[Tensor]] = {}
    gave: dict[str, list[Tensor]] = {}

    def record(name: str, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if correction is not None:
            y = correction(name, module, x, y)
        if name not in layout.linears and name not in layout.norms:
            return y
        if not y.requires_grad:  # the first adapted modules: the graph begins here
            y.requires_grad_()
        x = x.to(y.dtype) if isinstance(module, nn.Linear) else x  # autocast reads it so
        read.setdefault(name, []).append(x if differentiable else x.detach())
        gave.setdefault(name, []).append(y)
        return y

    with torch.enable_grad():
        logits = view.upper(batch.input_ids, batch.attention_mask, lower, record)
        mean = masked_token_loss(logits, labels, 0.0)
        counted = (labels != IGNORE).sum(1)
        largest = masked_token_loss(logits, labels, 1.0) - mean if layout.losses == 2 or weights is not None else mean
        losses = [(mean * counted).sum(), largest.sum()][: layout.losses]
        if weights is not None:
            of_sum, of_largest = mean.new_tensor(weights).T
            losses = [(mean * counted * of_sum + largest * of_largest).sum()]
        outputs = [y for calls in gave.values() for y in calls]
        found = [
            torch.autograd.grad(
                loss, outputs, create_graph=differentiable, retain_graph=loss is not losses[-1] or differentiable
            )
            for loss in losses
        ]
    with torch.set_grad_enabled(differentiable):
        flows = [iter(gradients) for gradients in found]
        felt = {name: [[next(flow) for _ in calls] for flow in flows] for name, calls in gave.items()}
        return SupportFactors(
            tuple(_side_by_side(view, layout, layer, read, felt) for layer in range(len(layout.widths))),
            _norm_vectors(view, layout, read, felt, logits),
            tuple(len(window.ids) for window in batch.windows) if not view.one_by_one else (_rows(read, layout),),
            tuple(counted.tolist()),
        )


def normalised(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """What a LayerNorm multiplies by its weight."""
    return functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)


def _side_by_side(
    view: View, layout: Layout, layer: int, read: dict[str, list[Tensor]], felt: dict[str, list[list[Tensor]]]
) -> Tensor:
    """(S, R, width): inputs and output gradients of a layer's modules, in the order of their columns."""
    parts: list[tuple[int, Tensor]] = []
    for name, columns in layout.linears.items():
        if columns.layer != layer:
            continue
        if view.source[name] == name:
            parts.append((columns.inputs.start, _joined(read[name])))
        parts += [(at.start, _joined(calls)) for at, calls in zip(columns.gradients, felt[name], strict=True)]
    rows = max(part.shape[1] for _, part in parts)
    # Modules that read more than others (positions beside words) make the others' missing rows 0.
    parts.sort(key=lambda part: part[0])
    return torch.cat(
        [functional.pad(p, (0, 0, 0, rows - p.shape[1])) if p.shape[1] < rows else p for _, p in parts], dim=2
    )


def _joined(calls: Sequence[Tensor]) -> Tensor:
    """(S, R, d) of all calls of a module."""
    return calls[0] if len(calls) == 1 else torch.cat([call.flatten(1, -2) for call in calls], dim=1)


def _rows(read: dict[str, list[Tensor]], layout: Layout) -> int:
    """The most rows that a module read of a lone window."""
    return max(sum(call[0].numel() // call.shape[-1] for call in read[name]) for name in layout.linears)


def _norm_vectors(
    view: View, layout: Layout, read: dict[str, list[Tensor]], felt: dict[str, list[list[Tensor]]], like: Tensor
) -> Tensor:
    """(S, losses, norm_width) gradients of the LayerNorms; padding takes no part, its output gradient is 0."""
    by_loss = []
    for loss in range(layout.losses):
        columns: list[Tensor] = []
        for name in layout.norms:
            norm = view.modules[name]
            assert isinstance(norm, nn.LayerNorm)
            pairs = [
                (normalised(norm, x).flatten(1, -2), g.flatten(1, -2))
                for x, g in zip(read[name], felt[name][loss], strict=True)
            ]
            columns.append(torch.stack([(g * x).sum(1) for x, g in pairs]).sum(0))
            if norm.bias is not None:
                columns.append(torch.stack([g.sum(1) for _, g in pairs]).sum(0))
        by_loss.append(torch.cat(columns, dim=1) if columns else like.new_zeros((len(like), 0)))
    return torch.stack(by_loss, dim=1)
