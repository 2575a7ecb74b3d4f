"""A model that learned from every sentence of a memory: one of its own, or one that `adapt` keeps for k="all"."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from pymetaner.checks import check_model
from pymetaner.engine import Computation, FineTuning, Precision, fine_tuned_model
from pymetaner.errors import EmptyDataError
from pymetaner.forks import PerObject
from pymetaner.learning import step_size
from pymetaner.memory import Memory
from pymetaner.memory.encoder import check_labelled
from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence
from pymetaner.source import Source

__all__ = ["fine_tune", "model_of_memory"]


def fine_tune(
    model: MetaNER,
    labelled: Memory | Iterable[Sentence] | None = None,
    *,
    steps: int | None = None,
    lr: float | Sequence[float] | None = None,
    lambda_max: float | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    progress: bool = False,
) -> MetaNER:
    """A new model that learned from labelled sentences: what ``adapt(..., k="all")`` tags with, to be saved.

    A copy of the weights is fine-tuned (`pymetaner.engine.FineTuning`), made for tens to thousands of sentences; to
    train on more, or a new head, there is `pymetaner.train`. `pymetaner.predict` with the new model is what
    `pymetaner.adapt` with ``k="all"`` is with the old one.

    The new model has a copy of the memory, in RAM, with the sentences in it, but no calibration: that was found for the
    old weights. Frozen weights are shared with the old model, all others are copies.

    Args:
        model: the model; nothing of it is changed.
        labelled: a memory, or labelled sentences, of the model's entity types; `model.memory` by default.
        steps: of 32 sentences each; by default six passes over the sentences, but at least 24 steps or eight passes,
            whichever is less, and at most 320 steps.
        lr: step size of AdamW, above 0, or one for each unfrozen layer and one for the head; by default the one in
            ``model.settings.lr``.
        lambda_max: weight of the largest token loss of each sentence, 0 or more; 0 by default.
            Where none of `steps`, `lr` and `lambda_max` is given and ``calibrate()`` chose ``k="all"`` for the memory,
            these are what it found.
        seed: fixes batches and dropout.
        precision: of products: ``"fp32"``, ``"tf32"`` (CUDA) or ``"bf16"``.
        progress: show a progress bar.

    Raises:
        DataError, EmptyDataError: if a sentence is not labelled or has no word, or there is none.
        LabelMismatchError: if one has an entity type that the model does not tag.
        EncoderMismatchError: if the memory was made for another model.
        SettingError: if a setting is out of range, or the model is no `MetaNER`.

    Example:
        >>> mine = pymetaner.fine_tune(model, pymetaner.read("mine.conll"), progress=True)  # doctest: +SKIP
        >>> mine.save_pretrained("mine")  # doctest: +SKIP
    """
    check_model(model)
    memory = labelled if isinstance(labelled, Memory) else model.memory
    memory.check(model)
    added: list[Sentence] = []
    if labelled is None or isinstance(labelled, Memory):
        supports = [sentence for _, sentence in memory]
        if not supports:
            raise EmptyDataError("the memory is empty: add labelled sentences to it, or give some to learn from")
        calibrated = memory.calibration or {}
        if steps is None and lr is None and lambda_max is None and calibrated.get("k") == "all":
            steps, lr, lambda_max = (calibrated.get(name) for name in ("steps", "lr", "lambda_max"))
    else:
        supports = added = check_labelled(labelled, model.types)
    how = FineTuning(step_size(model, lr, "adamw"), steps, lambda_max or 0.0, seed=seed)
    trained = fine_tuned_model(model, supports, how, Computation(precision=precision, progress=progress))
    trained.source = Source.of(trained, supports, before=model.source)
    trained.memory = memory.copy_for(trained)
    if added:
        trained.memory.add(added)
    return trained


class _Kept:
    """What was learned last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.state: object = None
        self.model: MetaNER | None = None


def model_of_memory(model: MetaNER, memory: Memory, how: FineTuning, computation: Computation) -> MetaNER:
    """The model fine-tuned on all sentences of a memory; the model itself if there is none.

    It learns at the first call, and again when the memory, the weights or the settings have changed; threads that
    ask meanwhile wait for it.
    """
    with _learned.lock:
        kept = _learned.kept.setdefault(memory, _Kept())
    with kept.lock:
        reading, ids = memory.version()
        made = (model.state, reading, how, computation.precision)
        if kept.model is None or kept.state != (made, ids.tolist()):
            kept.model = None  # the weights of two need not fit into memory
            supports = dict(memory)
            if not supports:  # emptied while this waited
                return model
            kept.model = fine_tuned_model(model, list(supports.values()), how, computation)
            kept.state = made, list(supports)  # what it learned from, which need not be what there was just before
        return kept.model


_learned: PerObject[Memory, _Kept] = PerObject()
