"""Changes of a memory that need its encoder, which is slow: sentences are embedded without the lock, then written in
one transaction that checks that nothing else changed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pymetaner.memory.encoder import SentenceEncoder, check_encoder, check_types, embed
from pymetaner.memory.mirror import Mirror
from pymetaner.memory.records import Key, pack
from pymetaner.sentence import Sentence

__all__ = ["add", "adopt", "rebuild"]


def add(mirror: Mirror, sentences: Sequence[Sentence], source: str, progress: bool) -> list[int]:
    """The ids of sentences that were checked; those that are there already stay as they are."""
    records = [pack(sentence) for sentence in sentences]
    first: dict[Key, int] = {}
    for i, record in enumerate(records):
        first.setdefault(record.key, i)
    with mirror.locked() as store:
        store.check_writable()
    vectors: dict[Key, NDArray[np.float32]] = {}
    while True:
        encoder = mirror.encoder
        made_by = encoder.fingerprint, encoder.dim
        with mirror.current() as store:
            check_encoder(encoder, mirror.facts.fingerprint, mirror.facts.dim, store.place)
            known = store.find(first)
        fresh = {key: sentences[i] for key, i in first.items() if key not in known and key not in vectors}
        if fresh:
            vectors.update(zip(fresh, embed(encoder, list(fresh.values()), progress=progress), strict=True))
        with mirror.changing() as store:
            if made_by != (mirror.facts.fingerprint, mirror.facts.dim):
                vectors.clear()  # rebuilt meanwhile
                continue
            ids = store.find(first)
            if not first.keys() <= ids.keys() | vectors.keys():
                continue  # one that was known has been removed meanwhile
            for key, i in first.items():
                if key not in ids:
                    ids[key] = store.insert(records[i], source, vectors[key])
        return [ids[record.key] for record in records]


def adopt(mirror: Mirror, *, always: bool = False, progress: bool = False) -> None:
    """Rebuilds where the encoder is not the one that made the vectors, if there are none, or else if `always`."""
    encoder = mirror.encoder
    if (mirror.facts.fingerprint, mirror.facts.dim) == (encoder.fingerprint, encoder.dim):
        return  # as far as is known; what another process did since is looked at later
    with mirror.locked() as store, store.reading():
        facts, empty, writable = store.facts(), store.is_empty(), not store.read_only
    if (facts.fingerprint, facts.dim) != (encoder.fingerprint, encoder.dim) and (always or (empty and writable)):
        rebuild(mirror, encoder, progress)


def rebuild(mirror: Mirror, encoder: SentenceEncoder, progress: bool) -> None:
    """Embeds every sentence with this encoder, which is the memory's from then on."""
    fingerprint, dim = encoder.fingerprint, encoder.dim
    with mirror.locked() as store, store.reading():
        store.check_writable()
        check_types(encoder, store.types(), store.place)
    vectors: dict[int, NDArray[np.float32]] = {}
    while True:
        with mirror.locked() as store, store.reading():
            file = store.identity.id
            fresh = store.fetch(key for key in store.ids().tolist() if key not in vectors)
        if fresh:
            vectors.update(zip(fresh, embed(encoder, list(fresh.values()), progress=progress), strict=True))
        with mirror.locked() as store:
            with store.writing():
                ids = store.ids().tolist()
                if store.identity.id != file:
                    vectors.clear()  # of another file's sentences
                if not vectors.keys() >= set(ids):
                    continue  # some were added meanwhile
                check_types(encoder, store.types(), store.place)  # theirs too
                store.replace_vectors({key: vectors[key] for key in ids}, fingerprint, dim)
            mirror.restart(encoder)
        return
