"""A labelled sentence as a row of the memory's file, and back."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from pymetaner.errors import DataError, MemoryFileError, PymetanerError
from pymetaner.sentence import Sentence

__all__ = [
    "CHECKSUM_BYTES",
    "Key",
    "Record",
    "checksum",
    "key_of",
    "pack",
    "text_checksum",
    "types_of",
    "unpack",
    "words_digest",
]

Key = tuple[bytes, bytes]
"""What makes a sentence the same as another: the digests of its words and of its tags."""


CHECKSUM_BYTES = 4


class Record(NamedTuple):
    """The text columns of a row.

    Attributes:
        words: JSON list of the words.
        tags: JSON list of the IOB2 tags.
        source: JSON string or list, what the caller gave; None if it is the words.
        spans: JSON list of the starts and ends in turn; None if `source` is.
        types: JSON list of the entity types, sorted.
        words_digest: 16 bytes of BLAKE2b over `words`.
        tags_digest: 16 bytes of BLAKE2b over `tags`.
    """

    words: str
    tags: str
    source: str | None
    spans: str | None
    types: str
    words_digest: bytes
    tags_digest: bytes

    @property
    def key(self) -> Key:
        return self.words_digest, self.tags_digest


def pack(sentence: Sentence) -> Record:
    """The row of a labelled sentence.

    Raises:
        DataError: if a word holds a lone surrogate, which no file can.
    """
    words, tags = _dump(sentence.words), _dump(sentence.tags or ())
    source = spans = None
    if sentence.source != sentence.words:
        source = _dump(sentence.source)
        spans = _dump([edge for span in sentence.spans for edge in span])
        _bytes(source)
    return Record(words, tags, source, spans, _types(sentence), _digest(words), _digest(tags))


def unpack(record: Record, origin: str, expected: bytes) -> Sentence:
    """The sentence of a row.

    Args:
        record: its columns.
        origin: where it comes from, which the checksum covers too.
        expected: the checksum of its texts; empty for a row that has none.

    Raises:
        MemoryFileError: if the row is not what `pack` wrote.
    """
    try:
        if record.key != (_digest(record.words), _digest(record.tags)):
            raise ValueError("its text does not agree with its digest")
        if text_checksum(record, origin) != expected and expected:
            raise ValueError("its texts do not agree with their checksum")
        words, tags = tuple(json.loads(record.words)), tuple(json.loads(record.tags))
        if record.source is None or record.spans is None:
            sentence = Sentence(words, tags)
        else:
            source, edges = json.loads(record.source), json.loads(record.spans)
            spans = tuple(zip(edges[::2], edges[1::2], strict=True))
            sentence = Sentence(words, tags, source if isinstance(source, str) else tuple(source), spans)
        if record.types != _types(sentence):
            raise ValueError("its types are not those of its tags")
        return sentence
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, PymetanerError) as error:
        raise MemoryFileError(f"a sentence of the memory is damaged ({error}): restore the file from a copy") from error


def types_of(sentence: Sentence) -> set[str]:
    """The entity types that a sentence is labelled with."""
    return {tag[2:] for tag in set(sentence.tags or ()) if tag != "O"}


def text_checksum(record: Record, origin: str) -> bytes:
    """The checksum of a row's texts.

    Raises:
        TypeError: if one is not text.
    """
    texts = (record.words, record.tags, record.source or "", record.spans or "", record.types, origin)
    return checksum("\0".join(texts).encode())


def checksum(data: bytes) -> bytes:
    """CRC-32, little endian."""
    return crc32(data).to_bytes(CHECKSUM_BYTES, "little")


def key_of(sentence: Sentence) -> Key:
    """The key of a labelled sentence."""
    return words_digest(sentence), _digest(_dump(sentence.tags or ()))


def words_digest(sentence: Sentence) -> bytes:
    """The digest of a sentence's words, whatever its tags."""
    return _digest(_dump(sentence.words))


_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _types(sentence: Sentence) -> str:
    return _dump(sorted(types_of(sentence)))


def _digest(text: str) -> bytes:
    return blake2b(_bytes(text), digest_size=16).digest()


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{text[error.start : error.end]!r} in {text[:60]!r}... is half of a character (a lone surrogate): "
            "decode the data with its right encoding"
        ) from error
