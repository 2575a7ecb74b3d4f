"""Calibration: which settings of adapting suit a memory, found on the memory's own labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pymetaner.checks import check_model, instance, number, one_of, several, whole
from pymetaner.engine import Computation, FineTuning, InnerOptimizer, InnerStep, Precision
from pymetaner.errors import EmptyDataError, NumericsError, SettingError, UnsupportedModelError
from pymetaner.learning import SupportCount, learning_of
from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.network import adapted_groups, check_trainable
from pymetaner.progress import track
from pymetaner.trials import TOO_FEW, Trial, Trials, margin_of

__all__ = ["Calibration", "Trial", "calibrate"]

_STEP_SIZES: dict[InnerOptimizer, tuple[float, ...]] = {
    "sgd": (0.02, 0.05, 0.1),
    "bertadam": (1e-5, 3e-5, 1e-4),
}
_MANY = 40  # sentences that teach more than a step on the nearest ever did


@dataclass(frozen=True)
class Calibration:
    """The settings that tag a memory's own sentences best.

    Attributes:
        best: what won: learning from all of the memory if its margin is above 0, else what has the largest margin. A
            step on supports, which costs the most, wins only if it gains surely over the best of what goes without one.
        plain: the model without adapting.
        trials: everything that was tried, `plain` first.
        sentences: how many sentences of the memory were tagged.
        known: whether the model learned from sentences like these, of their language and domain (`MetaNER.source`);
            where it did, learning from some more has to show that it gains.
    """

    best: Trial
    plain: Trial
    trials: tuple[Trial, ...] = field(repr=False)
    sentences: int
    known: bool = False

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
            + ("; it learned from sentences like these" if self.known else "")
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
    first, each third of the memory tagged by a model that learned from the other two; if that gains, it wins. So it
    does, unless it surely loses, from 20 sentences on that are of another language or domain than what the model
    learned from, as far as that is known (`MetaNER.source`). Else, in a memory of fewer than 40 sentences or without
    ``"all"``, every pair of a number of nearest supports and `lrs` is tried, then other numbers of steps and fewer
    layers with the best pair, and last the weight of the nearest labelled words, without a step and with the best one.
    What gains most over not adapting wins, but a step only if it gains over the votes alone too, which cost far less. A
    gain counts less one standard error, since a few sentences may show one by chance; if nothing gains, not adapting
    wins. What supports give to a step is computed once, so a trial costs little more than tagging.

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
        raise EmptyDataError(TOO_FEW)
    numbers = [whole("ks", k, 1, or_else="'all'") for k in several("ks", ks) if k != "all"]
    one_of("optimizer", optimizer, tuple(_STEP_SIZES))
    rates = [number("lrs", lr, positive=True) for lr in several("lrs", _STEP_SIZES[optimizer] if lrs is None else lrs)]
    counts = [whole("steps", count, 1) for count in several("steps", steps)]
    votes = () if isinstance(knns, Sequence) and not knns else several("knns", knns)
    weights = [number("knns", weight, most=1) for weight in votes]
    most, most_for_all = whole("most", most, 1), whole("most_for_all", most_for_all)
    computation = Computation(batch_size=batch_size, precision=precision, progress=progress)
    trials = Trials(model, memory, max(numbers, default=1), most, computation)
    plain = trials.plain_trial
    tried = [plain]
    from_all: Trial | None = None
    if "all" in ks and len(memory) <= most_for_all and (_can_learn(model) or not numbers):
        how = learning_of(model, memory, k="all").inner
        assert isinstance(how, FineTuning)
        with suppress(NumericsError):  # steps so large are no choice, and numbers of supports stand in for them
            tried.append(trials.from_all(how))
            if tried[-1].margin > 0 or (trials.trusting and tried[-1].margin == 0):
                from_all = tried[-1]
            if from_all or len(memory) >= _MANY:
                numbers = []
    pairs = [(k, InnerStep(lr, optimizer=optimizer)) for k in numbers for lr in rates]
    for k, inner in track(pairs, "calibrating", progress):
        tried += trials.adapted(k, inner)
    best = max(tried, key=margin_of)
    if isinstance(best.inner, InnerStep):
        assert best.k != "all"
        for inner in _variations(model, best.inner, counts):
            tried += trials.adapted(best.k, inner)
        best = max(tried, key=margin_of)
    # On top of what all sentences taught, their votes add nothing but chance.
    for trial in [plain] if best is plain or from_all else [best, plain]:
        tried += [trials.fused(trial, weight) for weight in weights]
    return Calibration(from_all or trials.best(tried), plain, tuple(tried), len(trials.sentences), trials.known)


def _can_learn(model: MetaNER) -> bool:
    try:
        check_trainable(model.network, model.settings.freeze_layers)
    except (SettingError, UnsupportedModelError):
        return False
    return True


def _variations(model: MetaNER, inner: InnerStep, steps: Sequence[int]) -> Iterator[InnerStep]:
    """The same step size with more steps, in the upper half of the unfrozen layers only, and in the head only."""
    assert isinstance(inner.lr, float | int)
    for count in sorted(set(steps) - {1}):
        yield InnerStep(inner.lr, steps=count, optimizer=inner.optimizer)
    groups = len(adapted_groups(model.network, model.settings.freeze_layers))
    for still in {groups // 2, groups - 1} - {0}:
        rates = (0.0,) * still + (float(inner.lr),) * (groups - still)
        yield InnerStep(rates, optimizer=inner.optimizer)
