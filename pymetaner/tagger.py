"""What happens in a call of `adapt` or `predict`: reading, searching, adapting, voting, decoding."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pymetaner.decode import decode
from pymetaner.engine import (
    Computation,
    FineTuning,
    Task,
    Work,
    batched_logits,
    computing_in,
    fine_tuned_logits,
    reference_logits,
)
from pymetaner.errors import MemoryLimitError, UnsupportedModelError
from pymetaner.knn import bank_of, fused
from pymetaner.learning import Learning
from pymetaner.model import MetaNER
from pymetaner.progress import track
from pymetaner.reading import Reading
from pymetaner.result import Profile, Result, Support
from pymetaner.sentence import Sentence
from pymetaner.whole_memory import model_of_memory

__all__ = ["Tagged", "tag"]

_SHOWN = 3  # supports that a result names where all were learned from
_CHUNK_SENTENCES, _CHUNK_WORDS = 1024, 32768  # that are tagged together, so that memory does not grow with the input


@dataclass(frozen=True)
class Tagged:
    """A sentence with the tags and tag probabilities before and after adapting, one per word."""

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
    model: MetaNER,
    sentences: Sequence[Sentence],
    learning: Learning | None,
    computation: Computation,
    numbers: Sequence[int] | None = None,
) -> tuple[list[Tagged], Profile]:
    """The sentences tagged by the model as it stands and, if there is something to learn from, adapted.

    Args:
        model: the model.
        sentences: what is tagged.
        learning: what to learn from, and how.
        computation: batch size, precision, cache and progress.
        numbers: the place of each in what the caller was given, for errors; by default in `sentences`.
    """
    if sentences and learning is not None and (learning.k or learning.knn) and not len(learning.memory):
        warnings.warn(
            "the memory is empty, so there is nothing to adapt on: add labelled sentences with memory.add(...)",
            stacklevel=3,
        )
    tagging = _Tagging(model, learning, computation)
    chunks = list(_chunks(sentences))
    if len(chunks) > 1:
        tagging.computation = replace(computation, progress=False)  # one bar over all chunks instead
    numbers = range(len(sentences)) if numbers is None else numbers
    tagged: list[Tagged] = []
    for chunk in track(chunks, "tagging", computation.progress and len(chunks) > 1):
        tagged += tagging.run(chunk, numbers[len(tagged) : len(tagged) + len(chunk)])
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
            if isinstance(learning.inner, FineTuning):
                self.engine = "fine-tuned"

    def run(self, sentences: Sequence[Sentence], numbers: Sequence[int]) -> list[Tagged]:
        """The sentences tagged."""
        model, computation = self.model, self.computation
        excluded: list[frozenset[int]] | None = None
        if self.learning is not None and self.learning.exclude_self:
            # Where the memory's words were cut at the edges of labels they differ from those that are read here.
            excluded = self.learning.memory.find_texts(sentences)
        started = time.perf_counter()
        with computing_in(computation.precision, model.network):
            readings = model.read(
                sentences,
                batch_size=computation.batch_size,
                progress=computation.progress,
                keep_lower=self.engine in ("batched", "fine-tuned"),
                keep_hidden=self.learning is not None and self.learning.knn > 0,
            )
        base = decode([r.logits for r in readings], model.labels, model.settings.decoding, numbers)
        self._spent("reading", started)
        supports: list[tuple[Support, ...]] = [() for _ in sentences]
        logits: list[NDArray[np.floating[Any]]] | None = None
        if self.learning is not None and self.learning.k and sentences:
            started = time.perf_counter()
            supports = _supports(model, sentences, np.stack([r.vector for r in readings]), self.learning, excluded)
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
            votes = self._votes(excluded, readings, self.learning)
            logits = list(fused(logits or [r.logits for r in readings], votes, self.learning.knn))
            self._spent("searching", started)
        adapted = base if logits is None else decode(logits, model.labels, model.settings.decoding, numbers)
        return [
            Tagged(sentence, *before, *after, hits)
            for sentence, before, after, hits in zip(sentences, base, adapted, supports, strict=True)
        ]

    def _votes(
        self, excluded: list[frozenset[int]] | None, readings: Sequence[Reading], learning: Learning
    ) -> list[NDArray[np.float64]]:
        memory = learning.memory
        memory.check(self.model)
        with computing_in(self.computation.precision, self.model.network):
            return bank_of(self.model, memory).probabilities(
                [reading.hidden for reading in readings], excluded, batch_size=self.computation.batch_size
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
        if isinstance(learning.inner, FineTuning):
            learned = model_of_memory(self.model, learning.memory, learning.inner, self.computation)
            return fine_tuned_logits(learned, tasks, self.computation, self.work)
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
    model: MetaNER,
    sentences: Sequence[Sentence],
    vectors: NDArray[np.float32],
    learning: Learning,
    excluded: list[frozenset[int]] | None,
) -> list[tuple[Support, ...]]:
    """The nearest labelled sentences of each sentence; none for one without words."""
    memory = learning.memory
    memory.check(model)
    k = _SHOWN if learning.k == "all" else learning.k
    hits = memory.search(vectors, k, exclude_self=excluded)
    return [
        tuple(Support(hit.sentence, hit.similarity) for hit in found) if len(sentence) else ()
        for sentence, found in zip(sentences, hits, strict=True)
    ]
