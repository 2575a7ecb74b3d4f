"""One set of supports for every query: a copy of the weights is fine-tuned on them once, and tags all queries.

What it takes depends on the supports, however many queries follow. Nothing is written to the model: the copy shares
its frozen weights, and its module tree is its own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pymetaner.checks import LARGEST_SEED, keep, number, step_sizes, whole
from pymetaner.engine.moving import MovingWeights
from pymetaner.engine.precision import computing_in
from pymetaner.engine.task import Computation, InnerStep, Task, Work
from pymetaner.errors import EmptyDataError
from pymetaner.forks import anew_in_child
from pymetaner.model import MetaNER
from pymetaner.network import check_trainable
from pymetaner.objective import BaseObjective, check_finite
from pymetaner.progress import track
from pymetaner.randomness import seeding
from pymetaner.reading import word_logits
from pymetaner.sentence import Sentence
from pymetaner.settings import STEP_SIZES
from pymetaner.view import borrowed_view
from pymetaner.windows import Window, make_batch, pad_hidden

__all__ = ["FineTuning", "fine_tuned_logits", "fine_tuned_model"]

# If no number of steps is given: so many passes, but at least 24 steps or eight passes, whichever is less, and at most
# 320 steps (benchmarks/results/LOG.md).
_FEW_STEPS, _MOST_PASSES, _MOST_STEPS = 24, 8, 320
# If nothing is said of how far to go: n / (n + 25) of the way on n windows, at least three tenths (likewise).
_LEAST_OF_THE_WAY, _AS_MANY = 0.3, 25
_WARM = 5  # steps that warm up
_CLIP = 1.0  # largest norm of the gradient of all weights


@dataclass(frozen=True)
class FineTuning:
    """How a copy of the weights learns from supports that all queries share.

    AdamW on batches in random order, dropout on. The mean of the weights after each step of the last three quarters
    (Izmailov et al. 2018) is far steadier than the last weights of so short a run; the result lies between the model's
    own weights and it, which keeps few supports from undoing what the model knows (Wortsman et al. 2022).

    Attributes:
        lr: step size, above 0; or one for each layer that is not frozen and, last, one for the head: 0 or more.
        steps: how many, 1 or more; None for `passes`, but at least 24 steps or eight passes, whichever is less, and at
            most 320 steps.
        lambda_max: weight of the largest token loss of each sentence, 0 or more.
        batch_size: windows (sentences, but for very long ones) a step, 1 or more.
        mask_probability: of replacing a piece with an entity tag by the mask piece, drawn anew each time, 0 to 1 (Wu et
            al. 2020, section 3.3); a tokenizer without that piece masks nothing.
        interpolation: how far from the model's weights to the mean the result lies, above 0 to 1; None for
            n / (n + 25) on n windows, at least 0.3: the more there are, the less what the model knew counts.
        seed: fixes batches, masks and dropout.
        passes: over the supports, 1 or more, where `steps` is None.
    """

    lr: float | tuple[float, ...] = STEP_SIZES["adamw"]
    steps: int | None = None
    lambda_max: float = 0.0
    batch_size: int = 32
    mask_probability: float = 0.0
    interpolation: float | None = None
    seed: int = 0
    passes: int = 6
    optimizer: ClassVar[str] = "adamw"

    def __post_init__(self) -> None:
        if self.steps is not None:
            keep(self, whole, "steps", least=1)
        keep(self, whole, "passes", least=1)
        keep(self, step_sizes, "lr")
        keep(self, number, "lambda_max")
        keep(self, whole, "batch_size", least=1)
        keep(self, number, "mask_probability", most=1)
        if self.interpolation is not None:
            keep(self, number, "interpolation", most=1, positive=True)
        keep(self, whole, "seed", most=LARGEST_SEED)

    def interpolation_on(self, windows: int) -> float:
        """How far the result lies from the model's weights to the mean after so many windows."""
        if self.interpolation is not None:
            return self.interpolation
        return max(_LEAST_OF_THE_WAY, windows / (windows + _AS_MANY))

    def steps_on(self, windows: int) -> int:
        """How many steps are taken on so many windows."""
        if self.steps is not None:
            return self.steps
        per_pass = windows / self.batch_size
        fewest = min(_FEW_STEPS, _MOST_PASSES * math.ceil(per_pass))
        return min(max(fewest, math.ceil(self.passes * per_pass)), _MOST_STEPS)


def fine_tuned_model(
    model: MetaNER, supports: Sequence[Sentence], how: FineTuning, computation: Computation
) -> MetaNER:
    """A model that learned from all supports; it shares the frozen weights, and the model itself stays as it is.

    Args:
        model: the model.
        supports: labelled sentences, at least one with a word.
        how: what is done with them.
        computation: precision and progress.

    Raises:
        EmptyDataError: if no support has a word.
        SettingError: if there are not as many step sizes as layers, the precision does not fit the model, or its
            weights are float16.
        UnsupportedModelError: if frozen layers share weights with others.
        NumericsError: if the steps are so large that the loss or a weight is no number any more.
    """
    check_trainable(model.network, model.settings.freeze_layers)
    with torch.inference_mode(False), torch.enable_grad():
        moving = MovingWeights(model, InnerStep(how.lr))
        network, weights = moving.network, moving.weights
        learner = MetaNER(network, model.tokenizer, labels=model.labels, settings=model.settings)
        tag_ids = [model.labels.encode(support.tags or ()) for support in supports]
        windows = model.words.windows(supports)
        if not windows:
            raise EmptyDataError("there is no sentence with a word to learn from")
        if model.tokenizer.mask_token_id is None:
            how = replace(how, mask_probability=0.0)
        objective = BaseObjective(learner, windows, tag_ids, how)
        steps = how.steps_on(len(windows))
        optimizer = _optimizer(weights, moving.rates)
        means = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        averaged = 0
        with _one_at_a_time, seeding(model.device) as seed:  # threads share what dropout draws from
            seed(how.seed)
            for step in track(range(steps), "learning", computation.progress):
                with computing_in(computation.precision, network):
                    check_finite(step + 1, objective.backward(step, 1.0))
                nn.utils.clip_grad_norm_(weights.values(), _CLIP)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * min(1.0, (step + 1) / _WARM)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if step >= steps // 4:
                    averaged += 1
                    for name, weight in weights.items():
                        means[name].lerp_(weight.detach(), 1 / averaged)
        far = how.interpolation_on(len(windows))
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(moving.start[name].lerp(means[name], far))
        check_finite(steps, 0.0, weights.values())
        network.requires_grad_(False)
        network.eval()
        return learner


_one_at_a_time: threading.Lock


def _begin() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


anew_in_child(_begin)


def _optimizer(weights: Mapping[str, nn.Parameter], rates: Mapping[str, float]) -> torch.optim.Optimizer:
    """AdamW without decay, a group for each step size."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in weights.items():
        groups.setdefault(rates[name], []).append(weight)
    return torch.optim.AdamW(
        [{"params": group, "peak": rate} for rate, group in groups.items()], lr=math.inf, weight_decay=0.0, fused=True
    )


def fine_tuned_logits(
    model: MetaNER, tasks: Sequence[Task], computation: Computation, work: Work
) -> list[NDArray[np.floating[Any]]]:
    """Word logits (W, C) of each query, by a model that `fine_tuned_model` gave.

    Args:
        model: that model.
        tasks: the queries; their supports are in the model already.
        computation: batch size and precision.
        work: what was done is added to it.
    """
    queries = [task.query for task in tasks]
    known: dict[tuple[int, int], Tensor] = {}  # by sentence and first word of a window
    lowers = [iter(task.lower) for task in tasks]
    for window in model.words.windows(queries):
        hidden = next(lowers[window.sentence], None)
        if hidden is not None:
            known[window.sentence, window.words[0]] = hidden
    with borrowed_view(model.network, model.settings.freeze_layers) as view:

        def run(windows: list[Window]) -> Tensor:
            batch = make_batch(windows, model.pad_id).to(model.device)
            work.batches += 1
            work.pieces += sum(len(window.ids) for window in windows)
            work.padded += batch.input_ids.numel()
            lower = pad_hidden([known.get((window.sentence, window.words[0])) for window in windows])
            if lower is None:
                lower = view.lower(batch.input_ids, batch.attention_mask)
            return view.upper(batch.input_ids, batch.attention_mask, lower)

        with torch.inference_mode(), computing_in(computation.precision, model.network):
            return word_logits(model, queries, run, batch_size=computation.batch_size)
