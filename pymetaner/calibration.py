"""Calibration: which settings of adapting suit a memory, found on the memory's own labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pymetaner.blinding import aligned, blinded
from pymetaner.cache import FactorCache
from pymetaner.checks import check_model, instance, number, one_of, several, whole
from pymetaner.decode import decode
from pymetaner.engine import (
    Computation,
    FineTuning,
    InnerOptimizer,
    InnerStep,
    Precision,
    Task,
    Work,
    batched_logits,
    computing_in,
    fine_tuned_logits,
    fine_tuned_model,
)
from pymetaner.errors import EmptyDataError, NumericsError, SettingError, UnsupportedModelError
from pymetaner.knn import bank_of, fused
from pymetaner.learning import SupportCount, learning_of
from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.network import adapted_groups, check_trainable
from pymetaner.progress import track
from pymetaner.sampling import spread
from pymetaner.scoring import Score, score, sentence_counts
from pymetaner.sentence import Sentence, spaceless

__all__ = ["Calibration", "Trial", "calibrate"]

_RESAMPLES = 500
_TOO_FEW = "a memory of fewer than two sentences cannot be calibrated: add labelled sentences to it"
_STEP_SIZES: dict[InnerOptimizer, tuple[float, ...]] = {
    "sgd": (0.02, 0.05, 0.1),
    "bertadam": (1e-5, 3e-5, 1e-4),
}
_FOLDS, _SAMPLE = 3, 200
_TRIAL_STEPS = 12  # of learning from a fold: enough to tell whether it gains
# So many sentences teach a model more than a step on the nearest ever did, and gained in nearly every draw of 50 and of
# 100, even where the same sentences, tagged in thirds, show the reverse: a handful of them decide that; see LOG.md.
_ENOUGH = 40
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
            choice that it rests on. Learning from all of 40 sentences or more has the benefit of the doubt: plus two.
    """

    k: SupportCount
    inner: InnerStep | FineTuning | None
    knn: float
    score: Score
    margin: float


@dataclass(frozen=True)
class Calibration:
    """The settings that tag a memory's own sentences best.

    Attributes:
        best: what won: learning from all of the memory if its margin is above 0, else what has the largest margin. A
            step on supports, which costs the most, wins only if it gains surely over the best of what goes without one.
        plain: the model without adapting.
        trials: everything that was tried, `plain` first.
        sentences: how many sentences of the memory were tagged.
    """

    best: Trial
    plain: Trial
    trials: tuple[Trial, ...] = field(repr=False)
    sentences: int

    @property
    def arguments(self) -> dict[str, Any]:
        """What to give to `pymetaner.adapt`: ``adapt(model, x, **calibration.arguments)``."""
        inner = self.best.inner
        if inner is None:
            return {"k": 0, "knn": self.best.knn}
        lr = list(inner.lr) if isinstance(inner.lr, tuple) else inner.lr
        common = {"k": self.best.k, "lr": lr, "lambda_max": inner.lambda_max, "knn": self.best.knn}
        if isinstance(inner, FineTuning):  # the number of steps goes with the memory's size
            return common
        return common | {"steps": inner.steps, "inner_optimizer": inner.optimizer}

    def __str__(self) -> str:
        gain = 100 * (self.best.score.f1 - self.plain.score.f1)
        return (
            f"{self.arguments} on {self.sentences} sentence{'s' * (self.sentences != 1)}: "
            f"F1 {100 * self.best.score.f1:.1f}, {gain:+.1f} over the model without adapting"
        )


def calibrate(
    model: MetaNER,
    memory: Memory | None = None,
    *,
    ks: Sequence[SupportCount] = ("all", 2, 4),
    lrs: Sequence[float] | None = None,
    steps: Sequence[int] = (1,),
    knns: Sequence[float] = (0.3, 0.5, 0.7),
    optimizer: InnerOptimizer = "sgd",
    most: int = 100,
    most_for_all: int = 10_000,
    batch_size: int = 16,
    precision: Precision = "fp32",
    progress: bool = False,
) -> Calibration:
    """The supports, step size, steps and layers that tag the memory's own sentences best.

    Each sentence is tagged after adapting on others of the memory, never on itself. Learning from all of them comes
    first, each third of the memory tagged by a model that learned from the other two; if that gains, it wins. Else, in
    a memory of fewer than 40 sentences or without ``"all"``, every pair of a number of nearest supports and `lrs` is
    tried, then other numbers of steps and fewer layers with the best pair, and last the weight of the nearest labelled
    words, without a step and with the best one. What gains most over not adapting wins, but a step only if it gains
    over the votes alone too, which cost far less. A gain counts less one standard error, since a few sentences may show
    one by chance; if nothing gains, not adapting wins. What supports give to a step is computed once, so a trial costs
    little more than tagging.

    Args:
        model: the model.
        memory: labelled sentences; `model.memory` by default.
        ks: numbers of supports to try, and ``"all"``; by default few, since what tagging costs grows with them. With
            ``"all"`` among them the numbers are for memories of fewer than 40 sentences.
        lrs: step sizes to try with numbers of supports; those usual for the optimiser by default.
        steps: numbers of inner steps to try with the best pair. Every further step passes the supports of each sentence
            anew, which multiplies what tagging costs.
        knns: weights of the nearest labelled words to try, with the best step and without a step.
        optimizer: what takes the inner steps.
        most: the most sentences to tag, spread over the memory.
        most_for_all: the largest memory of which all is tried, since tagging waits until it is learned; a sample of 200
            sentences stands for a larger one than that.
        batch_size: the most sentences in a batch.
        precision: of products.
        progress: show a progress bar.

    Raises:
        EmptyDataError: if the memory has fewer than two sentences.
        SettingError: if there is nothing to try, a value is out of range, or the model is no `MetaNER`.
        EncoderMismatchError, LabelMismatchError: if the memory was made for another model.
        UnsupportedModelError: if the batched engine cannot adapt the network.

    Example:
        >>> calibration = pymetaner.calibrate(model)  # doctest: +SKIP
        >>> pymetaner.adapt(model, texts, **calibration.arguments)  # doctest: +SKIP
    """
    check_model(model)
    memory = model.memory if memory is None else memory
    instance("memory", memory, Memory, how="Memory(model) makes one, to add to")
    memory.check(model)
    if len(memory) < 2:
        raise EmptyDataError(_TOO_FEW)
    numbers = [whole("ks", k, 1, or_else="'all'") for k in several("ks", ks) if k != "all"]
    one_of("optimizer", optimizer, tuple(_STEP_SIZES))
    rates = [number("lrs", lr, positive=True) for lr in several("lrs", _STEP_SIZES[optimizer] if lrs is None else lrs)]
    counts = [whole("steps", count, 1) for count in several("steps", steps)]
    votes = () if isinstance(knns, Sequence) and not knns else several("knns", knns)
    weights = [number("knns", weight, most=1) for weight in votes]
    most, most_for_all = whole("most", most, 1), whole("most_for_all", most_for_all)
    computation = Computation(batch_size=batch_size, precision=precision, progress=progress)
    trials = _Trials(model, memory, max(numbers, default=1), most, computation)
    plain = trials.plain_trial
    tried = [plain]
    from_all: Trial | None = None
    if "all" in ks and len(memory) <= most_for_all and (_can_learn(model) or not numbers):
        how = learning_of(model, memory, k="all").inner
        assert isinstance(how, FineTuning)
        with suppress(NumericsError):  # steps so large are no choice, and numbers of supports stand in for them
            tried.append(trials.from_all(how))
            if tried[-1].margin > 0:
                from_all = tried[-1]
            if from_all or len(memory) >= _ENOUGH:
                numbers = []
    pairs = [(k, InnerStep(lr, optimizer=optimizer)) for k in numbers for lr in rates]
    for k, inner in track(pairs, "calibrating", progress):
        tried += trials.adapted(k, inner)
    best = max(tried, key=_margin)
    if isinstance(best.inner, InnerStep):
        assert best.k != "all"
        for inner in _variations(model, best.inner, counts):
            tried += trials.adapted(best.k, inner)
        best = max(tried, key=_margin)
    # On top of what all sentences taught, their votes add nothing but chance.
    for trial in [plain] if best is plain or from_all else [best, plain]:
        tried += [trials.fused(trial, weight) for weight in weights]
    return Calibration(from_all or trials.best(tried), plain, tuple(tried), len(trials.sentences))


_Choice = tuple[SupportCount, InnerStep | FineTuning | None, float]


def _can_learn(model: MetaNER) -> bool:
    try:
        check_trainable(model.network, model.settings.freeze_layers)
    except (SettingError, UnsupportedModelError):
        return False
    return True


def _choice(trial: Trial) -> _Choice:
    return trial.k, trial.inner, trial.knn


def _margin(trial: Trial) -> float:
    return trial.margin


def _variations(model: MetaNER, inner: InnerStep, steps: Sequence[int]) -> Iterator[InnerStep]:
    """The same step size with more steps, in the upper half of the unfrozen layers only, and in the head only."""
    assert isinstance(inner.lr, float | int)
    for count in sorted(set(steps) - {1}):
        yield InnerStep(inner.lr, steps=count, optimizer=inner.optimizer)
    groups = len(adapted_groups(model.network, model.settings.freeze_layers))
    for still in {groups // 2, groups - 1} - {0}:
        rates = (0.0,) * still + (float(inner.lr),) * (groups - still)
        yield InnerStep(rates, optimizer=inner.optimizer)


class _Trials:
    """Sentences of a memory with their nearest others, tagged with one choice of settings after another."""

    def __init__(self, model: MetaNER, memory: Memory, k: int, most: int, computation: Computation) -> None:
        self.model = model
        self.memory = memory
        found = dict(_found(memory, spread(memory.ids.tolist(), most)))
        if not found:
            raise EmptyDataError(_TOO_FEW)
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
        doubt = _DOUBT if len(self.memory) >= _ENOUGH else -1.0
        return self._trial("all", how, 0.0, logits, self.plain_trial, doubt)

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
        best, free = max(tried, key=_margin), max((trial for trial in tried if trial.k == 0), key=_margin)
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


def _found(memory: Memory, ids: Sequence[int]) -> Iterator[tuple[int, Sentence]]:
    """The sentences with these ids, but for those that were removed meanwhile."""
    for i in ids:
        with suppress(KeyError):
            yield i, memory[i]


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
