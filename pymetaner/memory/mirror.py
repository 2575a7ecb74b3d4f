"""A memory's vectors in RAM, kept in step with its file, whoever changes that."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from pymetaner.errors import MemoryFileError
from pymetaner.forks import ForkSafe, when_unforked
from pymetaner.memory.bank import Bank
from pymetaner.memory.encoder import SentenceEncoder, check_encoder, check_types
from pymetaner.memory.store import Facts, Store
from pymetaner.sentence import Sentence

__all__ = ["Mirror"]

CACHED_SENTENCES = 1024
"""Decoded sentences kept in RAM, a few MB."""


class Mirror(ForkSafe):
    """The bank of a store's vectors, brought up to date before every use.

    Rows are only ever read back from the store, so whatever interrupts a change, file and bank cannot come apart.

    Args:
        encoder: whose vectors and entity types the store must have; replaced by a rebuild.
        store: the store, which is the mirror's from now on.

    Attributes:
        bank: the vectors; to be read within `current()` or `changing()`.
        facts: what the store said of itself when it was last read; likewise.
        readings: how often all sentences were read anew: only between two readings does an id stand for one sentence.
    """

    def __init__(self, encoder: SentenceEncoder, store: Store) -> None:
        self.encoder = encoder
        self._store: Store | None = store
        self._closing = weakref.finalize(self, when_unforked, store.close)  # at exit at the latest
        self.readings = 0
        self._forget()
        super().__init__()

    def _forget(self) -> None:
        self.bank = Bank(0)
        self.facts = Facts("", 0, rebuilds=-1)
        self._types: frozenset[str] | None = None
        self._seen: int | None = None
        self._cache: dict[int, Sentence] = {}

    @contextmanager
    def locked(self) -> Iterator[Store]:
        """The store, for this thread alone, and not looked at yet."""
        with self._lock:
            if self._store is None:
                raise MemoryFileError("this memory is closed: open it again with Memory(encoder, path)")
            if self._store.identity.replaced:
                self._store.suspend()
            if self._store.suspended:
                if not self._store.resume():
                    self._forget()
                self._seen = None
            yield self._store

    @contextmanager
    def current(self) -> Iterator[Store]:
        """The store for reading, with the bank in the same state.

        Raises:
            MemoryFileError: if the memory is closed, or its file is damaged or locked.
            EncoderMismatchError: if another process rebuilt it with another encoder.
            LabelMismatchError: if another process added entity types that the encoder does not know.
        """
        with self.locked() as store, store.reading():
            if not store.changing:  # else the rows may be taken back
                self._sync(store)
            yield store

    @contextmanager
    def changing(self) -> Iterator[Store]:
        """The store for changing, all or nothing. Raises as `current()` does.

        The bank gets the changes when it is used next: what fails then must not look as if they had not been made.
        """
        with self.locked() as store, store.writing():
            self._sync(store)
            self._seen = None
            yield store

    def restart(self, encoder: SentenceEncoder) -> None:
        """Goes on with the encoder of a store that was rebuilt."""
        self.encoder = encoder
        self._seen = None

    def types(self, store: Store) -> frozenset[str]:
        """The entity types of all sentences."""
        if self._types is None:
            types = store.types()
            if store.changing:
                return types
            self._types = types
        return self._types

    def fetch(self, store: Store, ids: Iterable[int]) -> dict[int, Sentence]:
        """The sentences with these ids, as far as there are any."""
        found: dict[int, Sentence | None] = {key: self._cache.pop(key, None) for key in ids}
        read = store.fetch(key for key, sentence in found.items() if sentence is None)
        if any(sentence is None and key not in read and key in self.bank for key, sentence in found.items()):
            store.check_unchanging()
            self.bank = self.bank.kept(store.ids())  # deleted by other means than a memory's, which count removals
        sentences = {key: sentence or read[key] for key, sentence in found.items() if sentence or key in read}
        self._cache.update(sentences)  # behind the others: the front is what was asked for longest ago
        for key in list(islice(self._cache, max(0, len(self._cache) - CACHED_SENTENCES))):
            del self._cache[key]
        return sentences

    def suspend(self) -> None:
        """Closes the store until it is used again."""
        if self._store is not None:
            self._store.suspend()

    def close(self) -> None:
        """Closes the store; a second time does nothing."""
        with self._lock:
            store, self._store = self._store, None
            if store is not None and self._closing.detach():
                store.close()

    def _sync(self, store: Store) -> None:
        version = store.version()
        if version == self._seen:
            return
        facts = store.facts()
        if facts.rebuilds != self.facts.rebuilds:
            check_encoder(self.encoder, facts.fingerprint, facts.dim, store.place)
            self.bank, self.facts, self._types = Bank(facts.dim), facts, frozenset()
            self.readings += 1
        elif facts.removals != self.facts.removals:
            self._types = None
            self.bank = self.bank.kept(store.ids())
        for rows in store.rows(self.bank.last, facts.dim):
            check_types(self.encoder, rows.types, store.place)
            if self._types is not None:
                self._types |= rows.types  # first: an interrupt may come between, and these rows are not read again
            self.bank.append(rows.ids, rows.vectors)
        self.facts, self._seen = facts, version
