"""The nearest sentences of a memory."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from pymetaner.errors import EncoderMismatchError, InputError, SettingError
from pymetaner.memory.bank import as_id
from pymetaner.memory.mirror import Mirror
from pymetaner.memory.records import words_digest
from pymetaner.memory.store import Store
from pymetaner.sentence import Sentence

__all__ = ["Excluded", "Hit", "ids_of", "search"]

Excluded: TypeAlias = "Sentence | int | Set[int] | None"


@dataclass(frozen=True, slots=True)
class Hit:
    """A sentence that a search found.

    Attributes:
        id: its id in the memory.
        sentence: the labelled sentence.
        similarity: the cosine of its vector and the query's, -1 to 1.
    """

    id: int
    sentence: Sentence
    similarity: float


def search(mirror: Mirror, vectors: ArrayLike, k: int, exclude_self: Sequence[Excluded] | None) -> list[list[Hit]]:
    """`Memory.search`: locked only while the bank is brought up to date and the sentences are fetched."""
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise SettingError(f"k is {k!r}: expected a whole number of sentences, at least 1")
    try:
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise InputError(f"queries are not vectors ({error}): expected numbers (queries, dimensions)") from error
    if queries.ndim != 2:
        raise InputError(f"queries have the shape {queries.shape}: expected (queries, dimensions)")
    itself: Sequence[Excluded] = [None] * len(queries) if exclude_self is None else exclude_self
    if isinstance(itself, (Sentence, str)) or not isinstance(itself, (Sequence, np.ndarray)):
        raise SettingError(f"exclude_self is a {type(itself).__name__}: give a list, with one item per query")
    if len(itself) != len(queries):
        raise SettingError(f"{len(itself)} items to exclude for {len(queries)} queries: give one per query")
    while True:
        with mirror.current() as store:
            reading, ids, bank = mirror.readings, mirror.bank.ids, mirror.bank.rows
            excluded = [ids_of(store, item) for item in itself]
        if not len(ids) or not len(queries):
            return [[] for _ in queries]
        if queries.shape[1] != bank.dim:
            raise EncoderMismatchError(
                f"queries of {queries.shape[1]} dimensions for a memory of {bank.dim}: embed them with its encoder"
            )
        scores, rows = bank.search(queries, min(int(k) + max(map(len, excluded)), len(ids)))
        best = [
            [(key, score) for key, score in zip(keys, row, strict=True) if key not in out][:k]
            for keys, row, out in zip(ids[rows].tolist(), scores.tolist(), excluded, strict=True)
        ]
        wanted = {key for row in best for key, _ in row}
        with mirror.current() as store:
            found = mirror.fetch(store, wanted)
            same = mirror.readings == reading
        if same and found.keys() == wanted:  # else one was removed, or the file replaced, meanwhile: look again
            return [[Hit(key, found[key], score) for key, score in row] for row in best]


def ids_of(store: Store, item: Excluded) -> set[int]:
    """The ids that an item to exclude stands for; for a sentence all with its words."""
    if item is None:
        return set()
    if isinstance(item, Sentence):
        return set(store.find_words(words_digest(item)))
    return set(map(as_id, item)) if isinstance(item, (set, frozenset)) else {as_id(item)}
