"""Training a model in place: what is checked before, resumed and left in the folder; the steps are those of `loop`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pymetaner.averaging import heads_alike, separate, set_to_mean
from pymetaner.checkpoint import load, save
from pymetaner.checks import check_model, instance, path_of, truth
from pymetaner.errors import EmptyDataError, NumericsError, SettingError
from pymetaner.files import CHECKPOINT, MEMORY, PLAIN, REPORT, forget_run, holds_model_of_no_run, write_atomically
from pymetaner.model import MetaNER
from pymetaner.network import adapted_parameters, check_trainable, weights_version
from pymetaner.objective import BaseObjective
from pymetaner.progress import bar
from pymetaner.sentence import Sentence, check_sentences, check_words
from pymetaner.source import Source
from pymetaner.training.loop import dev_f1, optimizer_of, take_steps
from pymetaner.training.meta import MetaObjective
from pymetaner.training.run import described
from pymetaner.training.settings import MetaSettings, TrainSettings
from pymetaner.training.state import TrainingState, finished_run

__all__ = ["TrainingReport", "train"]


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
        NumericsError: if the loss is no number any more; the last checkpoint stays, and the model is as it was before.
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
    labelled, dev = _labelled(sentences), _checked_dev(dev)
    weights_version(model.network)  # refuses those that no gradient can reach
    check_trainable(model.network, model.settings.freeze_layers)
    tag_ids = [model.labels.encode(sentence.tags or ()) for sentence in labelled]
    windows = model.words.windows(labelled)
    run = described(model, windows, tag_ids, dev, settings, meta)
    if not overwrite and (finished := finished_run(folder, lambda: run)):
        shutil.rmtree(folder / PLAIN, ignore_errors=True)
        return _taken_over(model, folder, finished)
    _check_free(folder, overwrite)

    plain = separate(model) if meta is not None and meta.average else None  # before anything moves
    summary: dict[str, Any] = {"settings": asdict(settings), "meta": run["meta"]}
    with _trained_alone(model, folder) as parameters:
        objective: BaseObjective | MetaObjective
        if meta is None:
            objective = BaseObjective(model, windows, tag_ids, settings)
        else:
            objective = MetaObjective(model, labelled, tag_ids, settings, meta)
            run["starting weights"] = objective.fingerprint  # which a run that was stopped may have moved
        optimizer = optimizer_of(parameters.values(), objective.parameters.values(), settings)
        if overwrite:
            forget_run(folder)
        state = TrainingState(folder, parameters | objective.parameters, optimizer, run)
        done = state.restore()
        if plain is not None:  # first, so that a run that goes on, from whatever weights, finds it finished
            if progress:
                bar().console.print("two runs: first without inner steps, then with them")
            of_plain = train(plain, labelled, folder / PLAIN, dev=dev, settings=settings, progress=progress)
            if not heads_alike(plain, model):
                raise SettingError(
                    f"{folder} holds a run that was stopped and started from another head, whose mean with this one "
                    "would tag badly: give the model that it started from, another folder, or overwrite=True"
                )
            summary["averaged with"] = asdict(of_plain)
        take_steps(model, objective, state, settings, dev, done=done, progress=progress)
    state.load_best(model)
    best_f1 = state.best_f1
    if plain is not None:
        set_to_mean(model, [model, plain])
        best_f1 = dev_f1(model, dev, settings)
    report = TrainingReport(state.best_step, best_f1, state.history, time.monotonic() - started)
    summary |= {**asdict(report), "run": run}
    write_atomically(folder / REPORT, json.dumps(summary, indent=2).encode() + b"\n")
    if isinstance(objective, MetaObjective):
        model.settings = objective.settings_after(model.settings)
    model.source = Source.of(model, labelled, before=model.source)
    save(model, folder, with_memory=False)
    state.discard()
    shutil.rmtree(folder / PLAIN, ignore_errors=True)
    return report


def _labelled(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Those that have tags, checked."""
    labelled = []
    for i, sentence in enumerate(check_sentences(sentences)):
        if sentence.tags:
            check_words(sentence, f"sentence {i}")
            labelled.append(sentence)
    if not labelled:
        raise EmptyDataError("no labelled sentence to train on: expected sentences with one tag per word")
    return labelled


def _checked_dev(dev: Iterable[Sentence] | None) -> list[Sentence] | None:
    """All of them, of which some are labelled."""
    if dev is None:
        return None
    found = check_sentences(dev)
    if not any(sentence.tags for sentence in found):
        raise EmptyDataError("no labelled sentence in `dev` to pick the best weights on: leave it out, or label some")
    return found


def _check_free(folder: Path, overwrite: bool) -> None:
    """Checks that the folder holds nothing that a model to come must not stand beside, or replace unasked."""
    if (folder / MEMORY).exists():
        raise SettingError(
            f"{folder} holds a memory, which need not fit the model to come: give another folder, or move it away"
        )
    if not overwrite and holds_model_of_no_run(folder):
        raise SettingError(f"{folder} holds a model without a run's report: give another folder, or overwrite=True")


@contextmanager
def _trained_alone(model: MetaNER, folder: Path) -> Iterator[dict[str, nn.Parameter]]:
    """The parameters that are trained, by name, which alone ask for gradients meanwhile.

    A run that ends before its first checkpoint, or goes astray, leaves their values as they were, so that the same call
    with the same model begins, or goes on, where it would with a fresh one.
    """
    network = model.network
    parameters = adapted_parameters(network, model.settings.freeze_layers)
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    network.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield parameters
    except BaseException as error:
        if isinstance(error, NumericsError) or not (folder / CHECKPOINT).exists():
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(start[name])
        raise
    finally:  # whatever ended it, the model can be used
        network.eval()
        network.requires_grad_(True)


def _taken_over(model: MetaNER, folder: Path, report: dict[str, Any]) -> TrainingReport:
    """What came of a finished run; the model gets its weights and settings."""
    dtype = model.network.dtype
    finished = load(MetaNER, folder, labels=None, dtype=dtype, device=model.device, with_memory=False)
    model.network.load_state_dict(finished.network.state_dict())
    model.network.eval()
    model.settings, model.source = finished.settings, finished.source
    history = [(int(step), float(f1)) for step, f1 in report["history"]]
    return TrainingReport(report["best_step"], report["best_f1"], history, report["seconds"])
