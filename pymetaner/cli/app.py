"""The commands, and what happens to their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pymetaner.cli.adapting import adapt, predict
from pymetaner.cli.averaging import average
from pymetaner.cli.demo import demo
from pymetaner.cli.evaluating import evaluate
from pymetaner.cli.extending import extend
from pymetaner.cli.fine_tuning import fine_tune
from pymetaner.cli.information import info
from pymetaner.cli.memories import memory_app
from pymetaner.cli.output import say, shown_warnings
from pymetaner.cli.self_training import self_train
from pymetaner.cli.training import train
from pymetaner.errors import PymetanerError, SettingError

__all__ = ["app"]

CLOSED_PIPE = 141
"""What a shell reports of a program that wrote into a closed pipe."""

INTERRUPTED = 130
"""What a shell reports of a program that was ended by Ctrl-C."""


class _Commands(TyperGroup):
    """The group of all commands: tells an error of pymetaner in a line, and ends quietly on Ctrl-C or a closed pipe."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _ending_well(lambda: False):  # --help and --version print here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _ending_well(lambda: bool(ctx.params.get("debug"))), shown_warnings():
            return super().invoke(ctx)


@contextmanager
def _ending_well(debug: Callable[[], bool]) -> Iterator[None]:
    """Ends the program with a line about an error, or with none on Ctrl-C or a closed pipe."""
    try:
        try:
            yield
        finally:
            _flush()
    except BrokenPipeError:
        raise typer.Exit(CLOSED_PIPE) from None
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # in help, which rich ends by itself, with 1
            raise typer.Exit(CLOSED_PIPE) from None
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except (PymetanerError, OSError) as error:
        if debug():
            raise
        say("error", str(error))
        raise typer.Exit(2 if isinstance(error, SettingError) else 1) from None


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        # Whatever is still in the buffers would raise once more at exit.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        raise


app = typer.Typer(
    name="pymetaner",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pymetaner import __version__

        print(f"pymetaner {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Named-entity recognition that adapts itself to every sentence, in any language."""


app.command()(adapt)
app.command()(predict)
app.command()(demo)
app.command()(evaluate)
app.command()(train)
app.command("fine-tune")(fine_tune)
app.command("self-train")(self_train)
app.command()(average)
app.command()(extend)
app.add_typer(memory_app, name="memory")
app.command()(info)
