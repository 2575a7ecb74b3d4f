"""What a row of the memory's file holds beside its sentence: the vector with its checksums, and the entity types.

Behind the vector, in the same column, stand two CRC-32: one of the vector, checked when it is loaded, and one of the
texts, checked when the sentence is read. Rows of files that were written before there were any are read unchecked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pymetaner.memory.encoder import are_unit
from pymetaner.memory.records import CHECKSUM_BYTES, Record, checksum, text_checksum

__all__ = ["Rows", "all_types", "as_rows", "sealed"]


class Rows(NamedTuple):
    """Some sentences' ids (n,), vectors (n, dim) and, together, their entity types."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    types: frozenset[str]


def as_rows(ids: Sequence[int], blobs: Sequence[bytes], types: Iterable[str], dim: int) -> Rows:
    """Rows as they stand in the file, checked.

    Raises:
        ValueError: saying what is damaged.
    """
    size = 4 * dim
    if not all(isinstance(blob, bytes) and len(blob) in (size, size + 2 * CHECKSUM_BYTES) for blob in blobs):
        raise ValueError("a vector's length")
    data = [blob[:size] for blob in blobs]
    checksums = (blob[size : size + CHECKSUM_BYTES] for blob in blobs)
    if any(found and found != checksum(vector) for vector, found in zip(data, checksums, strict=True)):
        raise ValueError("a vector's content: it does not agree with its checksum")
    vectors = np.frombuffer(b"".join(data), "<f4").reshape(-1, dim)
    if not are_unit(vectors).all():
        raise ValueError("a vector's content: it is not of length 1")
    return Rows(np.array(ids, np.int64), vectors, all_types(types))


def all_types(texts: Iterable[str]) -> frozenset[str]:
    """The entity types of some rows together.

    Raises:
        ValueError: saying what is damaged.
    """
    try:
        lists = [json.loads(text) for text in set(texts)]
    except (TypeError, RecursionError) as error:
        raise ValueError(f"types: {error}") from error
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise ValueError("types that are no list of names")
    return frozenset(name for names in lists for name in names)


def sealed(vector: NDArray[np.float32], record: Record, origin: str) -> bytes:
    """A vector for the file: float32, little endian, and the checksums of it and of the row's texts."""
    data = vector.astype("<f4", copy=False).tobytes()
    return data + checksum(data) + text_checksum(record, origin)
