"""`pymetaner fine-tune`: a model that learned from all of some labelled sentences."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from pymetaner.cli import options
from pymetaner.cli.labelled_files import of_types, read_file, reading_options
from pymetaner.cli.loading import check_new, counted, load_model, opened_memory, save_new
from pymetaner.errors import SettingError

__all__ = ["fine_tune"]


_ONLY_FILES = {
    "types": "--types",
    "format": "--format",
    "delimiter": "--delimiter",
    "word_column": "--word-column",
    "tag_column": "--tag-column",
    "notation": "--notation",
    "encoding": "--encoding",
}


def fine_tune(
    context: typer.Context,
    out: options.NewModelOption,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Labelled files.")
    ] = None,
    model: options.StartOption = None,
    overwrite: options.Overwrite = False,
    memory: Annotated[
        Path | None,
        typer.Option(
            "--memory", metavar="FILE", help="A memory instead of files; the model's own if neither is given."
        ),
    ] = None,
    steps: options.FineTuningSteps = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Step size; the model's own, or the calibrated one, if not given.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Fixes batches and dropout.")] = 0,
    types: options.Types = None,
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
    """Fine-tune a model on tens to thousands of labelled sentences: what `adapt -k all` learns, kept as a model.

    The sentences become part of the new model's memory.
    """
    if files and memory is not None:
        raise SettingError("--memory beside FILE: give the one or the other")
    if not files:
        options.refuse_unused(context, _ONLY_FILES, "labelled files: give some, or leave it out")
    reading = reading_options(format, delimiter, word_column, tag_column, notation, encoding)
    corpora = [read_file(path, reading) for path in files or ()]
    net = load_model(model, device, threads)
    check_new(model, out, overwrite)
    from pymetaner.whole_memory import fine_tune as fine_tune_model

    labelled = [sentence for part in of_types(net, corpora, types) for sentence in part]
    with opened_memory(net, memory, read_only=True) if memory else nullcontext(net.memory) as source:
        tuned = fine_tune_model(
            net, labelled if files else source, steps=steps, lr=lr, seed=seed, precision=precision, progress=True
        )
        learned = counted(len(labelled if files else source), "sentence")
    save_new(tuned, out)
    print(f"{out}: fine-tuned on {learned}; {counted(len(tuned.memory), 'sentence')} in the memory")
