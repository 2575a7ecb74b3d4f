"""Progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["bar", "track"]

Item = TypeVar("Item")


def bar(enabled: bool = True) -> Progress:
    """A bar on standard error, silent where that is not a terminal, so that output can be piped."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not (enabled and sys.stderr.isatty()),
        transient=True,
    )


def track(items: Sequence[Item], title: str, enabled: bool) -> Iterator[Item]:
    """The items one by one, with a bar if `enabled`."""
    if not enabled:
        yield from items
        return
    with bar() as progress:
        yield from progress.track(items, description=title)
