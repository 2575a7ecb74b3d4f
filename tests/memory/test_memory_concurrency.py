"""Threads, other handles of the same file, other processes, forks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from memory_fakes import FakeEncoder, edit, forked, joined, labelled, numbered

from pymetaner.errors import EncoderMismatchError, LabelMismatchError, MemoryFileError
from pymetaner.memory import Memory
from pymetaner.memory import file as memory_file

ADA = labelled("Ada slept", Ada="PER")


def test_searches_while_others_add_and_remove(memory: Memory, encoder: FakeEncoder) -> None:
    """Every hit's similarity is that of its sentence, and what stays throughout is always found."""
    staying = memory.add([numbered(i) for i in range(50)])
    queries = encoder.embed([numbered(i) for i in range(50)])
    done = threading.Event()

    def change(worker: int) -> list[int]:
        kept = []
        for i in range(40):
            ids = memory.add([numbered(1000 * worker + 10 * i + j) for j in range(3)])
            assert memory.remove(ids[:2]) == 2
            kept += ids[2:]
        return kept

    def look() -> int:
        rounds = 0
        while not done.is_set() or not rounds:
            for i, hits in enumerate(memory.search(queries, 8)):
                assert hits[0].id == staying[i] and hits[0].similarity == 1
                for hit in hits:
                    assert hit.similarity == queries[i] @ encoder.embed([hit.sentence])[0]
                order = [(-hit.similarity, hit.id) for hit in hits]
                assert order == sorted(order)
            rounds += 1
        return rounds

    with ThreadPoolExecutor(6) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        changing = [pool.submit(change, worker) for worker in (1, 2, 3)]
        kept = [key for future in changing for key in future.result()]
        done.set()
        assert all(future.result() for future in looking)
    assert memory.ids.tolist() == sorted(staying + kept)
    np.testing.assert_array_equal(memory.vectors, encoder.embed([s for _, s in memory]))


def test_threads_that_add_the_same_sentence_get_one_id(memory: Memory) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda i: memory.add(numbered(i % 5))[0], range(80)))
    assert ids == set(memory.ids.tolist()) and len(ids) == 5


def test_another_handle_sees_changes_at_once(encoder: FakeEncoder, path: Path) -> None:
    with (
        Memory(encoder, path) as first,
        Memory(encoder, path) as second,
        Memory(encoder, path, read_only=True) as third,
    ):
        for memory in (first, second):
            memory.add([numbered(i) for i in range(len(memory), len(memory) + 5)])
            for other in (first, second, third):
                assert list(other) == list(memory)
                assert other.types == {"PER"}
                assert other.search(encoder.embed([numbered(4)]), 1)[0][0].id == 5
        first.remove([2, 10])
        assert second.ids.tolist() == third.ids.tolist() == [1, 3, 4, 5, 6, 7, 8, 9]
        assert 2 not in third and second.add(numbered(1)) == [11]
        second.clear()
        assert len(first) == len(third) == 0 and first.types == third.types == frozenset()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_last_writer_makes_it_one_file_again(encoder: FakeEncoder, path: Path) -> None:
    first, second = Memory(encoder, path), Memory(encoder, path)
    first.add(ADA)
    second.add(numbered(1))
    first.close()
    assert second.add(numbered(2)) == [3]
    second.close()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_rebuild_by_another_handle(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as old, Memory(FakeEncoder(), path) as same:
        old.add([ADA, numbered(1)])
        same.rebuild()
        assert old.search(encoder.embed([ADA]), 1)[0][0].sentence == ADA, "by an encoder of the same fingerprint"
        same.rebuild(FakeEncoder("fake-2", dim=32))
        for use in (lambda: len(old), lambda: old.search(encoder.embed([ADA]), 1), lambda: old.add(ADA)):
            with pytest.raises(EncoderMismatchError, match="encoder fake-2"):
                use()
        old.rebuild()
        assert len(old) == 2


def test_a_type_added_by_another_handle(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as narrow, Memory(FakeEncoder(types=["PER", "MISC"]), path) as wide:
        narrow.add(ADA)
        wide.add(labelled("a b", a="MISC"))
        for _ in range(2):
            with pytest.raises(LabelMismatchError, match="MISC"):
                len(narrow)
        wide.remove(2)
        assert len(narrow) == 1


def test_a_rebuild_while_a_sentence_is_embedded(encoder: FakeEncoder, path: Path) -> None:
    """No vector of the old encoder may come in under the name of the new one."""
    with Memory(encoder, path) as memory:
        memory.add(ADA)
        other = FakeEncoder("fake-2")
        encoder.before_embed = lambda: memory.rebuild(other)
        memory.add(numbered(1))
        np.testing.assert_array_equal(memory.vectors, other.embed([ADA, numbered(1)]))


def test_a_change_that_is_interrupted_leaves_bank_and_file_alike(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add(ADA)
    with pytest.raises(KeyboardInterrupt), memory._mirror.changing() as store:
        store.delete([1])
        raise KeyboardInterrupt
    assert list(memory) == [(1, ADA)]
    assert memory.search(encoder.embed([ADA]), 1)[0][0].sentence == ADA


def test_a_file_that_stays_locked(encoder: FakeEncoder, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_file, "BUSY_SECONDS", 0.1)
    with Memory(encoder, path) as first, Memory(encoder, path) as second:
        first.add(ADA)
        with first._mirror.locked() as store, store.writing():
            assert len(second) == 1, "reading goes on"
            with pytest.raises(MemoryFileError, match="in use elsewhere"):
                second.add(numbered(1))
        assert second.add(numbered(1)) == [2]


def processes(*works: Callable[[], None]) -> None:
    pids = [forked(work) for work in works]
    assert [joined(pid) for pid in pids] == [0] * len(works)


def test_processes_that_add_at_once(encoder: FakeEncoder, path: Path) -> None:
    def adder(worker: int) -> Callable[[], None]:
        def work() -> None:
            with Memory(encoder, path) as memory:
                for i in range(30):
                    (own,) = memory.add(numbered(100 * worker + i))
                    memory.add(numbered(i))  # everyone adds these
                    assert memory[own] == numbered(100 * worker + i)
                    hits = memory.search(encoder.embed([memory[own]]), 1)
                    assert hits[0][0].similarity == 1

        return work

    processes(*map(adder, (1, 2, 3)))
    with Memory(encoder, path) as memory:
        assert {s.words[3] for _, s in memory} == {str(i) for n in range(4) for i in range(100 * n, 100 * n + 30)}
        assert len(memory) == 120
        np.testing.assert_array_equal(memory.vectors, encoder.embed([s for _, s in memory]))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_processes_that_open_and_close_at_once(encoder: FakeEncoder, path: Path) -> None:
    """Each time the file goes into and out of its write-ahead log; it is also made by whoever is first."""

    def writer(worker: int) -> Callable[[], None]:
        def work() -> None:
            for i in range(15):
                with Memory(encoder, path) as memory:
                    memory.add(numbered(100 * worker + i))

        return work

    def reader() -> None:
        for _ in range(15):
            if path.exists():
                with Memory(encoder, path, read_only=True) as memory:
                    assert len(list(memory)) <= len(memory)

    processes(writer(1), writer(2), writer(3), reader)
    with Memory(encoder, path) as memory:
        assert len(memory) == 45
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_forked_child_goes_on(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add([ADA, numbered(1)])

    def work() -> None:
        assert memory.search(encoder.embed([ADA]), 1)[0][0].sentence == ADA
        assert memory.add(numbered(2)) == [3]
        memory.remove(1)
        memory.close()

    assert joined(forked(work)) == 0
    if memory.path is None:
        assert memory.ids.tolist() == [1, 2], "the child had a copy of its own"
    else:
        assert memory.ids.tolist() == [2, 3]
    assert memory.add(numbered(9))[0] in (3, 4)


def test_a_fork_in_the_middle_of_a_change_by_another_thread(memory: Memory, encoder: FakeEncoder) -> None:
    stop = threading.Event()

    def change() -> None:
        for i in range(10_000):
            memory.add([numbered(i), numbered(-i - 1)])
            if stop.is_set():
                return

    thread = threading.Thread(target=change)
    thread.start()
    try:

        def work() -> None:
            assert (len(memory) - (ADA in memory)) % 2 == 0, "pairs are added whole"
            ids, vectors = memory.snapshot()
            np.testing.assert_array_equal(vectors, encoder.embed([memory[key] for key in ids.tolist()]))
            memory.add(ADA)

        for _ in range(5):
            assert joined(forked(work)) == 0
    finally:
        stop.set()
        thread.join()
    assert (len(memory) - (ADA in memory)) % 2 == 0


def test_threads_of_a_forked_child(memory: Memory) -> None:
    memory.add(ADA)

    def work() -> None:
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda i: memory.add(numbered(i))[0], range(4), timeout=30))

    assert joined(forked(work)) == 0


def test_a_child_that_outlives_its_parents_memory(encoder: FakeEncoder, path: Path) -> None:
    """The parent's write-ahead log is gone when the child writes; it must not write into that one."""
    memory = Memory(encoder, path)
    memory.add(ADA)
    reader, writer = os.pipe()

    def work() -> None:
        os.read(reader, 1)
        assert memory.add(numbered(1)) == [2]
        memory.close()

    pid = forked(work)
    memory.close()
    os.write(writer, b"!")
    assert joined(pid) == 0
    os.close(reader)
    os.close(writer)
    with Memory(encoder, path) as memory:
        assert list(memory) == [(1, ADA), (2, numbered(1))]


def test_a_child_that_does_nothing_and_forks_in_a_row(memory: Memory) -> None:
    memory.add(ADA)
    for _ in range(3):
        assert joined(forked(lambda: joined(forked(memory.close)) and None)) == 0
    assert memory.add(numbered(1)) == [2]
    assert list(memory) == [(1, ADA), (2, numbered(1))]
    memory.close()
    assert joined(forked(lambda: None)) == 0


def test_another_file_in_the_place_of_the_old_one_after_a_fork(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory, Memory(encoder) as other:
        memory.add([ADA, numbered(1)])
        other.add([numbered(2), numbered(3)])
        assert joined(forked(lambda: None)) == 0
        other.save(path)
        assert list(memory) == list(other)
        np.testing.assert_array_equal(memory.vectors, other.vectors)
        assert memory[1] == numbered(2)


def test_another_file_in_the_place_of_the_old_one(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add([ADA, numbered(1)])
    with (
        Memory(encoder, path) as idle,
        Memory(encoder, path, read_only=True) as reader,
        Memory(encoder) as other,
    ):
        assert idle[1] == reader[1] == ADA
        other.add([numbered(2), numbered(3), numbered(4)])
        other.save(path)
        for memory in (idle, reader):
            assert list(memory) == list(other)
            np.testing.assert_array_equal(memory.vectors, other.vectors)
            assert memory.search(encoder.embed([numbered(2)]), 1)[0][0].sentence == numbered(2)
        assert idle.add(ADA) == [4]
        assert reader[4] == ADA


def test_another_file_while_it_is_rebuilt(encoder: FakeEncoder, path: Path, tmp_path: Path) -> None:
    """No vector of an old sentence may come to a new one of the same id."""
    with Memory(encoder, path) as memory:
        memory.add([ADA, numbered(1)])
    with Memory(encoder, path) as memory, Memory(FakeEncoder("fake-2")) as other:
        other.add([numbered(2), numbered(3)])
        new = FakeEncoder("fake-2")
        new.before_embed = lambda: other.save(path) if not new.embedded else None
        memory.rebuild(new)
        assert list(memory) == list(other)
        np.testing.assert_array_equal(memory.vectors, other.vectors)


def test_another_file_in_the_middle_of_a_search(encoder: FakeEncoder, path: Path, monkeypatch) -> None:
    with Memory(encoder, path) as memory:
        memory.add([ADA, numbered(1)])
    with Memory(encoder, path) as memory, Memory(encoder) as other:
        other.add([numbered(2), ADA])
        ends = iter([lambda: other.save(path)])

        kind = type(memory._mirror.bank.rows)
        search = kind.search

        def replaced_first(bank, queries, k):
            found = search(bank, queries, k)
            next(ends, lambda: None)()
            return found

        monkeypatch.setattr(kind, "search", replaced_first)
        hit = memory.search(encoder.embed([ADA]), 1)[0][0]
        assert (hit.id, hit.sentence, hit.similarity) == (2, ADA, 1)


def test_an_old_handle_of_a_deleted_file_leaves_the_next_one_alone(encoder: FakeEncoder, path: Path) -> None:
    """It must not delete, by name, the log of the file that came after its own."""
    old = [Memory(encoder, path) for _ in range(2)]
    old[0].add(ADA)
    for file in list(path.parent.iterdir()):
        file.unlink()
    new = Memory(encoder, path)
    new.add([numbered(1), numbered(2)])
    assert len(old[0]) == 2, "it reads the new file from now on"
    old[1].close()
    old[0].close()
    with Memory(FakeEncoder(), path) as other:
        assert other.ids.tolist() == [1, 2] and other.add(numbered(3)) == [3]
    assert new.add(numbered(4)) == [4]
    new.close()
    with Memory(encoder, path) as again:
        assert [s for _, s in again] == [numbered(i) for i in (1, 2, 3, 4)]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_renamed_over_one_that_two_have_open(encoder: FakeEncoder, path: Path) -> None:
    """The log of the old file must not become that of the new one."""
    new = path.with_name("new.sqlite")
    with Memory(encoder, new) as other:
        other.add([numbered(10), numbered(11)])
    with Memory(encoder, path) as first, Memory(encoder, path) as second:
        first.add([ADA, numbered(1), numbered(2)])
        assert len(second) == 3
        os.replace(new, path)
        for memory, i in ((first, 12), (second, 13), (first, 14)):
            assert memory.add(numbered(i)) == [i - 9]
            assert [s for _, s in memory] == [numbered(j) for j in range(10, i + 1)]
    with Memory(encoder, path) as again:
        assert [s for _, s in again] == [numbered(i) for i in range(10, 15)]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_moved_while_it_is_open_has_all_when_it_is_closed(encoder: FakeEncoder, path: Path) -> None:
    memory = Memory(encoder, path)
    memory.add([ADA, numbered(1)])
    moved = path.rename(path.with_name("moved.sqlite"))
    memory.close()
    assert [p.name for p in path.parent.iterdir()] == [moved.name]
    with Memory(encoder, moved) as again:
        assert len(again) == 2


def test_another_file_in_the_middle_of_an_iteration(encoder: FakeEncoder, path: Path) -> None:
    """A rebuild is none; but sentences of two files are never mixed."""
    with Memory(encoder, path) as memory:
        memory.add([numbered(i) for i in range(300)])
        pairs = iter(memory)
        found = [next(pairs)]
        memory.rebuild()
        assert [s for _, s in (*found, *pairs)] == [numbered(i) for i in range(300)]
    with Memory(encoder, path) as memory, Memory(encoder) as other:
        other.add([numbered(i) for i in range(1000, 1300)])
        pairs = iter(memory)
        next(pairs)
        other.save(path)
        with pytest.raises(MemoryFileError, match="replaced by another file meanwhile: try again"):
            list(pairs)
        assert list(memory) == list(other)


def test_edits_by_other_programs_are_seen(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add([ADA, numbered(1)])
        edit(path, "UPDATE sentences SET origin = 'edited'")
        assert memory.sources() == {"edited": [1, 2]}
