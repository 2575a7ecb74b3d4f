"""Cross-lingual named-entity recognition that adapts itself to every sentence.

    >>> import pymetaner
    >>> model = pymetaner.default_model()                                  # doctest: +SKIP
    >>> print(pymetaner.adapt(model, "Marie Curie nació en Varsovia."))    # doctest: +SKIP

Names are imported when they are first used, so that `import pymetaner` costs next to nothing.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymetaner.adaptation import adapt, predict
    from pymetaner.averaging import average
    from pymetaner.cache import FactorCache
    from pymetaner.calibration import Calibration, calibrate
    from pymetaner.default import default_model
    from pymetaner.errors import PymetanerError
    from pymetaner.evaluation import Evaluation, evaluate
    from pymetaner.extension import extend
    from pymetaner.labels import LabelScheme
    from pymetaner.learning import Learning, learning_of
    from pymetaner.memory import Memory
    from pymetaner.model import MetaNER
    from pymetaner.ops import cosine_topk, masked_token_loss
    from pymetaner.readers import from_dataset, read, write
    from pymetaner.result import Profile, Result, Support
    from pymetaner.sentence import Entity, Sentence
    from pymetaner.settings import Settings
    from pymetaner.training import MetaSettings, TrainSettings, train
    from pymetaner.unlabelled import self_train
    from pymetaner.whole_memory import fine_tune
    from pymetaner.words import sentence_from_text

__version__ = _version("pymetaner")

_HOMES = {
    "Calibration": "calibration",
    "Entity": "sentence",
    "Evaluation": "evaluation",
    "FactorCache": "cache",
    "LabelScheme": "labels",
    "Learning": "learning",
    "Memory": "memory",
    "MetaNER": "model",
    "MetaSettings": "training",
    "Profile": "result",
    "PymetanerError": "errors",
    "Result": "result",
    "Sentence": "sentence",
    "Settings": "settings",
    "Support": "result",
    "TrainSettings": "training",
    "adapt": "adaptation",
    "average": "averaging",
    "calibrate": "calibration",
    "cosine_topk": "ops",
    "default_model": "default",
    "evaluate": "evaluation",
    "extend": "extension",
    "fine_tune": "whole_memory",
    "from_dataset": "readers",
    "learning_of": "learning",
    "masked_token_loss": "ops",
    "predict": "adaptation",
    "read": "readers",
    "self_train": "unlabelled",
    "sentence_from_text": "words",
    "train": "training",
    "write": "readers",
}

__all__ = [
    "Calibration",
    "Entity",
    "Evaluation",
    "FactorCache",
    "LabelScheme",
    "Learning",
    "Memory",
    "MetaNER",
    "MetaSettings",
    "Profile",
    "PymetanerError",
    "Result",
    "Sentence",
    "Settings",
    "Support",
    "TrainSettings",
    "__version__",
    "adapt",
    "average",
    "calibrate",
    "cosine_topk",
    "default_model",
    "evaluate",
    "extend",
    "fine_tune",
    "from_dataset",
    "learning_of",
    "masked_token_loss",
    "predict",
    "read",
    "self_train",
    "sentence_from_text",
    "train",
    "write",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pymetaner' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pymetaner.{home}"), name)


def __dir__() -> list[str]:
    return __all__
