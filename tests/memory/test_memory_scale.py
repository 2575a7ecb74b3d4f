"""Many sentences: neither time nor RAM may grow with what was done before."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from memory_fakes import FakeEncoder, numbered

from pymetaner.memory import Memory


def test_an_add_costs_the_same_after_ten_thousand(encoder: FakeEncoder) -> None:
    with Memory(encoder) as memory:

        def seconds(first: int) -> float:
            taken = []
            for sentence in map(numbered, range(first, first + 1000)):
                start = time.thread_time()
                memory.add(sentence)
                taken.append(time.thread_time() - start)
            return float(np.median(taken))

        first = seconds(0)
        memory.add([numbered(i) for i in range(1000, 9000)])
        last = seconds(9000)
        assert last < 2 * first, f"an add took {first * 1e6:.0f} us at first, {last * 1e6:.0f} us at last"
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
