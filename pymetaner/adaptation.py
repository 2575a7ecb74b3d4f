"""`adapt` and `predict`: sentences in, entities out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pymetaner.cache import FactorCache
from pymetaner.decode import decode
from pymetaner.engine import (
    Computation,
    InnerOptimizer,
    InnerStep,
    Precision,
    Task,
    Work,
    batched_logits,
    computing_in,
    reference_logits,
)
from pymetaner.errors import MemoryLimitError, SettingError, UnsupportedModelError
from pymetaner.inputs import Taggable, as_sentences
from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.progress import track
from pymetaner.result import Profile, Result, Support
from pymetaner.sentence import Sentence

__all__ = ["EngineName", "Tagged", "adapt", "predict", "tag"]

_CHUNK_SENTENCES, _CHUNK_WORDS = 1024, 32768  # that are tagged together, so that memory does not grow with the input

EngineName = Literal["auto", "batched", "reference"]


@overload
def adapt(  # type: ignore[overload-overlap]  # a string is a list of strings too, but not for us
    model: MetaNER,
    x: str | Sentence,
    *,
    memory: Memory | None = None,
    k: int = 2,
    steps: int = 1,
    lr: float | Sequence[float] | None = None,
    inner_optimizer: InnerOptimizer = "sgd",
    lambda_max: float = 0.0,
    engine: EngineName = "auto",
    exclude_self: bool = False,
    batch_size: int = 16,
    precision: Precision = "fp32",
    cache: FactorCache | None = None,
    memory_bytes: int | None = None,
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
    lr: float | Sequence[float] | None = None,
    inner_optimizer: InnerOptimizer = "sgd",
    lambda_max: float = 0.0,
    engine: EngineName = "auto",
    exclude_self: bool = False,
    batch_size: int = 16,
    precision: Precision = "fp32",
    cache: FactorCache | None = None,
    memory_bytes: int | None = None,
    progress: bool = False,
) -> list[Result]: ...


def adapt(
    model: MetaNER,
    x: Taggable,
    *,
    memory: Memory | None = None,
    k: int = 2,
    steps: int = 1,
    lr: float | Sequence[float] | None = None,
    inner_optimizer: InnerOptimizer = "sgd",
    lambda_max: float = 0.0,
    engine: EngineName = "auto",
    exclude_self: bool = False,
    batch_size: int = 16,
    precision: Precision = "fp32",
    cache: FactorCache | None = None,
    memory_bytes: int | None = None,
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
        k: how many supports a sentence gets; all there are if the memory has fewer; 0 to tag without adapting.
        steps: inner steps, 1 or more.
        lr: inner step size, above 0, or one for each unfrozen layer and one for the head; by default the one in
            ``model.settings.lr`` for the optimiser.
        inner_optimizer: ``"sgd"``, or ``"bertadam"`` as in the official code.
        lambda_max: weight of the largest token loss of each support in the inner loss, 0 or more.
        engine: ``"reference"``, the sequential loop; ``"batched"``, the same logits for whole batches at once;
            ``"auto"``, the batched one where the network and the memory allow it.
        exclude_self: leave a sentence of the memory out of the supports of the same sentence (same words).
        batch_size: the most sentences in a batch.
        precision: of products: ``"fp32"``, ``"tf32"`` (CUDA) or ``"bf16"``.
        cache: where factors of supports are kept between calls; `model.cache` by default.
        memory_bytes: what a batch may take, about, before it is split: by default a quarter of the machine's memory, or
            half of what is free on the GPU.
        progress: show a progress bar.

    Returns:
        One `Result` for a text, a list of them for a list. `start` and `end` of an entity count characters of a text,
        and then ``text[start:end] == entity.text``; for a token list they count tokens.

    Raises:
        InputError: if `x` holds something that is not text.
        SettingError: if a setting is out of range.
        MemoryLimitError: if a single sentence with its supports does not fit into memory.
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
        inner=inner_step(model, lr, steps, inner_optimizer, lambda_max),
        engine=engine,
        exclude_self=exclude_self,
    )
    computation = Computation(
        batch_size=batch_size,
        precision=precision,
        cache=model.cache if cache is None else cache,
        memory_bytes=memory_bytes,
        progress=progress,
    )
    tagged, profile = tag(model, sentences, learning, computation)
    results = [item.result(profile) for item in tagged]
    return results[0] if single else results


def predict(
    model: MetaNER, x: Taggable, *, batch_size: int = 16, precision: Precision = "fp32", progress: bool = False
) -> Result | list[Result]:
    """The entities of each sentence as the model stands; arguments and result as for `adapt`."""
    sentences, single = as_sentences(x)
    computation = Computation(batch_size=batch_size, precision=precision, progress=progress)
    tagged, profile = tag(model, sentences, None, computation)
    results = [item.result(profile) for item in tagged]
    return results[0] if single else results


def inner_step(
    model: MetaNER, lr: float | Sequence[float] | None, steps: int, optimizer: InnerOptimizer, lambda_max: float = 0.0
) -> InnerStep:
    """The inner step of these settings, the model's own step size by default."""
    if isinstance(lr, Sequence) and not isinstance(lr, str):
        lr = tuple(lr)
    step = InnerStep(lr=1.0 if lr is None else lr, steps=steps, optimizer=optimizer, lambda_max=lambda_max)
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
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 0:
            raise SettingError(f"k={self.k!r}: expected a whole number, 0 or more")
        if self.engine not in ("auto", "batched", "reference"):
            raise SettingError(f"engine={self.engine!r}: expected 'auto', 'batched' or 'reference'")


@dataclass(frozen=True)
class Tagged:
    """A sentence with the tags and tag probabilities before and after adapting, one a word."""

    sentence: Sentence
    base_tags: tuple[str, ...]
    base_scores: NDArray[np.float64]
    tags: tuple[str, ...]
    scores: NDArray[np.float64]
    supports: tuple[Support, ...]

    def result(self, profile: Profile | None = None) -> Result:
        """The tags as entities."""
        sentence = self.sentence
        return Result(
            sentence=sentence,
            entities=sentence.entities_of(self.tags, self.scores.tolist()),
            base_entities=sentence.entities_of(self.base_tags, self.base_scores.tolist()),
            supports=self.supports,
            profile=profile,
        )


def tag(
    model: MetaNER, sentences: Sequence[Sentence], learning: Learning | None, computation: Computation
) -> tuple[list[Tagged], Profile]:
    """The sentences tagged by the model as it stands and, if there is something to learn from, adapted."""
    tagging = _Tagging(model, learning, computation)
    chunks = list(_chunks(sentences))
    if len(chunks) > 1:
        tagging.computation = replace(computation, progress=False)  # one bar over all chunks instead
    tagged: list[Tagged] = []
    for chunk in track(chunks, "tagging", computation.progress and len(chunks) > 1):
        tagged += tagging.run(chunk)
    return tagged, tagging.profile(len(sentences))


class _Tagging:
    """One call of `tag`: what it is done with, and how long it took."""

    def __init__(self, model: MetaNER, learning: Learning | None, computation: Computation) -> None:
        self.model = model
        self.learning = learning
        self.computation = computation
        self.work = Work()
        self.seconds = {"reading": 0.0, "searching": 0.0, "adapting": 0.0}
        self.engine = "none"
        if learning is not None and learning.k:
            self.engine = "reference" if learning.engine == "reference" else "batched"

    def run(self, sentences: Sequence[Sentence]) -> list[Tagged]:
        """The sentences tagged."""
        model, computation = self.model, self.computation
        started = time.perf_counter()
        with computing_in(computation.precision, model.network):
            readings = model.read(
                sentences,
                batch_size=computation.batch_size,
                progress=computation.progress,
                keep_lower=self.engine == "batched",
            )
        base = decode([r.logits for r in readings], model.labels, model.settings.decoding)
        self._spent("reading", started)
        supports: list[tuple[Support, ...]] = [() for _ in sentences]
        adapted = base
        if self.learning is not None and self.learning.k and sentences:
            started = time.perf_counter()
            supports = _supports(model, sentences, np.stack([r.vector for r in readings]), self.learning)
            self._spent("searching", started)
            started = time.perf_counter()
            tasks = [
                Task(sentence, tuple(hit.sentence for hit in hits), reading.lower)
                for sentence, hits, reading in zip(sentences, supports, readings, strict=True)
            ]
            adapted = decode(self._logits(tasks, self.learning), model.labels, model.settings.decoding)
            self._spent("adapting", started)
        return [
            Tagged(sentence, *before, *after, hits)
            for sentence, before, after, hits in zip(sentences, base, adapted, supports, strict=True)
        ]

    def profile(self, sentences: int) -> Profile:
        """What was done so far."""
        cache, work = self.computation.cache, self.work
        return Profile(
            engine=self.engine,
            precision=self.computation.precision,
            sentences=sentences,
            seconds=dict(self.seconds),
            supports=work.supports,
            cached=work.cached,
            cache_bytes=0 if cache is None else cache.nbytes,
            batches=work.batches,
            padding=1 - work.pieces / work.padded if work.padded else 0.0,
        )

    def _spent(self, what: str, started: float) -> None:
        self.seconds[what] += time.perf_counter() - started

    def _logits(self, tasks: Sequence[Task], learning: Learning) -> list[NDArray[np.floating[Any]]]:
        with torch.inference_mode(False):  # a caller's own would leave nothing to learn with
            if self.engine == "batched":
                try:
                    return batched_logits(self.model, tasks, learning.inner, self.computation, self.work)
                except (UnsupportedModelError, MemoryLimitError):
                    if learning.engine == "batched":
                        raise
                    self.engine = "reference"
            return reference_logits(self.model, tasks, learning.inner, self.computation, self.work)


def _chunks(sentences: Sequence[Sentence]) -> Iterator[list[Sentence]]:
    """The sentences in order, a bounded number at a time; one empty chunk if there are none."""
    chunk: list[Sentence] = []
    words = 0
    for sentence in sentences:
        if chunk and (len(chunk) == _CHUNK_SENTENCES or words + len(sentence) > _CHUNK_WORDS):
            yield chunk
            chunk, words = [], 0
        chunk.append(sentence)
        words += len(sentence)
    yield chunk


def _supports(
    model: MetaNER, sentences: Sequence[Sentence], vectors: NDArray[np.float32], learning: Learning
) -> list[tuple[Support, ...]]:
    """The nearest labelled sentences of each sentence; none for one without words."""
    memory = learning.memory
    memory.check(model)
    if not len(memory):
        warnings.warn(
            "the memory is empty, so there is nothing to adapt on: add labelled sentences with memory.add(...)",
            stacklevel=5,
        )
        return [() for _ in sentences]
    hits = memory.search(vectors, learning.k, exclude_self=sentences if learning.exclude_self else None)
    return [
        tuple(Support(hit.sentence, hit.similarity) for hit in found) if len(sentence) else ()
        for sentence, found in zip(sentences, hits, strict=True)
    ]
