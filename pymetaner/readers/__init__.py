"""Labelled data in and out: column files, JSONL, Hugging Face datasets.

corpus = read("train.conll")
corpus = from_dataset(load_dataset("my/ner")["train"])
write("train.jsonl", corpus)
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from pymetaner.checks import path_of, truth
from pymetaner.errors import DataError, EmptyDataError, SettingError
from pymetaner.files import is_readable_database, write_atomically
from pymetaner.progress import track
from pymetaner.readers.columns import find_delimiter, read_columns, sentence_to_columns, usual_width
from pymetaner.readers.corpus import Corpus
from pymetaner.readers.dataset import from_dataset
from pymetaner.readers.jsonl import read_jsonl, sentence_to_json
from pymetaner.sentence import Sentence, check_sentences
from pymetaner.tagging import Notation

__all__ = ["Corpus", "Format", "from_dataset", "read", "write"]

Format = Literal["columns", "jsonl"]
_COLUMN_FILES = {".bio", ".conll", ".iob", ".iob2", ".tsv", ".txt"}

_SLOW = 2_000_000  # characters that take about a second to read


def read(
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    delimiter: str | None = None,
    word_column: int = 0,
    tag_column: int = -1,
    notation: Notation | None = None,
    encoding: str = "utf-8",
    progress: bool = False,
) -> Corpus:
    """The labelled sentences of a file, their tags in IOB2, with the notation found and the number of repairs.

    Args:
        path: a column file (one word per line with its tag, a blank line between sentences; ``-DOCSTART-`` lines are
            skipped, and so are CoNLL-U comments where columns are not separated by spaces), or a JSONL file (one
            ``{"tokens": [...], "tags": [...]}`` or ``{"text": "...", "spans": [[start, end, label], ...]}`` per line).
        format: which of the two; found out if not given.
        delimiter: what separates columns; a tab where most lines have one, else any run of spaces and tabs (``" "``).
        word_column: the column of the word, counted from 0; negative from the end.
        tag_column: the column of the tag.
        notation: how the tags are written; found out over the whole file if not given.
        encoding: of the file; a byte order mark is left out.
        progress: show a bar for a file that takes more than a second.

    Raises:
        DataError: if the file cannot be read, decoded or understood; the message names file and line.
        EmptyDataError: if there is no sentence in it.
        LengthMismatchError: if a sentence has more or fewer tags than tokens.
        TagError: for a tag of no known notation.
        SpanError: for a span outside its text, empty, or overlapping another.
        SettingError: if the path is no path, or another argument is unknown.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "two.conll"
        >>> _ = file.write_text("Ada I-PER\\nslept O\\n\\nParis I-LOC\\nLyon B-LOC\\n")
        >>> corpus = read(file)
        >>> corpus.notation, corpus[1].tags
        ('IOB1', ('B-LOC', 'B-LOC'))
    """
    if format not in (None, *get_args(Format)):
        raise SettingError(f"format={format!r} is unknown: give one of {', '.join(get_args(Format))}")
    if notation not in (None, *get_args(Notation)):
        raise SettingError(f"notation={notation!r} is unknown: give one of {', '.join(get_args(Notation))}")
    if delimiter == "":
        raise SettingError("delimiter='' separates nothing: give a character, or None to find it out")
    truth("progress", progress)
    name = path_of("path", path).name
    text = _decode(os.fspath(path), encoding)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    watched = track(lines, f"Reading {name}", progress and len(text) > _SLOW)
    if format == "jsonl" or (format is None and _is_jsonl(str(path), text)):
        return read_jsonl(str(path), watched, notation=notation)
    delimiter = delimiter or find_delimiter(lines)
    return read_columns(
        str(path),
        watched,
        delimiter=delimiter,
        usual=usual_width(lines, delimiter),
        word_column=word_column,
        tag_column=tag_column,
        notation=notation,
    )


def write(path: str | os.PathLike[str], sentences: Iterable[Sentence], format: Format | None = None) -> None:
    """Write labelled sentences to a file, whole or not at all.

    JSONL keeps tokens and tags, or the raw text and its spans, so that reading gives the same sentences. Columns
    (word, tab, tag) keep the words, not the spaces between them. A sentence that `pymetaner.words.regroup` made is
    written as the tokens it came from.

    Args:
        path: the file.
        sentences: labelled sentences.
        format: by default ``"columns"`` for names that end in .bio, .conll, .iob, .iob2, .tsv or .txt, ``"jsonl"`` for
            all others.

    Raises:
        DataError: for a sentence without tags, or one that would read differently: an empty token, words that are not
            those of the raw text, marks of the column format.
        EmptyDataError: for a sentence without words.
        SaveError: if the file cannot be written; what was there before is kept.
        SettingError: if the path is no path, or the format is unknown.
    """
    file = path_of("path", path)
    if format not in (None, *get_args(Format)):
        raise SettingError(f"format={format!r} is unknown: give one of {', '.join(get_args(Format))}")
    if format is None:
        format = "columns" if file.suffix.lower() in _COLUMN_FILES else "jsonl"
    parts = []
    for number, sentence in enumerate(check_sentences(sentences)):
        place = f"sentence {number}"
        if sentence.tags is None:
            raise DataError(f"{place} ({sentence.text[:60]!r}) has no tags: only labelled sentences can be written")
        if not sentence.words:
            raise EmptyDataError(f"{place} has no words: leave it out")
        parts.append(sentence_to_json(sentence, place) if format == "jsonl" else sentence_to_columns(sentence, place))
    text = "".join(parts)
    if text.startswith("\ufeff"):
        text = f"\ufeff{text}"  # readers take the first one for a byte order mark
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"a sentence holds a lone surrogate ({error}), which is no text: remove it") from None
    write_atomically(file, data)


def _decode(path: str, encoding: str) -> str:
    try:
        if is_readable_database(Path(path)):
            raise DataError(
                f"{path}: this is a database, a memory perhaps: give a text file, e.g. from `memory.export`"
            )
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): give a file of labelled sentences") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and encoding == "utf-8":
        wide = "utf-32" if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) else "utf-16"
        raise DataError(f"{path}:1: the file is {wide} by its first bytes: give encoding={wide!r}, or convert it")
    try:
        codecs.lookup(encoding)
        text = data.decode(encoding)
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise _undecodable(path, data, encoding, error) from None
        raise SettingError(f"encoding={encoding!r} is unknown: give one that Python knows") from None
    try:
        text.encode()
    except UnicodeEncodeError as error:  # some encodings make such
        line = text.count("\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: a lone surrogate, which is no text: give the right `encoding`") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}:{line}: a zero byte: this is a binary file, labelled text is expected")
    return text.removeprefix("\ufeff")


def _undecodable(path: str, data: bytes, encoding: str, error: UnicodeDecodeError) -> DataError:
    line = data.count(b"\n", 0, error.start) + 1
    shown = f"byte 0x{data[error.start]:02x}" if error.start < len(data) else "the end"
    return DataError(
        f"{path}:{line}: {shown} is not {encoding} ({error.reason}): give the right `encoding`, or, if this is not a "
        "text file, another path"
    )


def _is_jsonl(path: str, text: str) -> bool:
    if path.lower().endswith((".jsonl", ".ndjson", ".json")):
        return True
    return re.match(r'\s*\{\s*"\w+"\s*:.*\}\s*$', text, re.MULTILINE) is not None  # a first line that is an object
