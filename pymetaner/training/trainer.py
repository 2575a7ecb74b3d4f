"""Base training of a model: the loop, its schedule, and picking the best weights on the dev set."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from pymetaner.checkpoint import save
from pymetaner.errors import EmptyDataError, SettingError
from pymetaner.evaluation import evaluate
from pymetaner.files import MEMORY, REPORT, write_atomically
from pymetaner.model import MetaNER
from pymetaner.network import adapted_parameters, fingerprint_of
from pymetaner.progress import bar
from pymetaner.sentence import Sentence
from pymetaner.training.objective import batch_loss, mask_entities
from pymetaner.training.state import TrainingState
from pymetaner.windows import Batch, Window, make_batch, pack

__all__ = ["TrainSettings", "TrainingReport", "train"]

_PART = 4096  # pieces, padding included, that pass forward and backward together: bounds the activations in memory


@dataclass(frozen=True)
class TrainSettings:
    """What a training run does.

    Attributes:
        steps: optimiser steps, 1 or more.
        batch_size: windows (sentences, but for very long ones) a step.
        lr: peak learning rate of AdamW; linear warm-up, then linear decay to 0.
        warmup: share of the steps that warm up, 0 to 1.
        weight_decay: decoupled, none on biases and normalisation weights.
        clip: largest norm of the gradient.
        mask_probability: of replacing a piece with an entity tag by the mask piece, 0 to 1.
        lambda_max: weight of the largest token loss of each sentence.
        evaluate_every: steps between two looks at the dev set.
        checkpoint_every: steps between two checkpoints.
        seed: fixes batches, masks and dropout.
    """

    steps: int = 1200
    batch_size: int = 32
    lr: float = 3e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    mask_probability: float = 0.2
    lambda_max: float = 2.0
    evaluate_every: int = 300
    checkpoint_every: int = 100
    seed: int = 95

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole = name in ("steps", "batch_size", "evaluate_every", "checkpoint_every", "seed")
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise SettingError(f"{name}={value!r}: expected a {'whole ' if whole else ''}number")
            if whole and value < 1 and name != "seed":
                raise SettingError(f"{name}={value}: expected 1 or more")
            if name in ("lr", "clip") and not 0 < value < math.inf:
                raise SettingError(f"{name}={value}: expected a positive number")
            if name in ("warmup", "mask_probability") and not 0 <= value <= 1:
                raise SettingError(f"{name}={value}: expected 0 to 1")
            if name in ("weight_decay", "lambda_max") and not 0 <= value < math.inf:
                raise SettingError(f"{name}={value}: expected 0 or more")


@dataclass(frozen=True)
class TrainingReport:
    """What came of a run.

    Attributes:
        best_step: the step whose weights were kept.
        best_f1: its dev F1, 0 to 1; None without a dev set.
        history: (step, dev F1) of every look at the dev set.
        seconds: how long this call took.
    """

    best_step: int
    best_f1: float | None
    history: list[tuple[int, float]]
    seconds: float


def train(
    model: MetaNER,
    sentences: Sequence[Sentence],
    out: str | PathLike[str],
    *,
    dev: Sequence[Sentence] | None = None,
    settings: TrainSettings | None = None,
    progress: bool = False,
) -> TrainingReport:
    """Train the head and the unfrozen layers of a model in place and save the best weights to a folder.

    Killed at any moment and called again with the same arguments, it goes on from the last checkpoint in the folder
    and ends with the same weights (on the CPU, with the same number of threads).

    A memory that the model has is not saved: call ``model.save_pretrained(out)`` afterwards. Its vectors are those of
    the frozen layers, so they stay as they are; only where none is frozen, call ``model.memory.rebuild()`` before.

    Args:
        model: the model; its weights are changed.
        sentences: labelled sentences.
        out: the folder that gets the model, ``training.json`` and, while the run lasts, a checkpoint.
        dev: labelled sentences that pick the best weights; without them the last ones are kept.
        settings: the settings of the run.
        progress: show a progress bar.

    Raises:
        EmptyDataError: if no sentence is labelled.
        LabelMismatchError: if a sentence has an entity type that the model does not tag.
        SettingError: if the folder holds a checkpoint of another run, or a memory.
        SaveError: if the folder cannot be written.
    """
    settings = settings or TrainSettings()
    started = time.monotonic()
    folder = Path(out)
    labelled = [sentence for sentence in sentences if sentence.tags]
    if not labelled:
        raise EmptyDataError("no labelled sentence to train on: expected sentences with one tag a word")
    if dev is not None and not any(sentence.tags for sentence in dev):
        raise EmptyDataError("no labelled sentence in `dev` to pick the best weights on: leave it out, or label some")
    if (folder / MEMORY).exists():
        raise SettingError(
            f"{folder} holds a memory, which need not fit the model to come: give another folder, or move it away"
        )
    tag_ids = [model.labels.encode(sentence.tags or ()) for sentence in labelled]
    mask_id = model.tokenizer.mask_token_id
    if settings.mask_probability and mask_id is None:
        raise SettingError("the tokenizer has no mask piece: train with mask_probability=0")
    outside = model.labels.tags.index("O")
    windows = model.words.windows(labelled)
    batches = _Batches(windows, settings)

    network = model.network
    parameters = adapted_parameters(network, model.settings.freeze_layers)
    network.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = _optimizer(parameters, settings)
    run = {
        **asdict(settings),
        "windows": len(windows),
        "data": _digest(windows, tag_ids, dev),
        "frozen weights": fingerprint_of({n: t for n, t in network.state_dict().items() if n not in parameters}),
    }
    state = TrainingState(folder, parameters, optimizer, run)
    step = state.restore()
    started_at = step

    with torch.random.fork_rng(devices=[]), bar(progress) as progress_bar:
        task = progress_bar.add_task("training", total=settings.steps, completed=step)
        while step < settings.steps:
            network.train()
            # The randomness of a step depends on the seed and the step alone, so a resumed run draws the same.
            torch.manual_seed(settings.seed * 1_000_003 + step)
            optimizer.zero_grad(set_to_none=True)
            loss = 0.0
            for batch, labels, total in _parts(model, batches[step], tag_ids):
                ids = batch.input_ids
                if settings.mask_probability:
                    ids = mask_entities(ids, labels, outside, mask_id, settings.mask_probability)
                logits = model(ids, batch.attention_mask)
                part = batch_loss(logits, labels, settings.lambda_max, words=total, sentences=len(batches[step]))
                part.backward()
                loss += part.item()
            nn.utils.clip_grad_norm_(parameters.values(), settings.clip)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _schedule(step, settings)
            optimizer.step()
            step += 1
            network.eval()
            if step % settings.evaluate_every == 0 or step == settings.steps:
                f1 = None if dev is None else evaluate(model, dev, batch_size=64).plain.f1
                if state.keep(step, f1):
                    save(model, folder, with_memory=False)
                if progress:
                    measured = "" if f1 is None else f", dev F1 {100 * f1:.2f}"
                    progress_bar.console.print(f"step {step:,} of {settings.steps:,}: loss {loss:.3f}{measured}")
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                state.save(step)
            rate = (step - started_at) * settings.batch_size / (time.monotonic() - started)
            best = "" if state.best_f1 is None else f", dev F1 {100 * state.best_f1:.2f}"
            progress_bar.update(task, completed=step, description=f"loss {loss:.3f}{best}, {rate:.0f} sentences/s")
    network.requires_grad_(True)
    report = TrainingReport(state.best_step, state.best_f1, state.history, time.monotonic() - started)
    summary = {"settings": asdict(settings), **asdict(report)}
    write_atomically(folder / REPORT, json.dumps(summary, indent=2).encode() + b"\n")
    state.load_best(model)
    return report


def _digest(windows: Sequence[Window], tag_ids: Sequence[Sequence[int]], dev: Sequence[Sentence] | None) -> str:
    """A hash of what a run is trained and measured on."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(repr((window, tag_ids[window.sentence])).encode())
    for sentence in dev or ():
        digest.update(repr((sentence.words, sentence.tags)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _parts(
    model: MetaNER, windows: Sequence[Window], tag_ids: Sequence[Sequence[int]]
) -> Iterator[tuple[Batch, Tensor, int]]:
    """The windows in parts of like length and bounded size, each with its labels and the labelled words of all."""
    total = sum(len(window.positions) for window in windows)
    lengths = [len(window.ids) for window in windows]
    for group in pack(lengths, len(windows), pieces=_PART, overhead=model.pass_overhead):
        batch = make_batch([windows[i] for i in group], model.pad_id).to(model.device)
        yield batch, batch.labels(tag_ids), total


class _Batches:
    """The windows of every step, in a fresh random order each epoch.

    Short and long sentences stay mixed: batches of like lengths pad less, but cost transfer (four F1 in Spanish); the
    padding is saved by passing a batch in parts.
    """

    def __init__(self, windows: Sequence[Window], settings: TrainSettings) -> None:
        self.windows = windows
        self.settings = settings
        self.per_epoch = math.ceil(len(windows) / settings.batch_size)
        self._epoch: tuple[int, list[int]] = (-1, [])

    def __getitem__(self, step: int) -> list[Window]:
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(self.settings.seed * 7_919 + epoch)
            self._epoch = (epoch, torch.randperm(len(self.windows), generator=generator).tolist())
        size = self.settings.batch_size
        return [self.windows[i] for i in self._epoch[1][place * size : (place + 1) * size]]


def _optimizer(parameters: dict[str, nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for parameter in parameters.values():
        groups[parameter.dim() > 1].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": settings.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=settings.lr,
    )


def _schedule(step: int, settings: TrainSettings) -> float:
    """The share of the peak learning rate at a step, counted from 0."""
    warm = max(1, round(settings.steps * settings.warmup))
    if step < warm:
        return (step + 1) / warm
    return (settings.steps - step) / max(1, settings.steps - warm)
