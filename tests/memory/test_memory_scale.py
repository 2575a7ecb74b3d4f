"""Many sentences: neither work nor RAM may grow with what was done before."""

from __future__ import annotations

import sqlite3
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_fakes import FakeEncoder, numbered

from pymetaner.memory import Memory


def test_an_add_does_as_much_after_ten_thousand(encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    done = Counter[str]()
    connect = sqlite3.connect

    def counting(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_progress_handler(lambda: done.update(["database steps"]), 10)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counting)
    with Memory(encoder) as memory:

        def work(first: int) -> dict[str, float]:
            """What one of twenty adds does: tens of steps of SQLite's machine, calls of Python, bytes at once."""
            found: dict[str, list[int]] = {"database steps": [], "calls": [], "bytes": []}
            for sentence in map(numbered, range(first, first + 20)):
                done.clear()
                tracemalloc.start()
                sys.setprofile(lambda frame, event, _: done.update([event]))
                try:
                    memory.add(sentence)
                finally:
                    sys.setprofile(None)
                    peak = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
                found["database steps"].append(done["database steps"])
                found["calls"].append(done["call"] + done["c_call"])
                found["bytes"].append(peak)
            return {what: float(np.median(numbers)) for what, numbers in found.items()}

        first = work(0)
        memory.add([numbered(i) for i in range(20, 9980)])
        last = work(9980)
        assert first["database steps"] > 5 and first["calls"] > 10
        for what, before in first.items():
            assert last[what] < 1.5 * before, f"{what}: {before:,.0f} at first, {last[what]:,.0f} at last"
        assert memory.ids.tolist() == list(range(1, 10_001))
        np.testing.assert_array_equal(memory.vectors, encoder.embed([s for _, s in memory]))


def test_coming_and_going_leaves_ram_and_file_flat(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add([numbered(i) for i in range(100)])
        queries = memory.vectors[:8]

        def use(first: int) -> int:
            for i in range(first, first + 10):
                memory.remove(memory.add([numbered(100_000 + 50 * i + j) for j in range(50)]))
                memory.search(queries, 5)
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            use(0)  # fills the sentences' cache, which is bounded, and what Python and PyTorch keep
            before = use(10)
            grown = use(20) - before
        finally:
            tracemalloc.stop()
        assert grown < 150_000, f"{grown} bytes more after 500 sentences came and went"
    size = path.stat().st_size
    assert size < 150_000, f"a file of {size} bytes for 100 sentences: those removed leave room for others"


def test_many_sentences_load_without_being_read_or_embedded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FakeEncoder(dim=384)
    with Memory(encoder, path) as memory:
        memory.add([numbered(i) for i in range(5000)])
    read: list[object] = []
    monkeypatch.setattr("pymetaner.memory.store.unpack", lambda *row: read.append(row))
    with Memory(encoder, path) as memory:
        assert len(memory) == 5000
    assert encoder.embedded == 5000 and not read
