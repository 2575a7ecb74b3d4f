"""One model of several: the mean of their weights, which transfers better across languages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pymetaner.checks import check_model
from pymetaner.errors import LabelMismatchError, SettingError, UnsupportedModelError
from pymetaner.model import MetaNER
from pymetaner.network import (
    adapted_modules,
    adapted_parameters,
    fingerprint_of,
    head_of,
    standing_tensors,
    weight_sharing_copy,
)
from pymetaner.source import Source

__all__ = ["average", "heads_alike", "separate", "set_to_mean"]

_ALIKE = 0.5
"""Least cosine of two heads: it is 0.94 and more if they started as one, and 0 if not (benchmarks/results/LOG.md)."""


@torch.inference_mode(False)  # what is made in a caller's could never be adapted
def average(models: Iterable[MetaNER]) -> MetaNER:
    """A new model whose weights are the mean of those of several (Wortsman et al. 2022); it costs no more than one.

    Made for models of one encoder that were trained apart, with other settings or other data, from the same start:
    ``MetaNER.from_encoder`` with one and the same seed. Of four runs with other losses the mean was better, over
    several languages without labels, than the best of them (Schmidt et al. 2023); of runs that differ in their batches
    alone it gained less or nothing (docs/results.md): compare on labelled sentences.

    The new model has the settings of the first one and a copy of its memory, in RAM, without its calibration. Frozen
    weights are shared with the first one.

    Args:
        models: one or more; nothing of them is changed.

    Raises:
        SettingError: if there is none, or something is not a model.
        LabelMismatchError: if they do not have the same tags.
        UnsupportedModelError: if they are not of one encoder, with the same frozen layers, or their heads did not start
            as one.

    Example:
        >>> mean = pymetaner.average([first, second, third])  # doctest: +SKIP
        >>> mean.save_pretrained("mean")  # doctest: +SKIP
    """
    if not isinstance(models, Iterable) or isinstance(models, str):
        raise SettingError(f"models is a {type(models).__name__}: expected a list of one or more MetaNER")
    models = list(models)
    if not models:
        raise SettingError("there is no model to average: expected a list of one or more MetaNER")
    for i, model in enumerate(models):
        check_model(model, f"models[{i}]")
    first = models[0]
    _check_alike(models)
    averaged = separate(first)
    set_to_mean(averaged, models)
    averaged.source = Source.joined(model.source for model in models)
    if len(first.memory):
        averaged.memory = first.memory.copy_for(averaged)
    return averaged


def separate(model: MetaNER) -> MetaNER:
    """A model with the same frozen weights, other ones of its own that have the same values, and an empty memory."""
    own = adapted_modules(model.network, model.settings.freeze_layers).values()
    network = weight_sharing_copy(model.network, own=own)
    return MetaNER(network, model.tokenizer, labels=model.labels, settings=model.settings)


@torch.no_grad()
def set_to_mean(model: MetaNER, models: Sequence[MetaNER]) -> None:
    """Gives a model, which may be one of them, the mean of the weights of models that are alike."""
    frozen = model.settings.freeze_layers
    every = [adapted_parameters(one.network, frozen) for one in models]
    for name, weight in adapted_parameters(model.network, frozen).items():
        # On the CPU, since not every device has 64 bits.
        total = sum((weights[name].to("cpu", torch.float64) for weights in every), torch.zeros(()))
        weight.copy_(total / len(models))


def _check_alike(models: list[MetaNER]) -> None:
    """Checks that models can be averaged: each of them with the first."""
    first = models[0]
    standing = _standing(first)
    for i, model in enumerate(models[1:], 1):
        if model.labels != first.labels:
            raise LabelMismatchError(
                f"model {i} has the tags {', '.join(model.labels.tags)}, the first {', '.join(first.labels.tags)}: "
                "average models with the same tags in the same order"
            )
        if model.settings.freeze_layers != first.settings.freeze_layers or _standing(model) != standing:
            raise UnsupportedModelError(
                f"model {i} has other frozen weights or another tokenizer than the first: average models that were "
                "trained from one encoder with the same freeze_layers"
            )
        if not heads_alike(first, model):
            raise UnsupportedModelError(
                f"the head of model {i} has nothing in common with that of the first, so that their mean would tag "
                "badly: average models trained from MetaNER.from_encoder with one and the same seed"
            )


def heads_alike(first: MetaNER, second: MetaNER) -> bool:
    """Whether the heads of two models of one architecture can have started as one."""
    return float(torch.cosine_similarity(_head(first), _head(second), dim=0)) >= _ALIKE  # False if there is none


def _standing(model: MetaNER) -> tuple[object, ...]:
    """What averaging leaves as it is: the frozen weights, the shapes of the others, the tokenizer."""
    moving = adapted_parameters(model.network, model.settings.freeze_layers)
    shapes = {name: tuple(weight.shape) for name, weight in moving.items()}
    standing = standing_tensors(model.network, model.settings.freeze_layers)
    return fingerprint_of(standing), shapes, model.tokenizer.get_vocab()


def _head(model: MetaNER) -> Tensor:
    """The matrices of the head, in one row."""
    weights = [weight for module in head_of(model.network) for weight in module.parameters() if weight.dim() > 1]
    return torch.cat([weight.detach().flatten().to("cpu", torch.float64) for weight in weights])
