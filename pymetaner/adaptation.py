"""`adapt` and `predict`: sentences in, entities out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pymetaner.cache import FactorCache
from pymetaner.decode import decode
from pymetaner.engine import (
    Computation,
    InnerOptimizer,
    Precision,
    Task,
    Work,
    batched_logits,
    computing_in,
    full_batch_logits,
    reference_logits,
)
from pymetaner.errors import MemoryLimitError, UnsupportedModelError
from pymetaner.inputs import Taggable, as_sentences
from pymetaner.knn import bank_of, fused
from pymetaner.learning import EngineName, Learning, Supports, learning_of
from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.progress import track
from pymetaner.reading import Reading
from pymetaner.result import Profile, Result, Support
from pymetaner.sentence import Sentence
from pymetaner.whole_memory import model_of_memory

__all__ = ["Tagged", "adapt", "predict", "tag"]

_SHOWN = 3  # supports that a result names where all were learned from
_CHUNK_SENTENCES, _CHUNK_WORDS = 1024, 32768  # that are tagged together, so that memory does not grow with the input


@overload
def adapt(  # type: ignore[overload-overlap]  # a string is a list of strings too, but not for us
    model: MetaNER,
    x: str | Sentence,
    *,
    memory: Memory | None = None,
    k: Supports | None = None,
    steps: int | None = None,
    lr: float | Sequence[float] | None = None,
    inner_optimizer: InnerOptimizer | None = None,
    lambda_max: float | None = None,
    knn: float | None = None,
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
    k: Supports | None = None,
    steps: int | None = None,
    lr: float | Sequence[float] | None = None,
    inner_optimizer: InnerOptimizer | None = None,
    lambda_max: float | None = None,
    knn: float | None = None,
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
    k: Supports | None = None,
    steps: int | None = None,
    lr: float | Sequence[float] | None = None,
    inner_optimizer: InnerOptimizer | None = None,
    lambda_max: float | None = None,
    knn: float | None = None,
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
        k: how many supports a sentence gets, 2 by default; all there are if the memory has fewer; 0 to take no step.
            ``"all"``: the steps are taken on the whole memory, once, and kept until it changes; a call then costs less
            than twice what `predict` does.
            Where none of `k` to `knn` is given, what ``memory.calibrate()`` found is used, if it was called.
        steps: inner steps, 1 or more; 1 by default, 2 with ``k="all"``.
        lr: inner step size, above 0, or one for each unfrozen layer and one for the head; by default the one in
            ``model.settings.lr`` for the optimiser.
        inner_optimizer: ``"sgd"``, the default, ``"bertadam"`` as in the official code, or ``"signsgd"``, the default
            with ``k="all"``.
        lambda_max: weight of the largest token loss of each support in the inner loss, 0 or more; 0 by default.
        knn: weight, 0 to 1, of the votes of the memory's words that are most like a word (`pymetaner.knn`); 0 by
            default. The first call reads the memory's sentences for it.
        engine: ``"reference"``, the sequential loop; ``"batched"``, the same logits for whole batches at once;
            ``"auto"``, the batched one where the network and the memory allow it. With ``k="all"`` every one but the
            loop is the full-batch one.
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
    learning = learning_of(
        model,
        memory,
        k=k,
        lr=lr,
        steps=steps,
        inner_optimizer=inner_optimizer,
        lambda_max=lambda_max,
        knn=knn,
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
            self.engine = "full-batch" if learning.k == "all" else "batched"
            if learning.engine == "reference":
                self.engine = "reference"

    def run(self, sentences: Sequence[Sentence]) -> list[Tagged]:
        """The sentences tagged."""
        model, computation = self.model, self.computation
        started = time.perf_counter()
        with computing_in(computation.precision, model.network):
            readings = model.read(
                sentences,
                batch_size=computation.batch_size,
                progress=computation.progress,
                keep_lower=self.engine in ("batched", "full-batch"),
                keep_hidden=self.learning is not None and self.learning.knn > 0,
            )
        base = decode([r.logits for r in readings], model.labels, model.settings.decoding)
        self._spent("reading", started)
        supports: list[tuple[Support, ...]] = [() for _ in sentences]
        logits: list[NDArray[np.floating[Any]]] | None = None
        if self.learning is not None and self.learning.k and sentences:
            started = time.perf_counter()
            supports = _supports(model, sentences, np.stack([r.vector for r in readings]), self.learning)
            self._spent("searching", started)
            started = time.perf_counter()
            tasks = [
                Task(sentence, tuple(hit.sentence for hit in hits), reading.lower)
                for sentence, hits, reading in zip(sentences, supports, readings, strict=True)
            ]
            if self.learning.k != "all" or len(self.learning.memory):
                logits = self._logits(tasks, self.learning)
            self._spent("adapting", started)
        if self.learning is not None and self.learning.knn and sentences:
            started = time.perf_counter()
            votes = self._votes(sentences, readings, self.learning)
            logits = list(fused(logits or [r.logits for r in readings], votes, self.learning.knn))
            self._spent("searching", started)
        adapted = base if logits is None else decode(logits, model.labels, model.settings.decoding)
        return [
            Tagged(sentence, *before, *after, hits)
            for sentence, before, after, hits in zip(sentences, base, adapted, supports, strict=True)
        ]

    def _votes(
        self, sentences: Sequence[Sentence], readings: Sequence[Reading], learning: Learning
    ) -> list[NDArray[np.float64]]:
        memory = learning.memory
        memory.check(self.model)
        itself = [frozenset(memory.find(s)) for s in sentences] if learning.exclude_self else None
        with computing_in(self.computation.precision, self.model.network):
            return bank_of(self.model, memory).probabilities(
                [reading.hidden for reading in readings], itself, batch_size=self.computation.batch_size
            )

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
            if self.engine == "full-batch":
                learned = model_of_memory(self.model, learning.memory, learning.inner, self.computation)
                return full_batch_logits(learned, tasks, self.computation, self.work)
            if learning.k == "all":
                everything = tuple(support for _, support in learning.memory)
                tasks = [replace(task, supports=everything) for task in tasks]
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
    k = _SHOWN if learning.k == "all" else learning.k
    hits = memory.search(vectors, k, exclude_self=sentences if learning.exclude_self else None)
    return [
        tuple(Support(hit.sentence, hit.similarity) for hit in found) if len(sentence) else ()
        for sentence, found in zip(sentences, hits, strict=True)
    ]
