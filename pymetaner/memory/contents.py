"""What a memory holds, to be read: vectors in RAM and sentences on disk, both as they are at the moment of the call."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pymetaner.checks import path_of, whole
from pymetaner.errors import InputError, MemoryFileError, SaveError
from pymetaner.files import is_database
from pymetaner.forks import unforked
from pymetaner.memory.bank import as_id
from pymetaner.memory.encoder import SentenceEncoder, check_encoder, check_interface, check_types
from pymetaner.memory.mirror import Mirror
from pymetaner.memory.records import key_of
from pymetaner.memory.search import Excluded, Hit, ids_of, search
from pymetaner.memory.store import CALIBRATION
from pymetaner.readers import write
from pymetaner.sampling import spread
from pymetaner.sentence import Sentence, spaceless

__all__ = ["Contents", "absolute"]


class Contents:
    """The part of a `Memory` that only reads, through its mirror: the vectors, kept in step with the file."""

    _mirror: Mirror

    @property
    def encoder(self) -> SentenceEncoder:
        """The encoder that makes the vectors."""
        return self._mirror.encoder

    @property
    def types(self) -> frozenset[str]:
        """The entity types of its sentences."""
        with self._mirror.current() as store:
            return self._mirror.types(store)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids (N,), ascending: a read-only snapshot."""
        return self.snapshot()[0]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The unit vectors (N, dim), in the order of `ids`: a read-only snapshot, not a copy."""
        return self.snapshot()[1]

    def snapshot(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`ids` and `vectors` of one moment, whatever other threads and processes do meanwhile."""
        with self._mirror.current():
            return self._mirror.bank.ids, self._mirror.bank.vectors

    def version(self) -> tuple[int, NDArray[np.int64]]:
        """What tells one state of its sentences from another: how often all were read from a new file, and `ids`."""
        with self._mirror.current():
            return self._mirror.readings, self._mirror.bank.ids

    def search(self, vectors: ArrayLike, k: int, *, exclude_self: Sequence[Excluded] | None = None) -> list[list[Hit]]:
        """For each query its k nearest sentences: similarity descending, among equals id ascending.

        There are fewer where the memory has fewer, and none where it is empty.

        Args:
            vectors: query vectors (Q, dim) of the memory's encoder.
            k: at least 1.
            exclude_self: for each query what it is itself, and must not find: a sentence (every entry with its words,
                whatever their tags), an id, a set of ids, or None.

        Raises:
            InputError: if the vectors are not (Q, dim), or not finite, or an item to exclude is none of these.
            EncoderMismatchError: if their length is not that of the memory's.
            SettingError: if k is not a whole number from 1 on, or `exclude_self` is not a list of one item per query.
        """
        return search(self._mirror, vectors, k, exclude_self)

    def sample(self, most: int) -> dict[int, Sentence]:
        """At most so many sentences spread over all, by id; without those that are removed meanwhile.

        Raises:
            SettingError: if it is not a whole number from 1 on.
        """
        found = {}
        for i in spread(self.ids.tolist(), whole("most", most, 1)):
            with suppress(KeyError):
                found[i] = self[i]
        return found

    def find(self, sentence: Sentence) -> list[int]:
        """The ids of every entry with the words of a sentence, whatever its tags.

        Raises:
            InputError: if it is not a sentence.
        """
        _check_sentence(sentence)
        with self._mirror.current() as store:
            return sorted(ids_of(store, sentence))

    def find_texts(self, sentences: Sequence[Sentence]) -> list[frozenset[int]]:
        """For each sentence the ids of every entry of its text, wherever words are cut there, and whatever the tags.

        Raises:
            InputError: if one is not a sentence.
        """
        for sentence in sentences:
            _check_sentence(sentence)
        texts = [spaceless(sentence.words) for sentence in sentences]
        with self._mirror.current() as store:
            found = store.find_texts(frozenset(texts))
        return [frozenset(found.get(text, ())) for text in texts]

    def check(self, encoder: SentenceEncoder | None = None) -> None:
        """Checks that its vectors and labels are those of an encoder; an empty memory goes with any.

        Args:
            encoder: by default the memory's own, which may have been trained since.

        Raises:
            EncoderMismatchError: if another encoder, or this one with other weights, made the vectors.
            LabelMismatchError: if its sentences have entity types that the encoder does not know.
        """
        encoder = self.encoder if encoder is None else encoder
        check_interface(encoder)
        with self._mirror.current() as store:
            if len(self._mirror.bank):
                check_encoder(encoder, self._mirror.facts.fingerprint, self._mirror.facts.dim, store.place)
                check_types(encoder, self._mirror.types(store), store.place)

    def sources(self) -> dict[str, list[int]]:
        """The ids that came from each source; e.g. ``memory.remove(memory.sources()["old.conll"])``."""
        with self._mirror.current() as store:
            return store.origins()

    @property
    def calibration(self) -> dict[str, Any] | None:
        """The arguments for `pymetaner.adapt` that the last `calibrate` found; None if there was none."""
        with self._mirror.current() as store:
            found = store.note(CALIBRATION)
        try:
            arguments = None if found is None else json.loads(found)
            if found is not None and not isinstance(arguments, dict):
                raise ValueError(f"{found[:60]} is not a JSON object")
        except (ValueError, RecursionError) as error:
            raise MemoryFileError(f"{store.place} is damaged (calibration: {error}): call calibrate() again") from error
        return arguments

    def export(self, path: str | os.PathLike[str], *, format: Literal["jsonl", "columns"] | None = None) -> int:
        """How many sentences were written to a file that `import_file` reads, in one atomic step.

        Args:
            path: the file.
            format: ``"jsonl"`` keeps raw texts and their spans, ``"columns"`` (word, tab, tag) the words only; by
                default columns for names like ``.conll`` or ``.txt``, as for `pymetaner.readers.write`.

        Raises:
            DataError: if a word cannot stand in a column file.
            SaveError: if it cannot be written, or is a memory's file, its own or another; what was there stays.
        """
        file = absolute(path)
        with self._mirror.locked() as store:
            store.check_unchanging()  # which may be taken back
            if store.is_at(file):
                raise SaveError(f"{file} is the memory itself, which an export would overwrite: give another file")
        with unforked():
            another = is_database(file)
        if another:
            raise SaveError(f"{file} is a database, another memory perhaps: give another file, or delete it first")
        sentences = [sentence for _, sentence in self]
        write(file, sentences, format=format)
        return len(sentences)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a consistent copy, one file, in one atomic step; the memory itself stays where it is.

        Raises:
            SaveError: if it cannot be written (a full disk, no folder), or would undo what others have changed there
                since this memory was loaded from there or saved there; what was there stays.
            MemoryFileError: if there can be no file of that name.
        """
        with self._mirror.locked() as store:
            store.save(absolute(path))

    def check_unchanged(self, path: str | os.PathLike[str]) -> None:
        """Checks that a file that this memory was loaded from or saved to still is as it was then, or gone.

        Raises:
            SaveError: if others have changed it.
        """
        with self._mirror.locked() as store:
            store.check_unchanged(absolute(path))

    def __len__(self) -> int:
        return len(self.snapshot()[0])

    def __iter__(self) -> Iterator[tuple[int, Sentence]]:
        """(id, sentence) of each, ascending; those added meanwhile are left out, those removed may be.

        Raises:
            MemoryFileError: if another file takes the place of the memory's own meanwhile.
        """
        with self._mirror.current() as store:
            file, ids = store.identity.id, self._mirror.bank.ids.tolist()
        for first in range(0, len(ids), 256):
            with self._mirror.current() as store:
                if store.identity.id != file:
                    raise MemoryFileError(f"{store.place} was replaced by another file meanwhile: try again")
                found = store.fetch(ids[first : first + 256])
            yield from found.items()

    def __getitem__(self, key: int) -> Sentence:
        wanted = as_id(key)
        with self._mirror.current() as store:
            if wanted in self._mirror.bank and (found := self._mirror.fetch(store, [wanted])):
                return found[wanted]
        raise KeyError(f"the memory has no sentence {wanted}")

    def __contains__(self, item: object) -> bool:
        """Whether there is this id; or this sentence: these words and tags, or, if not labelled, these words."""
        if isinstance(item, Sentence):
            with self._mirror.current() as store:
                return bool(store.find([key_of(item)]) if item.tags is not None else ids_of(store, item))
        with self._mirror.current():
            return isinstance(item, (int, np.integer)) and int(item) in self._mirror.bank


def _check_sentence(sentence: Sentence) -> None:
    if not isinstance(sentence, Sentence):
        raise InputError(f"{sentence!r:.60} is a {type(sentence).__name__}, expected a pymetaner.Sentence")


def absolute(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a file.

    Raises:
        SettingError: if it is not a path.
        MemoryFileError: if the system cannot look there: a name that is too long, a folder that may not be read.
    """
    file = Path(os.path.abspath(path_of("path", path)))
    try:
        os.stat(f"{file}-journal")  # the longest name of what SQLite puts beside it
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise MemoryFileError(f"{file} cannot be used ({error.strerror}): give another path") from error
    return file
