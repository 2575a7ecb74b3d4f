"""Any sequence of changes, against a plain dictionary and a sorted list of similarities."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memory_fakes import FakeEncoder

from pymetaner.memory import Memory
from pymetaner.sentence import Sentence

words = st.lists(st.sampled_from(["Ada", "Oslo", "北京", "slept"]), min_size=1, max_size=3).map(tuple)
sentences = words.flatmap(
    lambda ws: st.lists(st.sampled_from(["O", "B-PER", "B-LOC"]), min_size=len(ws), max_size=len(ws)).map(
        lambda tags: Sentence(ws, tuple(tags))
    )
)


class MemoryMachine(RuleBasedStateMachine):
    """Two handles of one file, used in turn, and the oracle."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "memory.sqlite"
        self.encoder = FakeEncoder()
        self.handles = [Memory(self.encoder, self.path) for _ in range(2)]
        self.expected: dict[int, Sentence] = {}
        self.next_id = 1

    def teardown(self) -> None:
        for memory in getattr(self, "handles", []):
            memory.close()
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)

    handle = st.integers(0, 1)

    @rule(handle=handle, batch=st.lists(sentences, min_size=1, max_size=6))
    def add(self, handle: int, batch: list[Sentence]) -> None:
        ids = []
        for sentence in batch:
            known = [key for key, other in self.expected.items() if other == sentence]
            if not known:
                self.expected[self.next_id] = sentence
                known = [self.next_id]
                self.next_id += 1
            ids += known
        assert self.handles[handle].add(batch) == ids

    @rule(handle=handle, ids=st.sets(st.integers(0, 25), max_size=5))
    def remove(self, handle: int, ids: set[int]) -> None:
        assert self.handles[handle].remove(ids) == len(ids & self.expected.keys())
        for key in ids:
            self.expected.pop(key, None)

    @rule(handle=handle)
    def clear(self, handle: int) -> None:
        assert self.handles[handle].clear() == len(self.expected)
        self.expected.clear()

    @rule(handle=handle)
    def reopen(self, handle: int) -> None:
        self.handles[handle].close()
        self.handles[handle] = Memory(self.encoder, self.path)

    @rule(handle=handle)
    def rebuild(self, handle: int) -> None:
        self.handles[handle].rebuild()

    @rule(handle=handle)
    def go_on_with_a_copy(self, handle: int) -> None:
        copy = self.folder / "copy.sqlite"
        self.handles[handle].save(copy)
        for memory in self.handles:
            memory.close()
        copy.replace(self.path)
        self.handles = [Memory(self.encoder, self.path) for _ in range(2)]

    @rule(
        handle=handle,
        queries=st.lists(st.tuples(words, st.booleans()), min_size=1, max_size=3),
        k=st.integers(1, 30),
    )
    def search(self, handle: int, queries: list[tuple[tuple[str, ...], bool]], k: int) -> None:
        asked = [Sentence(ws) for ws, _ in queries]
        vectors = self.encoder.embed(asked)
        exclude = [sentence if itself else None for sentence, (_, itself) in zip(asked, queries, strict=True)]
        found = self.handles[handle].search(vectors, k, exclude_self=exclude)
        for vector, itself, hits in zip(vectors, exclude, found, strict=True):
            scored = [
                (float(self.encoder.embed([sentence])[0] @ vector), key)
                for key, sentence in self.expected.items()
                if itself is None or sentence.words != itself.words
            ]
            scored.sort(key=lambda pair: (-pair[0], pair[1]))
            assert [(hit.similarity, hit.id) for hit in hits] == scored[:k]
            assert all(hit.sentence == self.expected[hit.id] for hit in hits)

    @invariant()
    def both_handles_agree_with_the_oracle(self) -> None:
        for memory in getattr(self, "handles", []):
            assert dict(memory) == self.expected
            assert memory.ids.tolist() == sorted(self.expected)
            assert len(memory) == len(self.expected)
            np.testing.assert_array_equal(memory.vectors, self.encoder.embed(list(dict(memory).values())))
            assert memory.types == {entity.label for s in self.expected.values() for entity in s.entities}


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
