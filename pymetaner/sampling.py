"""Some of many, spread evenly over all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["spread"]

Item = TypeVar("Item")


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """As many of the items as there may be, evenly spread over all, in their order.

    Args:
        items: what to choose from.
        most: 1 or more.

    Example:
        >>> spread(range(7), 3)
        [0, 2, 4]
    """
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]
