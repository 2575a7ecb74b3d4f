"""Some items of many, the same at every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def spread(items: Sequence[Item], most: int | None) -> Sequence[Item]:
    """At most so many of the items, spread over all; all of them if `most` is 0 or None."""
    return items[:: max(1, len(items) // most)][:most] if most else items
