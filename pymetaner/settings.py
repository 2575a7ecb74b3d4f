"""The settings of a model, saved beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pymetaner.checks import keep, one_of, step_sizes, whole
from pymetaner.errors import SettingError

__all__ = ["Settings"]

STEP_SIZES: dict[str, float | tuple[float, ...]] = {"sgd": 0.02, "bertadam": 1e-5, "adamw": 2e-4}


@dataclass(frozen=True)
class Settings:
    """How a model reads and tags; saved beside its weights as ``pymetaner.json``.

    Attributes:
        window: the most pieces that the encoder reads at once, special tokens included: by default no more than half of
            what encoders can, since taggers are trained on sentences, and lose names in what is far longer.
        overlap: pieces shared by neighbouring windows of a sentence that is longer.
        pooling: sentence vector: ``"mean"`` of the hidden states after the frozen layers, or ``"cls"``, the first one.
        freeze_layers: the embeddings and this many encoder layers are neither trained nor adapted, and sentence vectors
            are read after them (after the last layer if it is 0).
        decoding: ``"viterbi"``, the most probable valid tag sequence, or ``"argmax"``, each word for itself, repaired:
            for checkpoints trained elsewhere, which may not have learned where an entity has to begin.
        script: how Chinese words are read: ``"known"``, each in simplified or in traditional characters, whichever the
            tokenizer has in fewer pieces, as it stands if both are the same to it; or ``"given"``, as they stand.
        lr: the default step size of `pymetaner.adapt` for each inner optimiser: a number, or one for each unfrozen
            layer and one for the head, and for ``"adamw"``, which fine-tunes on a whole memory; 0.02, 1e-5 and 2e-4 for
            those that are left out.

    Raises:
        SettingError: if a value is out of range.
    """

    window: int = 256
    overlap: int = 64
    pooling: Literal["mean", "cls"] = "mean"
    freeze_layers: int = 4
    decoding: Literal["viterbi", "argmax"] = "viterbi"
    script: Literal["known", "given"] = "known"
    lr: dict[str, float | tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = {"pooling": ("mean", "cls"), "decoding": ("viterbi", "argmax"), "script": ("known", "given")}
        for name, options in choices.items():
            one_of(name, getattr(self, name), options)
        keep(self, whole, "window", "overlap", "freeze_layers")
        if not isinstance(self.lr, Mapping) or not self.lr.keys() <= STEP_SIZES.keys():
            raise SettingError(f"lr={self.lr!r}: expected the step sizes of some of {', '.join(STEP_SIZES)}, by name")
        rates = {name: step_sizes(f"lr[{name!r}]", rate) for name, rate in self.lr.items()}
        object.__setattr__(self, "lr", STEP_SIZES | rates)
