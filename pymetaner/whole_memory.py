"""A model that learned from every sentence of a memory, kept until the memory or the model's weights change."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from pymetaner.engine import Computation, FineTuning, fine_tuned_model
from pymetaner.network import weights_version

if TYPE_CHECKING:
    from pymetaner.memory import Memory
    from pymetaner.model import MetaNER

__all__ = ["model_of_memory"]


class _Kept:
    """What was learned last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.state: object = None
        self.model: MetaNER | None = None


def model_of_memory(model: MetaNER, memory: Memory, how: FineTuning, computation: Computation) -> MetaNER:
    """The model fine-tuned on all sentences of a memory that is not empty.

    It learns at the first call, and again when the memory, the weights or the settings have changed; threads that
    ask meanwhile wait for it.
    """
    with _lock:
        kept = _all_kept.setdefault(memory, _Kept())
    with kept.lock:
        state = (weights_version(model.network), memory.ids.tobytes(), how, computation.precision)
        if kept.model is None or kept.state != state:
            kept.model = None  # the weights of two need not fit into memory
            supports = [sentence for _, sentence in memory]
            kept.model = fine_tuned_model(model, supports, how, computation)
            kept.state = state
        return kept.model


_all_kept: weakref.WeakKeyDictionary[Memory, _Kept] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
