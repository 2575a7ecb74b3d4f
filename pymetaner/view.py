"""A network in two parts, frozen and adapted, whose adapted layers tell what they read and can be added to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pymetaner.errors import UnsupportedModelError
from pymetaner.forks import PerObject
from pymetaner.network import (
    adapted_groups,
    forward,
    layers_of,
    places_of_weights,
    version_of,
    weight_sharing_copy,
)

__all__ = ["Listener", "View", "borrowed_view"]

# (name of the module, module, what it read, what it gave) -> what it gives instead
Listener = Callable[[str, nn.Module, Tensor, Tensor], Tensor]


_HEARD = (nn.Linear, nn.LayerNorm)


class _ReachedError(Exception):
    """Carries the hidden states out of a pass that need not go on."""


class View:
    """A module tree of its own over the weights of a network.

    Attributes:
        modules: the adapted modules, by name.
        groups: the same names, a tuple for each layer and one for the head.
        weights: changes whenever a weight does.
        shared: those with a weight that stands in another place of the network too.
        unheard: those that are not called as a Linear or LayerNorm, so that what they read is not known.
        tapped: hidden states (B, T, d) of the last pass after the frozen layers, or the last layer if none is frozen.
        last: hidden states (B, T, d) of the last pass after the last layer, which the head read.
        source: for each Linear, the first one that reads the same tensor: query, key and value share their input.
        one_by_one: a module reads something that belongs to no sentence (DeBERTa projects its relative positions with
            the weights that project words), so that only one window may pass at a time.

    Args:
        network: a network.
        frozen: how many of its layers are frozen.
        trainable: the view has the network's own parameters, so that gradients reach them.
    """

    def __init__(self, network: PreTrainedModel, frozen: int, *, trainable: bool = False) -> None:
        self.network = weight_sharing_copy(network, trainable=trainable)
        groups = adapted_groups(self.network, frozen)
        self.groups = [tuple(group) for group in groups]
        self.modules = {name: module for group in groups for name, module in group.items()}
        places = places_of_weights([self.network])
        self.shared = frozenset(
            name
            for name, module in self.modules.items()
            if any(places[id(p)] > 1 for p in module.parameters(recurse=False))
        )
        self.weights: object = None
        self._listener: Listener | None = None
        for name, module in self.modules.items():
            if type(module) in _HEARD:
                module.register_forward_hook(self._hook(name))
        self._given: Tensor | None = None
        self._stops = False
        self._frozen = 0
        self.source: dict[str, str] = {}
        self.one_by_one = False
        self.tapped: Tensor | None = None
        self.last: Tensor | None = None
        layers_of(self.network)[frozen - 1].register_forward_hook(self._tap)
        with torch.no_grad():
            self._split(frozen, self._study())

    # ---- running ----

    def lower(self, ids: Tensor, mask: Tensor) -> Tensor | None:
        """Hidden states (B, T, d) after the frozen layers; None if nothing is frozen or the network does not part."""
        if not self._frozen:
            return None
        self._stops = True
        try:
            with torch.no_grad():
                forward(self.network, ids, mask)
        except _ReachedError as reached:
            hidden: Tensor = reached.args[0]
            return hidden
        finally:
            self._stops = False
        raise AssertionError("the pass did not go through the frozen layers")

    def upper(self, ids: Tensor, mask: Tensor, lower: Tensor | None, listener: Listener | None = None) -> Tensor:
        """Logits (B, T, C) from what `lower` gave, the adapted modules heard by a listener."""
        self._given, self._listener = lower, listener
        try:
            logits, self.last = forward(self.network, ids, mask)
            return logits
        finally:
            self._given = self._listener = None

    def _tap(self, module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self.tapped = output[0] if isinstance(output, tuple) else output

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def heard(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output if self._listener is None else self._listener(name, module, args[0], output)

        return heard

    # ---- finding out how the network reads ----

    def _study(self) -> Tensor:
        """One pass over a probe: which modules share their input, and whether each reads every sentence once.

        Returns the probe's logits.
        """
        read: dict[str, Tensor] = {}
        odd: set[str] = set()  # read something that is not made of sentences

        def note(name: str, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            if x.dim() != 3 or len(x) not in (1, len(ids)):
                odd.add(name)
                return y
            if name in read or x.shape[:2] != ids.shape:
                self.one_by_one = True
            if isinstance(module, nn.Linear):
                shares = (other for other, seen in read.items() if seen is x and other in self.source)
                self.source[name] = next(shares, name)
            read[name] = x
            return y

        ids, mask = self._probe()
        logits = self.upper(ids, mask, None, note)
        if self.tapped is None or self.tapped.shape[:2] != ids.shape:
            raise UnsupportedModelError(
                f"{type(self.network).__name__} cannot be read: its layers do not give a hidden state for each piece"
            )
        # Of those that share an input the first by definition, which need not be the first to be called.
        places = {name: i for i, name in enumerate(self.modules)}
        firsts: dict[str, str] = {}
        for name, shared in sorted(self.source.items(), key=lambda item: places[item[0]]):
            self.source[name] = firsts.setdefault(shared, name)
        if self.one_by_one:
            self.source = {name: name for name in self.source}
        self.unheard = frozenset(self.modules) - (read.keys() - odd)
        return logits

    def _probe(self) -> tuple[Tensor, Tensor]:
        device = self.network.device
        ids = torch.arange(14, device=device).view(2, 7)
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        return ids, mask

    def _split(self, frozen: int, expected: Tensor) -> None:
        """Lets passes end after the frozen layers and begin there, if the network gives the probe's logits so."""
        layers = layers_of(self.network)[:frozen]
        for i, layer in enumerate(layers):
            layer.forward = self._around(layer.forward, last=i + 1 == frozen)
        self._frozen = frozen
        ids, mask = self._probe()
        with suppress(RuntimeError, ValueError, TypeError, AssertionError):
            found = self.upper(ids, mask, self.lower(ids, mask))
            if torch.allclose(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True):
                return
        self._frozen = 0

    def _around(self, run: Callable[..., Any], last: bool) -> Callable[..., Any]:
        beside: tuple[None, ...] | None = None  # what a layer that gives a tuple gives beside its hidden states

        def layer(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal beside
            if self._given is None:
                output = run(hidden, *args, **kwargs)
                beside = (None,) * (len(output) - 1) if isinstance(output, tuple) else None
                if last and self._stops:
                    raise _ReachedError(output[0] if isinstance(output, tuple) else output)
                return output
            output = self._given if last else hidden
            return output if beside is None else (output, *beside)

        return layer


_views: PerObject[PreTrainedModel, list[tuple[object, View]]] = PerObject()


@contextmanager
def borrowed_view(network: PreTrainedModel, frozen: int) -> Iterator[View]:
    """A view that no other thread uses meanwhile; made anew only when all are taken or the network has changed."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    versions = version_of(tensors)
    state = (frozen, *map(id, network.modules()), *((t.data_ptr(), t.dtype, t.device) for t in tensors.values()))
    with _views.lock:
        idle = [view for known, view in _views.kept.get(network, ()) if known == state]
        view = idle.pop() if idle else None
        _views.kept[network] = [(state, view) for view in idle]
    if view is None:
        with torch.inference_mode(False):  # what is made in it could never again take part in a graph
            view = View(network, frozen)
    view.weights = (state, versions)
    try:
        yield view
    finally:
        view.tapped = view.last = None
        with _views.lock:
            _views.kept[network].append((state, view))
