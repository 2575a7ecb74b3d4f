"""What others do, or an interrupt does, between two moments of one call."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_fakes import FakeEncoder, edit, forked, joined, labelled, numbered

from pymetaner import forks
from pymetaner.errors import LabelMismatchError, MemoryFileError, SaveError
from pymetaner.forks import ForkSafe
from pymetaner.memory import Memory, copies, handle
from pymetaner.memory import file as memory_file
from pymetaner.memory import store as store_module
from pymetaner.memory.bank import Bank
from pymetaner.memory.store import Store
from pymetaner.ops import CosineBank


@contextmanager
def writing_elsewhere(path: Path, at_the_end: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Another connection, in a thread, holds the write lock for a second."""
    begun = threading.Event()

    def hold() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        begun.set()
        time.sleep(1)
        at_the_end()
        connection.execute("ROLLBACK")
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    yield
    thread.join()


@pytest.fixture(autouse=True)
def _interrupts_are_heard() -> Iterator[None]:
    """What a shell starts in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def alarm(seconds: float, error: type[BaseException]) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_while_waiting_to_write_leaves_no_lock_behind(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory, Memory(encoder, path) as other:
        memory.add(numbered(0))
        with writing_elsewhere(path), alarm(0.3, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            memory.add(numbered(1))
        assert other.add(numbered(2)) == [2]
        assert memory.add(numbered(3)) == [3] and len(memory) == 3


def test_an_interrupt_in_a_removal_leaves_ids_and_vectors_together(
    memory: Memory, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.add([numbered(i) for i in range(4)])

    def interrupted(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(CosineBank, "keep", interrupted)
        memory.remove(1)
        len(memory)
    assert memory.ids.tolist() == [2, 3, 4]
    for i in (1, 2, 3):
        hit = memory.search(encoder.embed([numbered(i)]), 1)[0][0]
        assert (hit.id, hit.similarity) == (i + 1, 1)


def test_what_fails_after_a_change_does_not_look_as_if_it_had_not_been_made(
    memory: Memory, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.add(numbered(0))
    assert memory.types == {"PER"}
    append = Bank.append

    def interrupted(self: Bank, *rows: Any) -> None:
        append(self, *rows)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Bank, "append", interrupted)
        assert memory.add(labelled("Rome burned", Rome="LOC")) == [2]
        with pytest.raises(MemoryError):
            len(memory)
    assert len(memory) == 2 and memory.types == {"PER", "LOC"}


def test_a_handler_that_looks_in_the_middle_of_a_change(
    memory: Memory, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds what was there before, and may end the change, but not make one of its own in it."""
    memory.add([numbered(0), numbered(1)])
    memory.remove(2)
    seen: list[object] = []

    def handler(*_: object) -> None:
        seen.append((len(memory), [s for _, s in memory], memory.types))
        with pytest.raises(MemoryFileError, match="in the middle of a change"):
            memory.add(numbered(99))
        raise InterruptedError

    insert = Store.insert

    def interrupted(self: Store, *row: Any) -> int:
        key = insert(self, *row)
        signal.raise_signal(signal.SIGUSR1)
        return key

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(Store, "insert", interrupted)
            memory.add([labelled("Rome burned", Rome="LOC"), numbered(3)])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen[0][:2] == (1, [numbered(0)])  # type: ignore[index]
    assert memory.types == {"PER"}
    assert memory.add([numbered(8), numbered(9)]) == [3, 4]
    for i, key in ((0, 1), (8, 3), (9, 4)):
        hit = memory.search(encoder.embed([numbered(i)]), 1)[0][0]
        assert (hit.id, hit.sentence, hit.similarity) == (key, numbered(i), 1)


def test_a_handler_that_searches_in_the_middle_of_a_removal(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add([numbered(0), numbered(1)])
    queries = encoder.embed([numbered(0)])
    refused = pytest.raises(MemoryFileError, match="in the middle of a change")
    with alarm(30, TimeoutError), refused, memory._mirror.changing() as store:
        store.delete([1])
        memory.search(queries, 1)  # as the handler of a signal would
    assert memory.search(queries, 1)[0][0].sentence == numbered(0)


def test_a_handler_that_copies_in_the_middle_of_a_change(memory: Memory, encoder: FakeEncoder, tmp_path: Path) -> None:
    memory.add([numbered(0), numbered(1)])
    copies: list[Callable[[], object]] = [
        lambda: memory.save(tmp_path / "copy.sqlite"),
        lambda: memory.copy_for(encoder),
        lambda: memory.export(tmp_path / "copy.jsonl"),
    ]
    with alarm(30, TimeoutError), memory._mirror.changing() as store:
        store.delete([1])
        for copy in copies:
            with pytest.raises(MemoryFileError, match="in the middle of a change"):
                copy()
    with alarm(30, TimeoutError), memory._mirror.current(), pytest.raises(MemoryFileError, match="being read by"):
        memory.add(numbered(2))
    for copy in copies:
        copy()
    assert [s for _, s in Memory.load(encoder, tmp_path / "copy.sqlite")] == [numbered(1)]


def test_copies_while_another_connection_lets_nobody_read(
    encoder: FakeEncoder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Memory(encoder, path) as memory:
        memory.add(numbered(0))
    monkeypatch.setattr(memory_file, "BUSY_SECONDS", 0.1)
    copy = path.with_name("copy.sqlite")
    with Memory(encoder, path) as memory, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for use in (lambda: memory.save(copy), lambda: memory.copy_for(encoder)):
            with pytest.raises(MemoryFileError, match="in use elsewhere"):
                use()
        other.execute("ROLLBACK")
        memory.save(copy)
        assert len(memory.copy_for(encoder)) == len(Memory.load(encoder, copy)) == 1


def test_what_others_add_while_a_memory_is_saved_is_not_taken_for_saved(
    encoder: FakeEncoder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file = store_module.copy_file
    with Memory(encoder, path) as memory, Memory(encoder, path) as other:
        memory.add(numbered(0))

        def copied(connection: sqlite3.Connection, file: Path) -> None:
            copy_file(connection, file)
            other.add(numbered(1))

        copy = path.with_name("copy.sqlite")
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "copy_file", copied)
            memory.save(copy)
        assert len(Memory.load(encoder, copy)) == 1
        memory.save(copy)
        assert len(Memory.load(encoder, copy)) == 2


def test_a_copy_for_an_encoder_that_was_trained_meanwhile(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add([numbered(0), numbered(1)])
    encoder.fingerprint = "fake-2"
    copied = memory.copy_for(encoder)
    np.testing.assert_array_equal(copied.vectors, encoder.embed([s for _, s in copied]))
    assert len(copied) == 2


def test_rows_that_were_deleted_by_other_means_are_not_waited_for(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add([numbered(i) for i in range(3)])
        edit(path, "DELETE FROM sentences WHERE id=1")
        with alarm(30, TimeoutError):
            assert [hit.id for hit in memory.search(encoder.embed([numbered(1)]), 3)[0]] == [2, 3]
    with Memory(encoder, path) as memory:
        edit(path, "DELETE FROM sentences WHERE id=2")
        with pytest.raises(KeyError, match="no sentence 2"):
            memory[2]
        assert memory.ids.tolist() == [3]


def test_others_wait_while_their_file_is_saved_over(
    encoder: FakeEncoder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they add is in the new file, or refused: never told to be there, and gone."""
    with Memory(encoder, path) as first:
        first.add(numbered(0))
    with Memory(encoder, path) as other:
        mine = Memory.load(encoder, path)
        mine.add(numbered(1))
        added: list[object] = []

        def add() -> None:
            try:
                added.extend(other.add([numbered(2)]))
            except MemoryFileError as error:
                added.append(error)

        threads = [threading.Thread(target=add)]
        sync = copies.sync

        def slowly(place: Path) -> None:
            if not threads[0].ident:
                threads[0].start()
                time.sleep(0.5)
            sync(place)

        monkeypatch.setattr(copies, "sync", slowly)
        mine.save(path)
        threads[0].join()
        assert isinstance(added[0], MemoryFileError) and "replaced" in str(added[0])
        assert list(other) == list(mine)
        assert other.add(numbered(2)) == [3]
    with Memory(encoder, path) as again:
        assert [s for _, s in again] == [numbered(i) for i in range(3)]


def test_saving_over_a_file_that_stays_locked(
    encoder: FakeEncoder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Memory(encoder, path) as first:
        first.add(numbered(0))
    mine = Memory.load(encoder, path)
    mine.add(numbered(1))
    monkeypatch.setattr(memory_file, "BUSY_SECONDS", 0.1)
    with writing_elsewhere(path), pytest.raises(SaveError, match="in use elsewhere"):
        mine.save(path)
    mine.save(path)
    with Memory(encoder, path) as again:
        assert len(again) == 2


def test_another_file_while_it_waits_to_write(encoder: FakeEncoder, path: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.sqlite"
    with Memory(encoder, new) as other:
        other.add(numbered(5))
    with Memory(encoder, path) as memory:
        memory.add(numbered(0))
        memory.close()
    with Memory(encoder, path) as memory:
        with (
            writing_elsewhere(path, lambda: os.replace(new, path)),
            pytest.raises(MemoryFileError, match=r"replaced by another file.*try again"),
        ):
            memory.add(numbered(1))
        assert memory.add(numbered(1)) == [2]
        assert [s for _, s in memory] == [numbered(5), numbered(1)]


def test_a_file_that_is_deleted_while_it_waits_to_write(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add(numbered(0))
        with writing_elsewhere(path, path.unlink), pytest.raises(MemoryFileError, match="was deleted or moved"):
            memory.add(numbered(1))
        assert [s for _, s in memory] == [numbered(0)]


def test_a_new_file_that_looks_like_the_one_before_a_fork(encoder: FakeEncoder, path: Path, tmp_path: Path) -> None:
    """A new file often gets the number of a deleted one; here it is written over it."""
    new = tmp_path / "new.sqlite"
    with Memory(encoder, new) as other:
        other.add([numbered(10), numbered(11)])
    with Memory(encoder, path) as memory:
        memory.add([numbered(0), numbered(1)])
        assert joined(forked(lambda: None)) == 0
        shutil.copyfile(new, path)
        assert [s for _, s in memory] == [numbered(10), numbered(11)]
        assert memory[1] == numbered(10)
        assert memory.search(encoder.embed([numbered(11)]), 1)[0][0].similarity == 1


def test_a_fork_keeps_what_was_read(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add([numbered(0), numbered(1)])
        before = memory.version()[0]
        assert joined(forked(lambda: None)) == 0
        assert memory.version()[0] == before


def test_a_file_that_is_replaced_while_it_is_opened(
    encoder: FakeEncoder, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new.sqlite"
    for file, i in ((path, 0), (new, 5)):
        with Memory(encoder, file) as memory:
            memory.add(numbered(i))
    opened = memory_file._opened

    def opened_and_replaced(file: Path, mode: str) -> sqlite3.Connection:
        connection = opened(file, mode)
        if new.exists():
            os.replace(new, path)
        return connection

    monkeypatch.setattr(memory_file, "_opened", opened_and_replaced)
    with Memory(encoder, path) as memory:
        assert memory[1] == numbered(5)
        assert memory.add(numbered(6)) == [2]


def test_a_type_that_comes_during_a_rebuild(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory, Memory(encoder, path) as other:
        memory.add(numbered(0))
        new = FakeEncoder("fake-2", types=("PER",))
        new.before_embed = lambda: other.add(labelled("Rome burned", Rome="LOC")) if not new.embedded else None
        with pytest.raises(LabelMismatchError, match="LOC"):
            memory.rebuild(new)
        assert len(memory) == 2 and memory.types == {"PER", "LOC"}
        assert memory.remove(2) == 1


def test_copies_leave_nothing_behind_and_remember_where_a_memory_was_saved(
    encoder: FakeEncoder, path: Path, memory: Memory
) -> None:
    memory.add(numbered(0))
    saved = path.with_name("saved.sqlite")
    memory.save(saved)
    copies = [memory.copy_for(encoder) for _ in range(3)]
    own = {saved} if memory.path is None else {saved, path}
    for held, places in ((memory, {saved}), *((copied, own) for copied in copies)):
        with held._mirror.locked() as store:
            assert store.places._states.keys() == places
    memory.close()  # in which a file is open
    copies[0].save(saved)
    for place in own:
        with Memory(encoder, place) as other:
            other.add(numbered(7))
        with pytest.raises(SaveError, match="changed by others"):
            copies[0].save(place)


def test_copies_and_forks_at_once(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add([numbered(i) for i in range(20)])
    done = threading.Event()

    def copy() -> None:
        while not done.is_set():
            assert len(memory.copy_for(encoder)) == 20

    threads = [threading.Thread(target=copy) for _ in range(2)]
    for thread in threads:
        thread.start()
    with alarm(60, TimeoutError):
        for _ in range(10):
            assert joined(forked(lambda: None)) == 0
        done.set()
        for thread in threads:
            thread.join()


def test_threads_that_fork_at_once(encoder: FakeEncoder, tmp_path: Path) -> None:
    memories = [Memory(encoder, tmp_path / f"{i}.sqlite") for i in range(3)]
    for memory in memories:
        memory.add(numbered(0))
    statuses: list[int] = []

    def fork() -> None:
        for _ in range(5):
            statuses.append(joined(forked(lambda: None)))

    threads = [threading.Thread(target=fork, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert statuses == [0] * 15
    for memory in memories:
        assert len(memory) == 1
        memory.close()


def test_objects_that_are_made_while_a_fork_goes_through_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object made in the middle of a fork would have a lock that nobody took."""
    order: list[str] = []
    made = threading.Thread(target=lambda: (ForkSafe(), order.append("made")))

    class Slow(ForkSafe):
        def suspend(self) -> None:
            if not made.ident:
                made.start()
                made.join(0.3)
                order.append("suspended")

    slow = Slow()
    assert joined(forked(lambda: None)) == 0
    made.join(30)
    assert order == ["suspended", "made"] and slow is not None


@pytest.mark.parametrize("length", [248, 255, 300])
def test_names_that_are_too_long(encoder: FakeEncoder, memory: Memory, tmp_path: Path, length: int) -> None:
    file = tmp_path / ("x" * length)
    for use in (lambda: Memory(encoder, file), lambda: Memory.load(encoder, file), lambda: memory.save(file)):
        with pytest.raises(MemoryFileError, match="cannot be used"):
            use()
    assert not list(tmp_path.glob("x*"))


def test_names_that_are_just_short_enough(encoder: FakeEncoder, memory: Memory, tmp_path: Path) -> None:
    memory.add(numbered(0))
    file = tmp_path / ("x" * 247)
    memory.save(file)
    with Memory(encoder, file) as again:
        assert again.add(numbered(1)) == [2]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("x")] == [file.name]


def test_numbers_of_numpy(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add([numbered(i) for i in range(4)])
    queries = encoder.embed([numbered(1)])
    assert memory.search(queries, np.int64(2)) == memory.search(queries, 2)  # type: ignore[arg-type]


def test_opening_one_memory_holds_up_no_other(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add(numbered(0))
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with forks.unforked():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    with alarm(30, TimeoutError):
        assert len(Memory.load(encoder, path)) == 1
        dropped = Memory(encoder, path)
        dropped.add(numbered(1))
        del dropped
        gc.collect()
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # closed at once
    leave.set()
    thread.join()


def test_a_memory_that_is_dropped_during_a_fork_is_closed_after_it() -> None:
    order: list[str] = []

    class Slow(ForkSafe):
        def suspend(self) -> None:
            thread = threading.Thread(target=lambda: forks.when_unforked(lambda: order.append("closed")))
            thread.start()
            thread.join()
            order.append("suspended")

    slow = Slow()
    assert joined(forked(lambda: order.append("never in the child"))) == 0
    assert order == ["suspended", "closed"] and slow is not None


def test_an_interrupt_while_a_fork_waits_is_raised_after_it() -> None:
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with forks.unforked():
            inside.set()
            time.sleep(1)
            leave.set()

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt), alarm(0.3, KeyboardInterrupt):
        pids.append(forked(lambda: None))
        assert leave.is_set()
        time.sleep(30)
    assert joined(pids[0]) == 0
    thread.join()
    with forks.unforked():  # nothing is held any more
        assert joined(forked(lambda: None)) == 0


def test_an_interrupt_during_the_fork_itself_is_raised_after_it() -> None:
    """Python runs the handler in the first of the hooks afterwards, and goes on to the next."""

    def work() -> None:
        spec = forks.__spec__
        assert spec is not None and spec.loader is not None
        os.register_at_fork(after_in_parent=partial(ctypes.CDLL(None)["raise"], signal.SIGINT))
        fresh = importlib.util.module_from_spec(spec)  # its hooks come after that one
        spec.loader.exec_module(fresh)
        item, taken = fresh.ForkSafe(), []

        def use() -> None:
            with fresh.unforked():
                taken.append(item._lock.acquire(timeout=10))

        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            pid = os.fork()
            if not pid:
                os._exit(0)
            time.sleep(30)
        assert joined(pid) == 0
        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join(10)
        assert taken == [True]

    assert joined(forked(work)) == 0


def test_a_fork_does_not_wait_for_what_never_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    class Broken(ForkSafe):
        def suspend(self) -> None:
            raise ValueError("never")

    broken = Broken()
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(type(found.exc_value)))
    with alarm(30, TimeoutError):
        assert joined(forked(lambda: None)) == 0
    assert told == [ValueError]
    with broken._lock, forks.unforked():
        del broken
    gc.collect()


def test_an_interrupt_on_the_way_in_holds_up_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts = iter([KeyboardInterrupt])

    class Interrupted(dict[object, int]):
        def __setitem__(self, key: object, value: int) -> None:
            super().__setitem__(key, value)
            for interrupt in interrupts:
                raise interrupt

    monkeypatch.setattr(forks._gate, "inside", Interrupted())
    with pytest.raises(KeyboardInterrupt), forks.unforked():
        pass
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(joined(forked(lambda: None))), daemon=True)
    thread.start()
    thread.join(30)
    assert statuses == [0]


def test_an_interrupt_while_a_fork_closes_a_file(
    encoder: FakeEncoder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_back, times = handle.write_back, iter([signal.SIGINT])

    def interrupted(connection: sqlite3.Connection, *, lost: bool) -> None:
        write_back(connection, lost=lost)
        for number in times:
            signal.raise_signal(number)

    with Memory(encoder, path) as memory:
        memory.add(numbered(0))
        monkeypatch.setattr(handle, "write_back", interrupted)
        pids: list[int] = []
        with pytest.raises(KeyboardInterrupt), alarm(30, TimeoutError):
            pids.append(forked(lambda: None))
            time.sleep(30)
        assert joined(pids[0]) == 0
        assert memory.add(numbered(1)) == [2]
