"""What a forked child finds: of the parent's threads only the one that forked, but every lock as it was held.

No SQLite connection may cross a fork: it would share its idea of who holds which lock with its copy. So before a fork
every memory waits until no thread uses it and closes its file; afterwards parent and child open it again, each for
itself, when they next use it. Where a thread may hold a lock for minutes, learning, a fork does not wait: the child
begins with a new lock, and without what that thread had half done.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["ForkSafe", "PerObject", "anew_in_child"]

Object = TypeVar("Object")
Value = TypeVar("Value")


class ForkSafe:
    """An object with a lock, `_lock`, held for moments only: a fork waits for it, and a child finds it free.

    A fork takes the locks of all, in any order: who holds one must not wait for another, nor make such an object.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        with _forking:
            _living.add(self)

    def suspend(self) -> None:
        """Lets go of what may not cross a fork; called with the lock held."""


_living: weakref.WeakSet[ForkSafe] = weakref.WeakSet()
_forking = threading.RLock()  # held during a fork, so that no other begins, and no object is made
_held: list[ForkSafe] = []


def _before() -> None:
    _forking.acquire()
    for item in list(_living):
        item._lock.acquire()
        _held.append(item)
        item.suspend()


def _in_parent() -> None:
    while _held:
        _held.pop()._lock.release()
    _forking.release()


def _in_child() -> None:
    global _forking
    _forking = threading.RLock()
    while _held:
        _held.pop()._lock = threading.RLock()


_register: Any = getattr(os, "register_at_fork", None)  # Windows has neither fork nor this
if _register is not None:
    _register(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


def anew_in_child(begin: Callable[[], None]) -> None:
    """Calls `begin` now, and in every forked child: it makes locks and what they protect."""
    begin()
    if _register is not None:
        _register(after_in_child=begin)


class PerObject(Generic[Object, Value]):
    """What a module keeps of each object for as long as that lives, and a lock; a forked child begins with none.

    Attributes:
        kept: the values, by object; read and changed with the lock held.
        lock: theirs.
    """

    kept: weakref.WeakKeyDictionary[Object, Value]
    lock: threading.Lock

    def __init__(self) -> None:
        anew_in_child(self._begin)

    def _begin(self) -> None:
        self.kept, self.lock = weakref.WeakKeyDictionary(), threading.Lock()
