"""The command line `pymetaner`.

Nothing here imports torch or transformers until a command needs them, so that help comes at once.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from pymetaner.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; the entry point of the installed script."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal of another encoding shows what it cannot write as an escape; it is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="pymetaner")
