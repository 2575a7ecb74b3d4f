"""The rows of a memory: what is asked of its SQLite database, each within one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pymetaner.errors import MemoryFileError
from pymetaner.memory.copies import copy_file, copy_in_ram, held, load_file
from pymetaner.memory.file import create_file, create_in_ram
from pymetaner.memory.handle import Handle
from pymetaner.memory.places import Places
from pymetaner.memory.records import CHECKSUM_BYTES, Key, Record, unpack
from pymetaner.memory.rows import Rows, all_types, as_rows, sealed
from pymetaner.sentence import Sentence, spaceless

__all__ = ["CALIBRATION", "Facts", "Store"]

CALIBRATION = "calibration"
"""The note of the settings that suit a memory: they hold for its sentences and the model of its vectors only."""

CHUNK = 2048
"""Rows read at once."""


class Facts(NamedTuple):
    """What the file says of itself.

    Attributes:
        fingerprint: of the encoder that made the vectors.
        dim: the length of a vector.
        rebuilds: how often all vectors were made anew.
        removals: how often sentences were removed.
    """

    fingerprint: str
    dim: int
    rebuilds: int = 0
    removals: int = 0


class Store(Handle):
    """A memory's database. Not for two threads at once.

    Where nothing else is said, a method is to be called inside `reading()` or `writing()`, which see one state of the
    file throughout and turn SQLite's errors into those of pymetaner.

    Args: those of `Handle`.

    Attributes:
        places: the files that it was read from or saved to.
    """

    def __init__(self, connection: sqlite3.Connection | None, path: Path | None, *, read_only: bool = False) -> None:
        super().__init__(connection, path, read_only=read_only)
        self.places = Places()

    @classmethod
    def new(cls, fingerprint: str, dim: int) -> Store:
        """An empty one in RAM for the vectors of an encoder."""
        return cls(create_in_ram(Facts(fingerprint, dim)._asdict()), None)

    @classmethod
    def at(cls, path: Path, fingerprint: str, dim: int) -> Store:
        """The one in a file, for reading and writing; made if it is missing.

        Raises:
            MemoryFileError: if the file is damaged, or not a memory, or its folder is missing.
            MemoryReadOnlyError: if it cannot be opened for writing.
            SaveError: if it cannot be made.
        """
        create_file(path, Facts(fingerprint, dim)._asdict())
        store = cls(None, path)
        store.resume()
        return store

    @classmethod
    def read_only_at(cls, path: Path) -> Store:
        """The one in a file, for reading only."""
        store = cls(None, path, read_only=True)
        store.resume()
        return store

    @classmethod
    def copy_of(cls, path: Path) -> Store:
        """A copy in RAM of the one in a file."""
        store = cls(load_file(path), None)
        store.place = f"the memory in RAM from {path}"
        with store.reading():
            store.places.remember(path, store._database)
        return store

    def note(self, key: str) -> str | None:
        """What was noted down under a key beside the facts."""
        row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def write_note(self, key: str, value: str | None) -> None:
        """Notes something down; None takes it out again."""
        self._database.execute("DELETE FROM meta WHERE key = ?", (key,))
        if value is not None:
            self._database.execute("INSERT INTO meta VALUES (?, ?)", (key, value))

    def facts(self) -> Facts:
        found = dict(self._database.execute("SELECT key, value FROM meta"))
        try:
            return Facts(str(found["fingerprint"]), *(int(found[name]) for name in Facts._fields[1:]))
        except (KeyError, ValueError, OverflowError) as error:
            raise self._damaged(f"meta: {error}") from error

    def rows(self, after: int, dim: int) -> Iterator[Rows]:
        """The sentences with an id larger than `after`, in chunks, ascending."""
        query = "SELECT id, vector, types FROM sentences WHERE id > ? ORDER BY id"
        cursor = self._database.execute(query, (after,))
        while chunk := cursor.fetchmany(CHUNK):
            ids, blobs, types = zip(*chunk, strict=True)
            try:
                yield as_rows(ids, blobs, types, dim)
            except ValueError as error:
                raise self._damaged(str(error)) from error

    def ids(self) -> NDArray[np.int64]:
        """Every id, in no particular order."""
        rows = self._database.execute("SELECT id FROM sentences").fetchall()
        return np.array(rows, np.int64).reshape(-1)

    def is_empty(self) -> bool:
        return not self._database.execute("SELECT EXISTS (SELECT 1 FROM sentences)").fetchone()[0]

    def types(self) -> frozenset[str]:
        """The entity types of all sentences; reads the whole table."""
        try:
            return all_types(row[0] for row in self._database.execute("SELECT DISTINCT types FROM sentences"))
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def origins(self) -> dict[str, list[int]]:
        """The ids of each origin; reads the whole table."""
        found: dict[str, list[int]] = {}
        for key, origin in self._database.execute("SELECT id, origin FROM sentences ORDER BY id"):
            if not isinstance(origin, str):
                raise self._damaged(f"the origin of sentence {key}")
            found.setdefault(origin, []).append(key)
        return found

    def find(self, keys: Iterable[Key]) -> dict[Key, int]:
        """The ids of the sentences with these keys, as far as there are any."""
        query = "SELECT id FROM sentences WHERE words_digest = ? AND tags_digest = ?"
        found = ((key, self._database.execute(query, key).fetchone()) for key in keys)
        return {key: row[0] for key, row in found if row}

    def find_words(self, digest: bytes) -> list[int]:
        """The ids of the sentences with these words, whatever their tags."""
        query = "SELECT id FROM sentences WHERE words_digest = ?"
        return [row[0] for row in self._database.execute(query, (digest,))]

    def find_texts(self, texts: Set[str]) -> dict[str, set[int]]:
        """The ids of the sentences of each of these texts, which are without spaces; reads the words of all."""
        found: dict[str, set[int]] = {}
        for key, words in self._database.execute("SELECT id, words FROM sentences"):
            try:
                text = spaceless(json.loads(words))
            except (TypeError, ValueError, RecursionError) as error:
                raise self._damaged(f"the words of sentence {key}: {error}") from error
            if text in texts:
                found.setdefault(text, set()).add(key)
        return found

    def fetch(self, ids: Iterable[int]) -> dict[int, Sentence]:
        """The sentences with these ids, as far as there are any."""
        behind = f"4 * (SELECT value FROM meta WHERE key = 'dim') + {CHECKSUM_BYTES + 1}"  # the vector and its checksum
        query = f"SELECT {', '.join(Record._fields)}, origin, substr(vector, {behind}) FROM sentences WHERE id = ?"
        found = ((key, self._database.execute(query, (key,)).fetchone()) for key in ids)
        return {key: unpack(Record(*row[:-2]), *row[-2:]) for key, row in found if row}

    def insert(self, record: Record, origin: str, vector: NDArray[np.float32]) -> int:
        """Adds a sentence and returns its id, larger than any before, even a removed one's."""
        columns = (*Record._fields, "origin", "vector")
        query = f"INSERT INTO sentences ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        key = self._database.execute(query, (*record, origin, sealed(vector, record, origin))).lastrowid
        assert key is not None
        return key

    def delete(self, ids: Iterable[int] | None) -> int:
        """Removes the sentences with these ids, or all; returns how many there were."""
        if ids is None:
            count = self._database.execute("DELETE FROM sentences").rowcount
        else:
            count = self._database.executemany("DELETE FROM sentences WHERE id = ?", ((i,) for i in ids)).rowcount
        if count:
            self._database.execute("UPDATE meta SET value = value + 1 WHERE key = 'removals'")
        if self.is_empty():
            self.write_note(CALIBRATION, None)
        return max(count, 0)

    def replace_vectors(self, vectors: Mapping[int, NDArray[np.float32]], fingerprint: str, dim: int) -> None:
        """Gives the sentences the vectors of another encoder, for which the calibration does not hold."""
        self.write_note(CALIBRATION, None)
        query = f"SELECT {', '.join(Record._fields)}, origin FROM sentences WHERE id = ?"
        for key, vector in vectors.items():
            *texts, origin = self._database.execute(query, (key,)).fetchone()
            blob = sealed(vector, Record(*texts), origin)
            self._database.execute("UPDATE sentences SET vector = ? WHERE id = ?", (blob, key))
        facts = self.facts()._replace(fingerprint=fingerprint, dim=dim)
        facts = facts._replace(rebuilds=facts.rebuilds + 1)
        self._database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts._asdict().items())

    def save(self, path: Path) -> None:
        """Writes a consistent copy in one atomic step; outside of any transaction.

        Raises:
            SaveError: if it cannot be written, or would undo what others changed there (see `check_unchanged`).
        """
        self.check_unchanging()
        if self.is_at(path):
            return
        with held(path):
            self.check_unchanged(path)
            with self.reading():
                copy_file(self._database, path)
                self.places.remember(path, self._database)

    def copy(self) -> Store:
        """A copy in RAM, which remembers the same files; outside of any transaction."""
        self.check_unchanging()
        with self.reading():
            copy = Store(copy_in_ram(self._database), None)
            copy.places = self.places.copy()
            if self.path is not None:
                copy.places.remember(self.path, self._database)
        copy.place = self.place if self.path is None else f"the memory in RAM from {self.path}"
        return copy

    def check_unchanged(self, path: Path) -> None:
        """Raises SaveError if others have changed a file since this memory was read from it or saved to it."""
        if not self.is_at(path):
            self.places.check(path)

    def _damaged(self, what: str) -> MemoryFileError:
        return MemoryFileError(f"{self.place} is damaged ({what}): restore it from a copy")
