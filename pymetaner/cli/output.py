"""What the commands write: data to standard output; messages, warnings and progress to standard error."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console

__all__ = ["colored", "print_json", "print_rich", "say", "shown_warnings", "spinner"]

_UNICODE_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_WIDE = 1_000_000  # characters of a line
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def say(kind: str, message: str) -> None:
    """Write a message to standard error: an ``error``, a ``warning`` or a ``note``."""
    if colored(sys.stderr):
        Console(file=sys.stderr, highlight=False).print(f"{kind}:", style=_STYLES[kind], end=" ")
    else:
        print(f"{kind}:", end=" ", file=sys.stderr)
    print(message, file=sys.stderr)


def print_json(data: Any, *, lines: bool = False) -> None:
    """Write data as JSON, indented or (`lines`) on one line."""
    # What another encoding cannot write would be escaped as Python does it, which is not JSON.
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(data, ensure_ascii=not is_utf8, indent=None if lines else 2)
    # Line ends of Unicode are legal inside JSON strings, but many a reader of JSON lines would split there.
    print(_UNICODE_LINE_ENDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def print_rich(*renderables: object) -> None:
    """Write tables or styled text, coloured on a terminal; in a pipe no line is cut or wrapped."""
    if sys.stdout.isatty():
        console = Console(highlight=False, markup=False, emoji=False)
    else:
        console = Console(file=sys.stdout, width=_WIDE, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        for item in renderables:
            console.print(item)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def colored(stream: TextIO | Any) -> bool:
    """Whether to colour what is written to a stream."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Within the block, warnings become messages, each once; those that other libraries mean for programmers do not."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            say("warning", str(message))

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("always")
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", module=r"(torch|transformers|huggingface_hub|tokenizers)(\.|$)")
        warnings.showwarning = show
        yield


@contextmanager
def spinner(title: str) -> Iterator[None]:
    """Something that turns on a terminal's standard error while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    with Console(file=sys.stderr).status(title):
        yield
