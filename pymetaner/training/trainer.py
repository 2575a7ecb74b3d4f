"""Training: one loop for every objective, its schedule, and picking the best weights on the dev set."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pymetaner.averaging import separate, set_to_mean
from pymetaner.checkpoint import load, save
from pymetaner.checks import check_model, instance, path_of, truth
from pymetaner.engine import computing_in
from pymetaner.engine.bertadam import BertAdam
from pymetaner.errors import EmptyDataError, SettingError
from pymetaner.evaluation import evaluate
from pymetaner.files import CHECKPOINT, MEMORY, PLAIN, REPORT, forget_run, holds_model_of_no_run, write_atomically
from pymetaner.model import MetaNER
from pymetaner.network import (
    adapted_parameters,
    check_trainable,
    fingerprint_of,
    standing_tensors,
    weights_version,
)
from pymetaner.objective import BaseObjective, Objective, check_finite
from pymetaner.progress import bar
from pymetaner.randomness import seeding
from pymetaner.sentence import Sentence, check_sentences, check_words
from pymetaner.training.meta import MetaObjective
from pymetaner.training.settings import MetaSettings, TrainSettings
from pymetaner.training.state import TrainingState, finished_run
from pymetaner.windows import Window

__all__ = ["TrainingReport", "run_of", "train"]

_OTHERS = 30.0  # times the learning rate of the weights: logarithms of step sizes have a longer way to go


@dataclass(frozen=True)
class TrainingReport:
    """What came of a run.

    Attributes:
        best_step: the step whose weights were kept, or averaged with those of the plain run.
        best_f1: dev F1 of the weights that the model has, 0 to 1; None without a dev set.
        history: (step, dev F1) of every look at the dev set.
        seconds: how long the call took that finished the run.
    """

    best_step: int
    best_f1: float | None
    history: list[tuple[int, float]]
    seconds: float


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    model: MetaNER,
    sentences: Iterable[Sentence],
    out: str | PathLike[str],
    *,
    dev: Iterable[Sentence] | None = None,
    settings: TrainSettings | None = None,
    meta: MetaSettings | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> TrainingReport:
    """Train the head and the unfrozen layers of a model in place and save the best weights to a folder.

    Killed at any moment and called again with the same arguments (but `overwrite`), it goes on from the last checkpoint
    in the folder and ends with the same weights (on the CPU, with the same number of threads). Where that run is
    finished the model gets its weights, and nothing is trained.

    A memory that the model has is not saved: call ``model.save_pretrained(out)`` afterwards. Its vectors are those of
    the frozen layers, so they stay as they are; only where none is frozen, call ``model.memory.rebuild()`` before.

    Args:
        model: the model; its weights are changed.
        sentences: labelled sentences.
        out: the folder that gets the model, ``training.json`` and, while the run lasts, a checkpoint.
        dev: labelled sentences that pick the best weights; without them the last ones are kept.
        settings: the settings of the run.
        meta: learn to adapt in one step (section 3 of Wu et al. 2020) instead of tagging as it stands; the inner step
            size that was trained with, or learned, becomes the model's own. With `meta.average` a run without inner
            steps comes first, in a folder within `out` that is removed at the end, and the mean of both is kept.
        overwrite: begin anew where the folder holds a run already, or a model that no run made.
        progress: show a progress bar.

    Raises:
        DataError, EmptyDataError: if something is not a sentence, has an empty word, or none is labelled.
        LabelMismatchError: if a sentence has an entity type that the model does not tag.
        SettingError: if the folder holds another run, finished or not, a model that no run made, or a memory; if the
            model, `out` or the settings are of another kind; if the weights are float16.
        UnsupportedModelError: if frozen layers share weights with others, or `meta` cannot adapt the network.
        SaveError: if the folder cannot be written.
        NumericsError: if the loss is no number any more; the last checkpoint stays.
    """
    check_model(model)
    settings = TrainSettings() if settings is None else settings
    instance("settings", settings, TrainSettings, how="TrainSettings(steps=...) makes one")
    if meta is not None:
        instance("meta", meta, MetaSettings, how="MetaSettings() makes one, None trains without")
    truth("progress", progress)
    truth("overwrite", overwrite)
    started = time.monotonic()
    folder = path_of("out", out)
    labelled: list[Sentence] = []
    for i, sentence in enumerate(check_sentences(sentences)):
        if sentence.tags:
            check_words(sentence, f"sentence {i}")
            labelled.append(sentence)
    if not labelled:
        raise EmptyDataError("no labelled sentence to train on: expected sentences with one tag per word")
    dev = None if dev is None else check_sentences(dev)
    if dev is not None and not any(sentence.tags for sentence in dev):
        raise EmptyDataError("no labelled sentence in `dev` to pick the best weights on: leave it out, or label some")
    weights_version(model.network)  # refuses those that no gradient can reach
    check_trainable(model.network, model.settings.freeze_layers)
    tag_ids = [model.labels.encode(sentence.tags or ()) for sentence in labelled]
    windows = model.words.windows(labelled)
    run = _run(model, windows, tag_ids, dev, settings, meta)
    if not overwrite and (finished := finished_run(folder, lambda: run)):
        shutil.rmtree(folder / PLAIN, ignore_errors=True)
        return _taken_over(model, folder, finished)
    if (folder / MEMORY).exists():
        raise SettingError(
            f"{folder} holds a memory, which need not fit the model to come: give another folder, or move it away"
        )
    if not overwrite and holds_model_of_no_run(folder):
        raise SettingError(f"{folder} holds a model without a run's report: give another folder, or overwrite=True")

    plain = separate(model) if meta is not None and meta.average else None  # before anything moves
    network = model.network
    parameters = adapted_parameters(network, model.settings.freeze_layers)
    network.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    objective: Objective
    if meta is None:
        objective = BaseObjective(model, windows, tag_ids, settings)
    else:
        objective = MetaObjective(model, labelled, tag_ids, settings, meta)
    optimizer = _optimizer(parameters.values(), objective.parameters.values(), settings)
    parameters |= objective.parameters
    if isinstance(objective, MetaObjective):  # which a run that was stopped may have moved
        run["starting weights"] = objective.fingerprint
    if overwrite:
        forget_run(folder)
    state = TrainingState(folder, parameters, optimizer, run)
    step = state.restore()
    started_at = step

    try:
        if plain is not None:  # first, so that a run that goes on, from whatever weights, finds it finished
            if progress:
                bar().console.print("two runs: first without inner steps, then with them")
            of_plain = train(plain, labelled, folder / PLAIN, dev=dev, settings=settings, progress=progress)
        first_at = time.monotonic()
        with seeding(model.device) as seed, bar(progress) as progress_bar:
            task = progress_bar.add_task("training", total=settings.steps, completed=step)
            while step < settings.steps:
                # The randomness of a step depends on the seed and the step alone, so a resumed run draws the same.
                seed(settings.seed * 1_000_003 + step)
                optimizer.zero_grad(set_to_none=True)
                share = _schedule(step, settings)
                with computing_in(settings.precision, network):
                    loss = objective.backward(step, share)
                check_finite(step + 1, loss)
                if settings.optimizer == "adamw":  # BertAdam clips by itself
                    nn.utils.clip_grad_norm_(parameters.values(), settings.clip)
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * share * group["scale"]
                optimizer.step()
                step += 1
                if step == settings.steps:
                    check_finite(step, loss, parameters.values())
                if step % settings.evaluate_every == 0 or step == settings.steps:
                    network.eval()
                    f1 = _dev_f1(model, dev, settings)
                    if state.keep(step, f1):
                        if not (folder / CHECKPOINT).exists():  # a model without one would be taken for another's
                            state.save(step)
                        save(model, folder, with_memory=False)
                    if progress:
                        measured = "" if f1 is None else f", dev F1 {100 * f1:.2f}"
                        progress_bar.console.print(f"step {step:,} of {settings.steps:,}: loss {loss:.3f}{measured}")
                if step % settings.checkpoint_every == 0 or step == settings.steps:
                    state.save(step)
                rate = (step - started_at) * settings.batch_size / (time.monotonic() - first_at)
                best = "" if state.best_f1 is None else f", dev F1 {100 * state.best_f1:.2f}"
                progress_bar.update(task, completed=step, description=f"loss {loss:.3f}{best}, {rate:.0f} sentences/s")
    finally:  # whatever ended it, the model can be used
        network.eval()
        network.requires_grad_(True)
    state.load_best(model)
    summary: dict[str, Any] = {"settings": asdict(settings), "meta": run["meta"]}
    best_f1 = state.best_f1
    if plain is not None:
        set_to_mean(model, [model, plain])
        best_f1 = _dev_f1(model, dev, settings)
        summary["averaged with"] = asdict(of_plain)
    report = TrainingReport(state.best_step, best_f1, state.history, time.monotonic() - started)
    summary |= {**asdict(report), "run": run}
    write_atomically(folder / REPORT, json.dumps(summary, indent=2).encode() + b"\n")
    if isinstance(objective, MetaObjective):
        model.settings = objective.settings_after(model.settings)
    if isinstance(objective, MetaObjective) or state.best_step <= started_at:  # stopped before they were all saved
        save(model, folder, with_memory=False)
    state.discard()
    shutil.rmtree(folder / PLAIN, ignore_errors=True)
    return report


def _dev_f1(model: MetaNER, dev: Sequence[Sentence] | None, settings: TrainSettings) -> float | None:
    if dev is None:
        return None
    return evaluate(model, dev, scoring=settings.scoring, batch_size=64, precision=settings.precision).plain.f1


def _taken_over(model: MetaNER, folder: Path, report: dict[str, Any]) -> TrainingReport:
    """What came of a finished run; the model gets its weights and settings."""
    dtype = model.network.dtype
    finished = load(MetaNER, folder, labels=None, dtype=dtype, device=model.device, with_memory=False)
    model.network.load_state_dict(finished.network.state_dict())
    model.network.eval()
    model.settings = finished.settings
    history = [(int(step), float(f1)) for step, f1 in report["history"]]
    return TrainingReport(report["best_step"], report["best_f1"], history, report["seconds"])


def run_of(
    model: MetaNER,
    sentences: Sequence[Sentence],
    dev: Sequence[Sentence] | None,
    settings: TrainSettings,
    meta: MetaSettings | None,
) -> dict[str, Any]:
    """What a run does, as JSON has it: its settings, and hashes of what it starts from and learns from.

    Arguments and errors as for `train`. Weights that the run moves are not part of it.
    """
    labelled = [sentence for sentence in sentences if sentence.tags]
    tag_ids = [model.labels.encode(sentence.tags or ()) for sentence in labelled]
    return _run(model, model.words.windows(labelled), tag_ids, dev, settings, meta)


def _run(
    model: MetaNER,
    windows: Sequence[Window],
    tag_ids: Sequence[Sequence[int]],
    dev: Sequence[Sentence] | None,
    settings: TrainSettings,
    meta: MetaSettings | None,
) -> dict[str, Any]:
    run = {
        **asdict(settings),
        "meta": None if meta is None else asdict(meta),
        "model": asdict(model.settings),
        "labels": model.labels.tags,
        "windows": len(windows),
        "data": _digest(windows, tag_ids, dev),
        "frozen weights": fingerprint_of(standing_tensors(model.network, model.settings.freeze_layers)),
    }
    found: dict[str, Any] = json.loads(json.dumps(run))
    return found


def _digest(windows: Sequence[Window], tag_ids: Sequence[Sequence[int]], dev: Sequence[Sentence] | None) -> str:
    """A hash of what a run is trained and measured on."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(repr((window, tag_ids[window.sentence])).encode())
    for sentence in dev or ():
        digest.update(repr((sentence.words, sentence.tags)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _optimizer(
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


def _schedule(step: int, settings: TrainSettings) -> float:
    """The share of the peak learning rate at a step, counted from 0."""
    warm = max(1, round(settings.steps * settings.warmup))
    if step < warm:
        return (step + 1) / warm
    return (settings.steps - step) / max(1, settings.steps - warm)
