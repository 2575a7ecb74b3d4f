"""Locks that a fork finds free: a child must not wait for a thread that only its parent has."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

__all__ = ["ForkSafe"]


class ForkSafe:
    """An object with a lock; a fork waits for the lock, so the child gets the object in a complete state.

    Attributes:
        forked: true in a child whose parent made the object.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.forked = False
        _living.add(self)


_living: weakref.WeakSet[ForkSafe] = weakref.WeakSet()
_held: list[ForkSafe] = []


def _before() -> None:
    for item in list(_living):
        item._lock.acquire()
        _held.append(item)


def _in_parent() -> None:
    while _held:
        _held.pop()._lock.release()


def _in_child() -> None:
    while _held:
        item = _held.pop()
        item._lock = threading.RLock()
        item.forked = True


_register: Any = getattr(os, "register_at_fork", None)  # Windows has neither fork nor this
if _register is not None:
    _register(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
