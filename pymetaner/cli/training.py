"""`pymetaner train`: a model from an encoder and labelled files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pymetaner.cli import options
from pymetaner.cli.labelled_files import chosen_types, of_types, read_file, reading_options
from pymetaner.cli.loading import check_apart, counted, load_model, prepare
from pymetaner.cli.output import say, spinner
from pymetaner.errors import EncoderMismatchError, SettingError
from pymetaner.files import MEMORY, REPORT, holds_model_of_no_run

if TYPE_CHECKING:
    from pymetaner.model import MetaNER
    from pymetaner.sentence import Sentence

__all__ = ["train"]

_START, _RUN, _META = "What to start from", "The run", "Learning to adapt"
_ONLY_META = {
    "k": "--k",
    "inner_lr": "--inner-lr",
    "inner_steps": "--inner-steps",
    "inner_optimizer": "--inner-optimizer",
    "inner_lambda_max": "--inner-lambda-max",
    "second_order": "--second-order",
    "learn_rates": "--learn-rates",
    "plain_share": "--plain-share",
    "average": "--average",
}

# field of MetaSettings: parameter of the command
_INNER = {
    "k": "k",
    "optimizer": "inner_optimizer",
    "lr": "inner_lr",
    "steps": "inner_steps",
    "lambda_max": "inner_lambda_max",
    "learn_rates": "learn_rates",
    "plain_share": "plain_share",
    "average": "average",
}


def _option(text: str, panel: str, *names: str, **rules: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **rules)


def train(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="TRAIN", exists=True, dir_okay=False, help="Labelled files.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="The folder that gets the model.")],
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            "--dev", metavar="FILE", exists=True, dir_okay=False, help="Labelled file that picks the best weights."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        _option("An encoder's folder or hub id; it gets a new head.", _START, "--encoder", metavar="ENCODER"),
    ] = None,
    model: Annotated[
        str | None, _option("A model's folder or hub id, to be trained further.", _START, "--model", metavar="MODEL")
    ] = None,
    types: options.Types = None,
    freeze_layers: Annotated[
        int | None, _option("Encoder layers that stand still, with the embeddings; 4 if not given.", _START, min=0)
    ] = None,
    pooling: Annotated[
        Literal["mean", "cls"] | None, _option("What sentence vectors are made of; mean if not given.", _START)
    ] = None,
    label_all_pieces: Annotated[
        bool, _option("A new head labels every piece, not only words.", _START, "--label-all-pieces")
    ] = False,
    preset: Annotated[
        Literal["wu2020"] | None,
        _option(
            "wu2020: every setting of the official code of Wu et al. (2020), --meta included; options given beside it "
            "win.",
            _RUN,
        ),
    ] = None,
    memory: Annotated[
        bool, _option("Make the training sentences the model's memory.", _RUN, "--memory/--no-memory")
    ] = True,
    steps: Annotated[int, _option("Optimiser steps.", _RUN, min=1)] = 1200,
    batch_size: Annotated[int, _option("Sentences a step.", _RUN, min=1)] = 32,
    optimizer: Annotated[Literal["adamw", "bertadam"], _option("What takes the steps.", _RUN)] = "adamw",
    lr: Annotated[float, _option("Peak learning rate.", _RUN)] = 3e-4,
    warmup: Annotated[float, _option("Share of the steps that warm up.", _RUN)] = 0.1,
    weight_decay: Annotated[float, _option("Weight decay.", _RUN)] = 0.01,
    mask_probability: Annotated[float, _option("Of masking a piece of an entity.", _RUN)] = 0.2,
    lambda_max: Annotated[float, _option("Weight of the largest loss of each sentence.", _RUN)] = 2.0,
    evaluate_every: Annotated[int, _option("Steps between two looks at the dev files.", _RUN, min=1)] = 300,
    checkpoint_every: Annotated[int, _option("Steps between two checkpoints.", _RUN, min=1)] = 100,
    seed: Annotated[int, _option("Fixes everything that is random.", _RUN)] = 95,
    head_seed: Annotated[
        int | None,
        _option("Fixes the new head; --seed if not given. `pymetaner average` wants one and the same.", _START),
    ] = None,
    meta: Annotated[
        bool, _option("Learn to adapt: each sentence is a task, its neighbours its supports.", _META, "--meta")
    ] = False,
    k: Annotated[int, _option("Supports of a task.", _META, "--k", "-k", min=1)] = 2,
    inner_lr: Annotated[
        float | None, _option("Inner step size; 0.02 for SGD, 3e-5 for BertAdam if not given.", _META)
    ] = None,
    inner_steps: Annotated[int, _option("Inner steps.", _META, min=1)] = 1,
    inner_optimizer: Annotated[Literal["sgd", "bertadam"], _option("What takes the inner steps.", _META)] = "sgd",
    inner_lambda_max: Annotated[
        float | None,
        _option(
            "Weight of the largest loss of each support in the inner loss; 2 for BertAdam, else 0, if not given.",
            _META,
            min=0,
        ),
    ] = None,
    second_order: Annotated[bool, _option("Differentiate through the inner steps.", _META, "--second-order")] = False,
    learn_rates: Annotated[bool, _option("Learn an inner step size for each layer.", _META, "--learn-rates")] = False,
    plain_share: Annotated[
        float, _option("Share of the steps, the first ones, that learn the queries as they stand.", _META)
    ] = 0.5,
    average: Annotated[
        bool,
        _option(
            "Train twice, first without inner steps, and keep the mean of the weights of both runs.",
            _META,
            "--average/--no-average",
        ),
    ] = True,
    overwrite: Annotated[bool, _option("Replace the run in the folder, and its memory.", _RUN, "--overwrite")] = False,
    format: options.FormatOption = None,
    delimiter: options.Delimiter = None,
    word_column: options.WordColumn = 0,
    tag_column: options.TagColumn = -1,
    notation: options.NotationOption = None,
    encoding: options.Encoding = "utf-8",
    precision: options.PrecisionOption = "fp32",
    device: options.Device = "cpu",
    threads: options.Threads = None,
) -> None:
    """Train a model on labelled files and save the weights that are best on the dev files.

    Stopped at any moment, the same command goes on from the last checkpoint in the folder, and on the CPU ends with the
    same weights. The model's memory is then made of the training sentences.
    """
    if (encoder is None) == (model is None):
        raise SettingError("say what to start from: --encoder for a new model, or --model for one to train further")
    if label_all_pieces and encoder is None:
        raise SettingError("--label-all-pieces is about a new head: give --encoder, not --model")
    if head_seed is not None and encoder is None:
        raise SettingError("--head-seed is about a new head: give --encoder, not --model")
    check_apart(encoder or model, out)
    if not overwrite and holds_model_of_no_run(out):
        raise SettingError(f"{out} holds a model that no run made: give another --out, or --overwrite to replace it")
    if preset is not None and model is not None:
        raise SettingError(f"--preset {preset} starts from an encoder as it is: give --encoder, not --model")
    meta = meta or preset is not None
    if not meta:
        options.refuse_unused(context, _ONLY_META, "learning to adapt: give --meta too")
    prepare(device, threads)
    from pymetaner.training import MetaSettings, TrainSettings, run_of, wu2020
    from pymetaner.training import train as train_model
    from pymetaner.training.state import finished_run

    given = {name for name in context.params if options.is_given(context, name)}
    of_run = {field.name: context.params[field.name] for field in fields(TrainSettings) if field.name in given}
    settings = replace(wu2020.TRAIN if preset else TrainSettings(), **of_run)
    learning = None
    if meta:
        order: dict[str, Any] = {"order": 2} if second_order else {}
        chosen = {name: context.params[option] for name, option in _INNER.items() if option in given}
        learning = replace(wu2020.META if preset else MetaSettings(), **chosen, **order)
    reading = reading_options(format, delimiter, word_column, tag_column, notation, encoding)
    corpora = [read_file(path, reading) for path in files]
    dev_corpora = [read_file(path, reading) for path in dev or ()]
    names = chosen_types(types, corpora)

    if encoder is not None:
        net = _new_model(
            encoder, names, seed if head_seed is None else head_seed, device, label_all_pieces or preset is not None
        )
    else:
        net = load_model(model, device)
    own = wu2020.as_official(net.settings) if preset is not None else net.settings
    if freeze_layers is not None:
        own = replace(own, freeze_layers=freeze_layers)
    if pooling is not None:
        own = replace(own, pooling=pooling)
    net.settings = own
    data = of_types(net, corpora, types)
    sentences = [sentence for part in data for sentence in part]
    held = [sentence for part in of_types(net, dev_corpora, types, quiet=True) for sentence in part] if dev else None

    if not overwrite and finished_run(out, lambda: run_of(net, sentences, held, settings, learning)):
        before = net.memory
        net = load_model(str(out), device)
        if not memory or len(net.memory):
            say("note", f"{out} holds this run, finished: nothing to do (--overwrite to train it again)")
            return
        net.memory = before
    else:
        with _memory_aside(out, overwrite):
            train_model(
                net, sentences, out, dev=held, settings=settings, meta=learning, overwrite=overwrite, progress=True
            )
    if memory:
        _fill(net, data, files, out)
    _report(out, len(net.memory))


def _new_model(encoder: str, types: Sequence[str], seed: int, device: str, label_all_pieces: bool) -> MetaNER:
    with spinner("loading the encoder"):
        from pymetaner.model import MetaNER

        return MetaNER.from_encoder(encoder, types, seed=seed, label_all_pieces=label_all_pieces).to(device)


@contextmanager
def _memory_aside(out: Path, overwrite: bool) -> Iterator[None]:
    """In the block a folder to be overwritten has no memory; afterwards it is gone, or there again if the run failed.

    So is one that a run set aside which was killed, once the run that goes on in its place has finished.
    """
    names = [name for name in (MEMORY, f"{MEMORY}-wal", f"{MEMORY}-shm") if overwrite and (out / name).exists()]
    for name in names:
        (out / name).replace(out / f"{name}.before")
    try:
        yield
    except BaseException:
        for name in names:
            (out / f"{name}.before").replace(out / name)
        raise
    for left in out.glob(f"{MEMORY}*.before"):
        left.unlink()


def _fill(net: MetaNER, data: list[list[Sentence]], files: Sequence[Path], out: Path) -> None:
    """Give the model a memory of its training sentences, beside those it had before, and save it."""
    from pymetaner.memory import Memory

    if not len(net.memory):
        net.memory = Memory(net)
    try:
        net.memory.check(net)
    except EncoderMismatchError:
        net.memory.rebuild(net, progress=True)  # without frozen layers, training moves every vector
    for path, sentences in zip(files, data, strict=True):
        labelled = [s for s in sentences if s.words and s.tags is not None]
        net.memory.add(labelled, source=path.name, progress=True)
    with spinner("saving"):
        net.save_pretrained(out)


def _report(out: Path, remembered: int) -> None:
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    steps, best, f1 = report["settings"]["steps"], report["best_step"], report["best_f1"]
    averaged = "averaged with" in report
    when = "as a mean of two runs" if averaged else f"at step {best:,} of {steps:,}"
    picked = f"after {counted(steps, 'step')}" if f1 is None else f"dev F1 {100 * f1:.2f} {when}"
    minutes = report["seconds"] / 60
    print(f"{out}: {picked}; {counted(remembered, 'sentence')} in the memory; trained in {minutes:.1f} minutes")
