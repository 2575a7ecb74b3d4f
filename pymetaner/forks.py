"""What a forked child finds: of the parent's threads only the one that forked, but every lock as it was held.

No SQLite connection may cross a fork: it would share its idea of who holds which lock with its copy; and a thread that
is in the middle of SQLite holds locks of the library, which the child would wait for for ever. So a fork waits until no
thread is, and until none uses a memory, and closes every memory's file; afterwards parent and child open it again, each
for itself, when they next use it. Where a thread may hold a lock for minutes, learning, a fork does not wait: the child
begins with a new lock, and without what that thread had half done.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import methodcaller
from typing import Any, Generic, TypeVar

__all__ = ["ForkSafe", "PerObject", "anew_in_child", "unforked", "when_unforked"]

Object = TypeVar("Object")
Value = TypeVar("Value")

TRIES = 100
"""How often a fork tries to close files and take locks: it cannot be put off for ever."""


class ForkSafe:
    """An object with a lock, `_lock`, held for moments only: a fork waits for it, and a child finds it free.

    A fork takes the locks of all, in any order: who holds one must not wait for another, nor enter `unforked`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        with unforked():  # a fork in the middle would not take its lock
            _living.add(self)

    def suspend(self) -> None:
        """Lets go of what may not cross a fork; called with the lock held."""


_living: weakref.WeakSet[ForkSafe] = weakref.WeakSet()
_held: list[threading.RLock] = []


class _Gate:
    """Any number of threads are inside, or one is forking."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # taken in one step, while an interrupt may come on the way into a Condition
        self.changed = threading.Condition(self.lock)
        self.inside: dict[object, int] = {}  # each way in, and whose thread's it is
        self.forking: int | None = None  # the thread that is
        self.interrupted = False  # by Ctrl-C, while a hook waited


_gate = _Gate()
_put_off: list[Callable[[], object]] = []
_of_the_parent: list[Callable[[], object]] = []  # kept alive in a child: to free them would be to close them


def _depth() -> int:
    """How often this thread is inside."""
    return list(_gate.inside.values()).count(threading.get_ident())


def _enter(way: object, *, wait: bool) -> bool:
    with _gate.lock:
        while _gate.forking not in (None, threading.get_ident()) and not _depth():
            if not wait:
                return False
            _gate.changed.wait()
        _gate.inside[way] = threading.get_ident()
        return True


def _leave(way: object) -> None:
    """Also where it is not known whether it came in: an interrupt may have been faster."""
    with _gate.lock:
        _gate.inside.pop(way, None)
        _gate.changed.notify_all()


@contextmanager
def unforked() -> Iterator[None]:
    """Within it no other thread forks: for SQLite where no `ForkSafe` object is locked."""
    way = object()
    try:
        _enter(way, wait=True)
        yield
    finally:
        _leave(way)


def when_unforked(close: Callable[[], object]) -> None:
    """Calls it now, or, if another thread is forking, after that; never waits for it, so a finaliser may ask.

    A child never calls what was put off: that belongs to the parent.
    """
    _put_off.append(close)
    _close_what_was_put_off()


def _close_what_was_put_off() -> None:
    way = object()
    try:
        while _put_off and _enter(way, wait=False):
            with suppress(IndexError):  # another thread was faster
                _put_off.pop()()
    finally:
        _leave(way)


def _before() -> None:
    me, problem, tries = threading.get_ident(), None, TRIES
    while tries:
        try:  # Python forks whatever a hook raises, Ctrl-C while it waits, say
            with _gate.lock:
                _gate.changed.wait_for(lambda: _gate.forking in (None, me))
                _gate.forking = me
                _gate.changed.wait_for(lambda: len(_gate.inside) == _depth())
            for item in list(_living):
                if item._lock not in _held:
                    _held.extend(filter(_acquired, [item._lock]))  # no interrupt comes between taking and noting down
                item.suspend()
            tries = 0
        except KeyboardInterrupt:
            _gate.interrupted = True
        except BaseException as error:
            problem = error
            if isinstance(error, Exception):  # perhaps the same each time; the end of the program is not
                tries -= 1
    if problem is not None:
        raise problem


_acquired = methodcaller("acquire")


def _interrupt_soon() -> None:
    time.sleep(0.05)  # after the last of the hooks, in which it would go unnoticed again
    if callable(signal.getsignal(signal.SIGINT)):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # which wakes it where it waits, too


def _in_parent(again: bool) -> None:
    """Called twice: the first may end as it begins, where the handler of a signal raises that came during the fork."""
    if _gate.forking != threading.get_ident():
        return
    while _held:
        _held.pop().release()
    with _gate.lock:
        interrupted = _gate.interrupted or again
        _gate.interrupted, _gate.forking = False, None
        _gate.changed.notify_all()
    try:
        _close_what_was_put_off()
    finally:
        if interrupted:
            _thread.start_new_thread(_interrupt_soon, ())


def _in_child() -> None:
    global _gate
    me, before = threading.get_ident(), _gate.inside
    _gate = _Gate()
    _gate.inside = {way: thread for way, thread in before.items() if thread == me}
    _of_the_parent.extend(_put_off)
    _put_off.clear()
    for item in list(_living):
        item._lock = threading.RLock()
    _held.clear()


_register: Any = getattr(os, "register_at_fork", None)  # Windows has neither fork nor this
if _register is not None:
    _register(before=_before, after_in_parent=partial(_in_parent, again=False), after_in_child=_in_child)
    _register(after_in_parent=partial(_in_parent, again=True))


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
