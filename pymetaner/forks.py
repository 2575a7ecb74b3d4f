"""What a forked child finds: of the parent's threads only the one that forked, but every lock as it was held.

No SQLite connection may cross a fork: it would share its idea of who holds which lock with its copy; and a thread that
is in the middle of SQLite holds locks of the library, which the child would wait for for ever. So a fork waits until no
thread is, and until none uses a memory, and closes every memory's file; afterwards parent and child open it again, each
for itself, when they next use it. Where a thread may hold a lock for minutes, learning, a fork does not wait: the child
begins with a new lock, and without what that thread had half done.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

__all__ = ["ForkSafe", "PerObject", "anew_in_child", "unforked", "when_unforked"]

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


@contextmanager
def unforked() -> Iterator[None]:
    """Within it, which lasts moments only, no other thread forks: for SQLite where no `ForkSafe` object is locked."""
    with _forking:
        yield


def when_unforked(close: Callable[[], object]) -> None:
    """Calls it now, or, if a fork is going on, after it; never waits, so a finaliser may ask for it.

    A child never calls what was put off: that belongs to the parent.
    """
    if _forking.acquire(blocking=False):
        try:
            close()
        finally:
            _forking.release()
    else:
        _put_off.append(close)


_living: weakref.WeakSet[ForkSafe] = weakref.WeakSet()
_forking = threading.RLock()  # held during a fork, so that no other begins, and no object is made
_held: list[ForkSafe] = []
_put_off: list[Callable[[], object]] = []
_of_the_parent: list[Callable[[], object]] = []  # kept alive: to free them would close them


def _before() -> None:
    _forking.acquire()
    for item in list(_living):
        item._lock.acquire()
        _held.append(item)
        item.suspend()


def _in_parent() -> None:
    while _held:
        _held.pop()._lock.release()
    while _put_off:
        _put_off.pop()()
    _forking.release()


def _in_child() -> None:
    global _forking
    _forking = threading.RLock()
    _of_the_parent.extend(_put_off)
    _put_off.clear()
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
