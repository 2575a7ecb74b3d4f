"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from pymetaner.errors import SettingError

if TYPE_CHECKING:
    from pymetaner.learning import SupportCount

Notation: TypeAlias = Literal["IOB1", "IOB2", "BIOES", "BILOU", "IO"]
Format: TypeAlias = Literal["columns", "jsonl"]

_MODEL = "A model's folder or hub id; the one that comes with pymetaner if not given."
_RUNNING, _ADAPTING, _READING = "Running", "Adapting", "Reading files"

ModelOption = Annotated[str | None, typer.Option("--model", metavar="MODEL", help=_MODEL)]
StartOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="Folder or hub id; if not given, the model that comes with pymetaner."
    ),
]
NewModelOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", file_okay=False, help="The folder of the new model.")
]
FineTuningSteps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Of 32 sentences each; if not given up to eight passes, the fewer the more sentences, at most 320 steps.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the model that is in DIR.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# ---- how to run ----
BatchSize = Annotated[int, typer.Option(min=1, help="Most sentences in a batch.", rich_help_panel=_RUNNING)]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="DEVICE", help="Where to compute: cpu, cuda, cuda:1, ...", rich_help_panel=_RUNNING
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads; as many as there are cores if not given.", rich_help_panel=_RUNNING),
]

PrecisionOption = Annotated[
    Literal["fp32", "tf32", "bf16"], typer.Option("--precision", help="Of products.", rich_help_panel=_RUNNING)
]
CacheBytes = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Most bytes of factors of labelled sentences to keep between batches; 1 GiB if not given.",
        rich_help_panel=_RUNNING,
    ),
]

# ---- how to adapt ----
MemoryOption = Annotated[
    Path | None,
    typer.Option(
        "--memory",
        metavar="FILE",
        help="The memory to learn from, a file or a model's folder; the model's own if not given.",
        rich_help_panel=_ADAPTING,
    ),
]
K = Annotated[
    str | None,
    typer.Option(
        "--k",
        "-k",
        metavar="NUMBER|all",
        help="Labelled sentences to adapt on, or all; what `memory calibrate` found, or 2, if not given.",
        rich_help_panel=_ADAPTING,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Inner steps; 1, or as many as the memory calls for with -k all.",
        rich_help_panel=_ADAPTING,
    ),
]
InnerLr = Annotated[
    float | None, typer.Option("--lr", help="Inner step size; the model's own if not given.", rich_help_panel=_ADAPTING)
]
InnerOptimizer = Annotated[
    Literal["sgd", "bertadam"] | None,
    typer.Option("--inner-optimizer", help="What takes the inner steps; sgd if not given.", rich_help_panel=_ADAPTING),
]
LambdaMax = Annotated[
    float | None,
    typer.Option(
        "--lambda-max",
        min=0,
        help="Weight of the largest loss of each labelled sentence; 0.",
        rich_help_panel=_ADAPTING,
    ),
]
Knn = Annotated[
    float | None,
    typer.Option(
        "--knn", min=0, max=1, help="Weight of the nearest labelled words' votes; 0.", rich_help_panel=_ADAPTING
    ),
]
Engine = Annotated[
    Literal["auto", "batched", "reference"],
    typer.Option(help="What computes them: whole batches at once, or one by one.", rich_help_panel=_ADAPTING),
]
ExcludeSelf = Annotated[
    bool,
    typer.Option(
        "--exclude-self", help="Do not adapt a sentence on itself, if it is in the memory.", rich_help_panel=_ADAPTING
    ),
]

# ---- how to read labelled files ----
FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="The format of the files; found out if not given.", rich_help_panel=_READING),
]
Delimiter = Annotated[
    str | None,
    typer.Option(help=r"What separates columns (\t for a tab); found out if not given.", rich_help_panel=_READING),
]
WordColumn = Annotated[int, typer.Option(help="The column of the word, from 0.", rich_help_panel=_READING)]
TagColumn = Annotated[int, typer.Option(help="The column of the tag; -1 is the last one.", rich_help_panel=_READING)]
NotationOption = Annotated[
    Notation | None,
    typer.Option("--notation", help="How the tags are written; found out if not given.", rich_help_panel=_READING),
]
Types = Annotated[
    str | None,
    typer.Option(
        "--types",
        metavar="TYPES",
        help="Entity types, as PER,ORG,LOC; those of the files if not given. Others become O.",
        rich_help_panel=_READING,
    ),
]
Encoding = Annotated[str, typer.Option(help="The character encoding of the files.", rich_help_panel=_READING)]


def k_of(value: str | None) -> SupportCount | None:
    """The number of supports that a command line asks for."""
    if value is None:
        return None
    if value == "all":
        return "all"
    if not value.isdecimal() or len(value) > 18:
        raise SettingError(f"--k {value:.20}: expected a whole number, 0 or more, or all")
    return int(value)


def delimiter_of(value: str | None) -> str | None:
    r"""The delimiter as it is meant: a shell passes ``\t`` on as two characters."""
    if value == "":
        raise SettingError("--delimiter is empty: give the character between columns, or leave the option out")
    return value if value is None else value.replace("\\t", "\t")


def refuse_unused(context: typer.Context, names: dict[str, str], about: str) -> None:
    """An option that would do nothing is a mistake, and better told than left out silently."""
    for name, option in names.items():
        if is_given(context, name):
            raise SettingError(f"{option} is about {about}")


def is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter stands on the command line, even with its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
