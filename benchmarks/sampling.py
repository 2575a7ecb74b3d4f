"""Some items of many, the same at every run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def spread(items: Sequence[Item], most: int | None) -> Sequence[Item]:
    """At most so many of the items, spread over all; all of them if `most` is 0 or None."""
    return items[:: max(1, len(items) // most)][:most] if most else items


def drawn(items: Sequence[Item], size: int, draw: int) -> list[Item]:
    """So many of the items by chance, all of them if there are no more; another draw has others."""
    return random.Random(draw).sample(items, min(size, len(items)))
