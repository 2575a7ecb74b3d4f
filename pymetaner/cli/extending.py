"""`pymetaner extend`: a model that also tags the types of some labelled sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pymetaner.cli import options
from pymetaner.cli.labelled_files import read_file, reading_options
from pymetaner.cli.loading import check_new, counted, load_model, save_new
from pymetaner.cli.output import spinner

__all__ = ["extend"]


def extend(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Labelled files with entities of new types."),
    ],
    out: options.NewModelOption,
    model: options.StartOption = None,
    overwrite: options.Overwrite = False,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Add the sentences to its memory.")] = True,
    format: options.FormatOption = None,
    delimiter: options.Delimiter = None,
    word_column: options.WordColumn = 0,
    tag_column: options.TagColumn = -1,
    notation: options.NotationOption = None,
    encoding: options.Encoding = "utf-8",
    device: options.Device = "cpu",
    threads: options.Threads = None,
) -> None:
    """Teach a model new entity types from about 20 labelled sentences or more, without training.

    What it does with its old types stays as it is, but for words that it now takes for the new ones.
    """
    reading = reading_options(format, delimiter, word_column, tag_column, notation, encoding)
    corpora = [read_file(path, reading) for path in files]
    net = load_model(model, device, threads)
    check_new(model, out, overwrite)
    from pymetaner.extension import extend as extend_model
    from pymetaner.words import regroup

    parts = [[regroup(s) for s in corpus if s.words and s.tags is not None] for corpus in corpora]
    with spinner("extending the head"):
        extended = extend_model(net, [sentence for part in parts for sentence in part])
    if memory:
        for path, part in zip(files, parts, strict=True):
            extended.memory.add(part, source=path.name, progress=True)
    save_new(extended, out)
    new = ", ".join(sorted(extended.types - net.types))
    print(
        f"{out}: tags {new} beside {', '.join(sorted(net.types))}; {counted(len(extended.memory), 'sentence')} in the "
        "memory"
    )
