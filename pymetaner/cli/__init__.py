"""The command line `pymetaner`.

Nothing here imports torch or transformers until a command needs them, so that help comes at once.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

from pymetaner.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; the entry point of the installed script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal of another encoding shows what it cannot write as an escape; it is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="pymetaner")
