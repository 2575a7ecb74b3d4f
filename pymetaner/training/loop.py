"""The one loop of training: the steps of any objective, their schedule, and looks at the dev set."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pymetaner.checkpoint import save
from pymetaner.engine import computing_in
from pymetaner.engine.bertadam import BertAdam
from pymetaner.evaluation import evaluate
from pymetaner.model import MetaNER
from pymetaner.objective import Objective, check_finite
from pymetaner.progress import bar
from pymetaner.randomness import seeding
from pymetaner.sentence import Sentence
from pymetaner.training.settings import TrainSettings
from pymetaner.training.state import TrainingState

__all__ = ["dev_f1", "optimizer_of", "take_steps"]

_OTHERS = 30.0  # times the learning rate of the weights: logarithms of step sizes have a longer way to go


def optimizer_of(
    weights: Iterable[nn.Parameter], others: Iterable[nn.Parameter], settings: TrainSettings
) -> torch.optim.Optimizer:
    """Decay for matrices only, and a larger step for what an objective learns besides weights."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for parameter in weights:
        groups[parameter.dim() > 1].append(parameter)
    kinds = [(groups[True], settings.weight_decay, 1.0), (groups[False], 0.0, 1.0), (list(others), 0.0, _OTHERS)]
    chosen = [{"params": params, "weight_decay": decay, "scale": scale} for params, decay, scale in kinds if params]
    if settings.optimizer == "bertadam":
        return BertAdam(chosen, lr=settings.lr, clip=settings.clip)
    return torch.optim.AdamW(chosen, lr=settings.lr, fused=True)  # one kernel for all parameters


def take_steps(
    model: MetaNER,
    objective: Objective,
    state: TrainingState,
    settings: TrainSettings,
    dev: Sequence[Sentence] | None,
    *,
    done: int,
    progress: bool,
) -> None:
    """Takes the steps of a run that are not done; the state has the best weights then, and its folder a model of them.

    Args:
        model: what is trained; it has the weights of the last step afterwards.
        objective: what each step lowers.
        state: parameters, optimiser and the best so far; it is saved every so many steps.
        settings: of the run.
        dev: what picks the best weights; without it the last ones are the best.
        done: steps that were taken before.
        progress: show a bar, and a line for each look at the dev set.

    Raises:
        NumericsError: if the loss or, at the end, a weight is no number any more.
        SaveError: if the folder cannot be written.
    """
    network, optimizer = model.network, state.optimizer
    started = time.monotonic()
    with seeding(model.device) as seed, bar(progress) as progress_bar:
        task = progress_bar.add_task("training", total=settings.steps, completed=done)
        for step in range(done + 1, settings.steps + 1):
            # The randomness of a step depends on the seed and the step alone, so a resumed run draws the same.
            seed(settings.seed * 1_000_003 + step - 1)
            share = _schedule(step - 1, settings)
            optimizer.zero_grad(set_to_none=True)
            with computing_in(settings.precision, network):
                loss = objective.backward(step - 1, share)
            check_finite(step, loss)
            if settings.optimizer == "adamw":  # BertAdam clips by itself
                nn.utils.clip_grad_norm_(state.parameters.values(), settings.clip)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * share * group["scale"]
            optimizer.step()
            last = step == settings.steps
            if last:
                check_finite(step, loss, state.parameters.values())
            if last or step % settings.evaluate_every == 0:
                f1 = _look(model, state, settings, dev, step)
                if progress:
                    measured = "" if f1 is None else f", dev F1 {100 * f1:.2f}"
                    progress_bar.console.print(f"step {step:,} of {settings.steps:,}: loss {loss:.3f}{measured}")
            if last or step % settings.checkpoint_every == 0:
                state.save(step)
            rate = (step - done) * settings.batch_size / (time.monotonic() - started)
            best = "" if state.best_f1 is None else f", dev F1 {100 * state.best_f1:.2f}"
            progress_bar.update(task, completed=step, description=f"loss {loss:.3f}{best}, {rate:.0f} sentences/s")


def dev_f1(model: MetaNER, dev: Sequence[Sentence] | None, settings: TrainSettings) -> float | None:
    """F1 of the model as it stands, 0 to 1; None without a dev set."""
    if dev is None:
        return None
    return evaluate(model, dev, scoring=settings.scoring, batch_size=64, precision=settings.precision).plain.f1


def _look(
    model: MetaNER,
    state: TrainingState,
    settings: TrainSettings,
    dev: Sequence[Sentence] | None,
    step: int,
) -> float | None:
    """Dev F1 after a step; the model is saved if it is the best so far."""
    model.network.eval()
    f1 = dev_f1(model, dev, settings)
    if state.keep(step, f1):
        if not state.path.exists():  # a model without one would be taken for another's
            state.save(step)
        save(model, state.folder, with_memory=False)
    return f1


def _schedule(step: int, settings: TrainSettings) -> float:
    """The share of the peak learning rate at a step, counted from 0."""
    warm = max(1, round(settings.steps * settings.warmup))
    if step < warm:
        return (step + 1) / warm
    return (settings.steps - step) / max(1, settings.steps - warm)
