"""`adapt` and `predict`: sentences in, entities out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pymetaner.decode import decode
from pymetaner.engine import Engine, InnerOptimizer, InnerStep, Task, batched_logits, can_batch, reference_logits
from pymetaner.errors import SettingError, UnsupportedModelError
from pymetaner.inputs import Taggable, as_sentences
from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.result import Result, Support
from pymetaner.sentence import Sentence

__all__ = ["EngineName", "Tagged", "adapt", "predict", "tag"]

EngineName = Literal["auto", "batched", "reference"]


@overload
def adapt(  # type: ignore[overload-overlap]  # a string is a list of strings too, but not for us
    model: MetaNER,
    x: str | Sentence,
    *,
    memory: Memory | None = None,
    k: int = 2,
    steps: int = 1,
    lr: float | None = None,
    inner_optimizer: InnerOptimizer = "sgd",
    engine: EngineName = "auto",
    exclude_self: bool = False,
    batch_size: int = 16,
    progress: bool = False,
) -> Result: ...


@overload
def adapt(
    model: MetaNER,
    x: Taggable,
    *,
    memory: Memory | None = None,
    k: int = 2,
    steps: int = 1,
    lr: float | None = None,
    inner_optimizer: InnerOptimizer = "sgd",
    engine: EngineName = "auto",
    exclude_self: bool = False,
    batch_size: int = 16,
    progress: bool = False,
) -> list[Result]: ...


def adapt(
    model: MetaNER,
    x: Taggable,
    *,
    memory: Memory | None = None,
    k: int = 2,
    steps: int = 1,
    lr: float | None = None,
    inner_optimizer: InnerOptimizer = "sgd",
    engine: EngineName = "auto",
    exclude_self: bool = False,
    batch_size: int = 16,
    progress: bool = False,
) -> Result | list[Result]:
    """The entities of each sentence, found by a model that first took a step on the sentence's own supports.

    For each sentence, the `k` most similar labelled sentences of the memory are fetched, the model's unfrozen weights
    take `steps` gradient steps on them, and the sentence is tagged (Wu et al. 2020, section 3.4). The model itself is
    never written to, so threads may share it.

    Args:
        model: the model.
        x: a text, a list of texts, or a list of token lists. A text is one sentence however long; blank ones have no
            entities.
        memory: labelled sentences to learn from; `model.memory` by default.
        k: how many supports a sentence gets, 1 or more; all there are if the memory has fewer.
        steps: inner steps, 1 or more.
        lr: inner step size, above 0; by default the one in ``model.settings.lr`` for the optimiser.
        inner_optimizer: ``"sgd"``, or ``"bertadam"`` as in the official code.
        engine: ``"reference"``, the sequential loop; ``"batched"``, one SGD step for a whole batch in two passes;
            ``"auto"``, the batched one where it applies.
        exclude_self: leave a sentence of the memory out of the supports of the same sentence (same words).
        batch_size: the most sentences in a batch.
        progress: show a progress bar.

    Returns:
        One `Result` for a text, a list of them for a list. `start` and `end` of an entity count characters of a text,
        and then ``text[start:end] == entity.text``; for a token list they count tokens.

    Raises:
        InputError: if `x` holds something that is not text.
        SettingError: if a setting is out of range.
        EncoderMismatchError, LabelMismatchError: if the memory was made for another model.

    Example:
        >>> result = pymetaner.adapt(model, "Marie Curie nació en Varsovia.")  # doctest: +SKIP
        >>> [(e.text, e.label) for e in result.entities]  # doctest: +SKIP
        [('Marie Curie', 'PER'), ('Varsovia', 'LOC')]
    """
    sentences, single = as_sentences(x)
    learning = Learning(
        memory=model.memory if memory is None else memory,
        k=k,
        inner=inner_step(model, lr, steps, inner_optimizer),
        engine=engine,
        exclude_self=exclude_self,
    )
    tagged = tag(model, sentences, learning, batch_size=batch_size, progress=progress)
    results = [item.result() for item in tagged]
    return results[0] if single else results


def predict(model: MetaNER, x: Taggable, *, batch_size: int = 16, progress: bool = False) -> Result | list[Result]:
    """The entities of each sentence as the model stands; arguments and result as for `adapt`."""
    sentences, single = as_sentences(x)
    results = [item.result() for item in tag(model, sentences, None, batch_size=batch_size, progress=progress)]
    return results[0] if single else results


def inner_step(model: MetaNER, lr: float | None, steps: int, optimizer: InnerOptimizer) -> InnerStep:
    """The inner step of these settings, the model's own step size by default."""
    step = InnerStep(lr=1.0 if lr is None else lr, steps=steps, optimizer=optimizer)
    return step if lr is not None else replace(step, lr=model.settings.lr[optimizer])


@dataclass(frozen=True)
class Learning:
    """What to learn from before tagging, and how; the arguments of `adapt`."""

    memory: Memory
    k: int
    inner: InnerStep
    engine: EngineName = "auto"
    exclude_self: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.memory, Memory):
            raise SettingError(
                f"memory is a {type(self.memory).__name__}: expected a Memory; Memory(model) makes one, to add to"
            )
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise SettingError(f"k={self.k!r}: expected a whole number, 1 or more")
        if self.engine not in ("auto", "batched", "reference"):
            raise SettingError(f"engine={self.engine!r}: expected 'auto', 'batched' or 'reference'")
        if self.engine == "batched" and not can_batch(self.inner):
            raise SettingError(
                f"engine='batched' takes one step of SGD, not {self.inner.steps} of {self.inner.optimizer}: "
                "use engine='reference'"
            )


@dataclass(frozen=True)
class Tagged:
    """A sentence with the tags and tag probabilities before and after adapting, one a word."""

    sentence: Sentence
    base_tags: tuple[str, ...]
    base_scores: NDArray[np.float64]
    tags: tuple[str, ...]
    scores: NDArray[np.float64]
    supports: tuple[Support, ...]

    def result(self) -> Result:
        """The tags as entities."""
        sentence = self.sentence
        return Result(
            sentence=sentence,
            entities=sentence.entities_of(self.tags, self.scores.tolist()),
            base_entities=sentence.entities_of(self.base_tags, self.base_scores.tolist()),
            supports=self.supports,
        )


def tag(
    model: MetaNER, sentences: Sequence[Sentence], learning: Learning | None, *, batch_size: int, progress: bool
) -> list[Tagged]:
    """The sentences tagged by the model as it stands and, if there is something to learn from, adapted."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise SettingError(f"batch_size={batch_size!r}: expected a whole number, 1 or more")
    readings = model.read(sentences, batch_size=batch_size, progress=progress)
    base = decode([r.logits for r in readings], model.labels, model.settings.decoding)
    supports: list[tuple[Support, ...]] = [() for _ in sentences]
    adapted = base
    if learning is not None and sentences:
        vectors = np.stack([r.vector for r in readings])
        supports = _supports(model, sentences, vectors, learning)
        tasks = [Task(s, tuple(h.sentence for h in hits)) for s, hits in zip(sentences, supports, strict=True)]
        logits = _run(model, tasks, learning, batch_size, progress)
        adapted = decode(logits, model.labels, model.settings.decoding)
    return [
        Tagged(sentence, *before, *after, hits)
        for sentence, before, after, hits in zip(sentences, base, adapted, supports, strict=True)
    ]


def _supports(
    model: MetaNER, sentences: Sequence[Sentence], vectors: NDArray[np.float32], learning: Learning
) -> list[tuple[Support, ...]]:
    """The nearest labelled sentences of each sentence; none for one without words."""
    memory = learning.memory
    memory.check(model)
    if not len(memory):
        warnings.warn(
            "the memory is empty, so there is nothing to adapt on: add labelled sentences with memory.add(...)",
            stacklevel=4,
        )
        return [() for _ in sentences]
    hits = memory.search(vectors, learning.k, exclude_self=sentences if learning.exclude_self else None)
    return [
        tuple(Support(hit.sentence, hit.similarity) for hit in found) if len(sentence) else ()
        for sentence, found in zip(sentences, hits, strict=True)
    ]


def _run(
    model: MetaNER, tasks: Sequence[Task], learning: Learning, batch_size: int, progress: bool
) -> list[NDArray[np.floating[Any]]]:
    engine: Engine = reference_logits
    if learning.engine == "batched" or (learning.engine == "auto" and can_batch(learning.inner)):
        engine = batched_logits
    with torch.inference_mode(False):  # a caller's own would leave nothing to learn with
        try:
            return engine(model, tasks, learning.inner, batch_size, progress)
        except UnsupportedModelError:
            if learning.engine == "batched":
                raise
            return reference_logits(model, tasks, learning.inner, batch_size, progress)
