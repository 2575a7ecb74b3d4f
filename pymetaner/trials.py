"""Trials of calibration: the memory's own sentences, tagged with one choice of settings after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pymetaner.blinding import aligned, blinded
from pymetaner.cache import FactorCache
from pymetaner.decode import decode
from pymetaner.engine import (
    Computation,
    FineTuning,
    InnerStep,
    Task,
    Work,
    batched_logits,
    computing_in,
    fine_tuned_logits,
    fine_tuned_model,
)
from pymetaner.errors import EmptyDataError, NumericsError
from pymetaner.knn import bank_of, fused
from pymetaner.learning import SupportCount
from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.sampling import spread
from pymetaner.scoring import Score, score, sentence_counts
from pymetaner.sentence import spaceless

__all__ = ["TOO_FEW", "Trial", "Trials", "margin_of"]

TOO_FEW = "a memory of fewer than two sentences cannot be calibrated: add labelled sentences to it"
_RESAMPLES = 500
_FOLDS, _SAMPLE = 3, 200
_TRIAL_STEPS = 12  # of learning from a fold: enough to tell whether it gains
# So many sentences of a kind that is new to the model taught it something in nearly every draw, even where the same
# sentences, tagged in thirds, show the reverse: a handful of them decide that; see LOG.md.
_ENOUGH = 20
_DOUBT = 2.0  # standard errors that they may lose so


@dataclass(frozen=True)
class Trial:
    """One choice of settings, and what it scored.

    Attributes:
        k: supports of a sentence; 0 for tagging without adapting, ``"all"`` for the whole memory.
        inner: the inner step, or how all is learned; None without adapting.
        knn: weight of the nearest labelled words.
        score: of the memory's sentences, each adapted on others only.
        margin: its gain in F1 over not adapting, less one standard error of that gain (paired bootstrap) for each
            choice that it rests on. Learning from all of 20 or more that are new to the model has the benefit of the
            doubt: plus two.
    """

    k: SupportCount
    inner: InnerStep | FineTuning | None
    knn: float
    score: Score
    margin: float


_Choice = tuple[SupportCount, InnerStep | FineTuning | None, float]


def margin_of(trial: Trial) -> float:
    """What trials are compared by."""
    return trial.margin


def _choice(trial: Trial) -> _Choice:
    return trial.k, trial.inner, trial.knn


class Trials:
    """Sentences of a memory with their nearest others, tagged with one choice of settings after another.

    Attributes:
        known: whether the model learned from sentences like these.
        trusting: whether learning from all of them has the benefit of the doubt.
    """

    def __init__(self, model: MetaNER, memory: Memory, k: int, most: int, computation: Computation) -> None:
        self.model = model
        self.memory = memory
        found = memory.sample(most)
        if not found:
            raise EmptyDataError(TOO_FEW)
        self.ids, self.sentences = list(found), list(found.values())
        self.blind = [blinded(sentence) for sentence in self.sentences]
        itself = memory.find_texts(self.sentences)
        with computing_in(computation.precision, model.network):
            self.readings = model.read(self.blind, batch_size=computation.batch_size, keep_lower=True, keep_hidden=True)
            hidden = [reading.hidden for reading in self.readings]
            self.votes = bank_of(model, memory).probabilities(hidden, itself, batch_size=computation.batch_size)
        self.logits: dict[_Choice, list[Any]] = {}
        self.counts: dict[_Choice, NDArray[np.int64]] = {}
        vectors = np.stack([reading.vector for reading in self.readings])
        self.known = model.source is not None and model.source.knows(model, vectors)
        labelled = any(sentence.entities for sentence in self.sentences)
        self.trusting = labelled and len(memory) >= _ENOUGH and not self.known
        hits = memory.search(vectors, k, exclude_self=itself)
        self.supports = [tuple(hit.sentence for hit in found) for found in hits]
        self.cache = FactorCache()
        self.computation = computation
        self.plain_trial = self._trial(0, None, 0.0, [reading.logits for reading in self.readings])

    def from_all(self, how: FineTuning) -> Trial:
        """Tagging after learning from the whole memory but the fold of the sentence."""
        sampled = set(spread(self.memory.ids.tolist(), _SAMPLE)) | set(self.ids)
        pool = [sentence for number, sentence in self.memory if number in sampled]
        # Those to be tagged may have been removed meanwhile.
        texts = dict.fromkeys(spaceless(sentence.words) for sentence in (*pool, *self.sentences))
        fold_of = {text: place % _FOLDS for place, text in enumerate(texts)}  # the same text is in the same fold
        logits = [reading.logits for reading in self.readings]
        for fold in range(_FOLDS):
            others = [sentence for sentence in pool if fold_of[spaceless(sentence.words)] != fold]
            held_out = [i for i, sentence in enumerate(self.sentences) if fold_of[spaceless(sentence.words)] == fold]
            if others and held_out:
                learned = fine_tuned_model(
                    self.model,
                    others,
                    replace(how, steps=min(_TRIAL_STEPS, how.steps_on(len(others)))),
                    self.computation,
                )
                tasks = [Task(self.blind[i], (), self.readings[i].lower) for i in held_out]
                found = fine_tuned_logits(learned, tasks, self.computation, Work())
                for i, rows in zip(held_out, found, strict=True):
                    logits[i] = rows
        return self._trial("all", how, 0.0, logits, self.plain_trial, _DOUBT if self.trusting else -1.0)

    def adapted(self, k: int, inner: InnerStep) -> list[Trial]:
        """Tagging after inner steps on the `k` nearest; none where they lead to what is no number any more."""
        tasks = [
            Task(sentence, supports[:k], reading.lower)
            for sentence, supports, reading in zip(self.blind, self.supports, self.readings, strict=True)
        ]
        # Factors of fewer layers would empty the cache, and are needed once.
        cache = None if isinstance(inner.lr, tuple) else self.cache
        computation = Computation(self.computation.batch_size, self.computation.precision, cache)
        logits = batched_logits(self.model, tasks, inner, computation, Work())
        try:
            return [self._trial(k, inner, 0.0, logits, self.plain_trial)]
        except NumericsError:
            return []

    def fused(self, trial: Trial, weight: float) -> Trial:
        """The same with the votes of the nearest labelled words."""
        return self._trial(trial.k, trial.inner, weight, fused(self.logits[_choice(trial)], self.votes, weight), trial)

    def best(self, tried: Sequence[Trial]) -> Trial:
        """The largest margin; the largest of those without a step, if it is not surely worse."""
        best, free = max(tried, key=margin_of), max((trial for trial in tried if trial.k == 0), key=margin_of)
        if best.k == 0 or _sure_gain(self.counts[_choice(best)], self.counts[_choice(free)]) > 0:
            return best
        return free

    def _trial(
        self,
        k: SupportCount,
        inner: InnerStep | FineTuning | None,
        knn: float,
        logits: list[Any],
        before: Trial | None = None,
        doubt: float = -1.0,
    ) -> Trial:
        """What these logits score; the margin is what they gain over the trial before, on top of that one's."""
        tagged = [tags for tags, _ in decode(logits, self.model.labels, self.model.settings.decoding, self.ids)]
        pairs = [aligned(*item) for item in zip(self.sentences, self.blind, tagged, strict=True)]
        gold, tagged = [expected for expected, _ in pairs], [found for _, found in pairs]
        counts = sentence_counts(gold, tagged)
        margin = 0.0 if before is None else before.margin + _sure_gain(counts, self.counts[_choice(before)], doubt)
        trial = Trial(k, inner, knn, score(gold, tagged), margin)
        self.logits[_choice(trial)], self.counts[_choice(trial)] = logits, counts
        return trial


def _sure_gain(ours: NDArray[np.int64], theirs: NDArray[np.int64], doubt: float = -1.0) -> float:
    """The difference in F1 of two (n, 3) counts of the same sentences, and `doubt` standard errors of it."""
    drawn = np.random.default_rng(0).multinomial(len(ours), np.full(len(ours), 1 / len(ours)), size=_RESAMPLES)

    def difference(times: NDArray[np.int64]) -> NDArray[np.float64]:
        f1 = [
            2 * totals[..., 0] / np.maximum(1, totals[..., 1] + totals[..., 2])
            for totals in (times @ ours, times @ theirs)
        ]
        return np.asarray(f1[0] - f1[1], np.float64)

    return float(difference(np.ones(len(ours), np.int64)) + doubt * difference(drawn).std())
