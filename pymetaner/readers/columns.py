"""Column files: a word a line with its tag, a blank line between sentences (the CoNLL-2002 and 2003 dialects)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pymetaner.errors import DataError, EmptyDataError
from pymetaner.readers.corpus import Corpus, convert_tags
from pymetaner.sentence import Sentence
from pymetaner.tagging import Notation

__all__ = ["read_columns"]

# Only these two separate columns: a token may hold any other space (NBSP in "10 000", the ideographic space).
_BLANKS = re.compile(r"[ \t]+")


def read_columns(
    path: Path,
    lines: Iterable[str],
    *,
    delimiter: str | None = None,
    word_column: int = 0,
    tag_column: int = -1,
    notation: Notation | None = None,
) -> Corpus:
    """The labelled sentences of a column file; see `pymetaner.readers.read` for the arguments."""
    lines = list(lines)
    if delimiter is None:
        delimiter = _find_delimiter(lines)
    sentences: list[tuple[str, ...]] = []
    tag_rows: list[Sequence[str]] = []
    first_seen: dict[str, str] = {}
    words: list[str] = []
    tags: list[str] = []
    width = 0
    for number, line in enumerate((*lines, ""), 1):
        fields = _BLANKS.split(line.strip(" \t")) if delimiter == " " else line.split(delimiter)
        outside = fields[0] == "-DOCSTART-" or not line.strip()
        if outside or _is_comment(line, delimiter, len(fields), width):
            if outside and words:
                sentences.append(tuple(words))
                tag_rows.append(tuple(tags))
                words, tags = [], []
            continue
        if not width:
            width = len(fields)
            _check_columns(f"{path}:{number}", line, width, word_column, tag_column)
        if len(fields) != width:
            raise DataError(
                f"{path}:{number}: {len(fields)} columns where the lines before have {width} ({line[:80]!r}): every "
                f"line needs its word and its tag; columns are separated by {_name(delimiter)}, or give `delimiter`"
            )
        word, tag = fields[word_column], fields[tag_column].strip()
        if not word:
            raise DataError(f"{path}:{number}: the word is empty ({line[:80]!r}): remove the line or fill the word in")
        first_seen.setdefault(tag, f"{path}:{number}")
        words.append(word)
        tags.append(tag)
    if not sentences:
        raise EmptyDataError(f"{path}: no sentence in it: expected lines of a word and its tag")
    converted, found, repairs = convert_tags(tag_rows, first_seen, notation, str(path))
    return Corpus([Sentence(w, t) for w, t in zip(sentences, converted, strict=True)], found, repairs, str(path))


def _find_delimiter(lines: Sequence[str]) -> str:
    """A tab if most lines that hold a word have one, else a space, which stands for a run of spaces and tabs."""
    held = [line for line in lines if line.strip()]
    held = [line for line in held if not line.startswith(("#", "-DOCSTART-"))] or held
    return "\t" if 2 * sum("\t" in line for line in held) > len(held) else " "


def _is_comment(line: str, delimiter: str, columns: int, width: int) -> bool:
    """Whether this is a CoNLL-U comment; between blanks `# O` is the word "#", so only files of another delimiter
    have comments."""
    return delimiter != " " and line.startswith("#") and (columns == 1 or (line.startswith("# ") and columns != width))


def _check_columns(place: str, line: str, width: int, word_column: int, tag_column: int) -> None:
    if width == 1:
        raise DataError(
            f"{place}: only one column ({line[:80]!r}), the tag is missing: expected a word and its tag on every line, "
            "separated by spaces or a tab, or give `delimiter`"
        )
    for name, column in (("word_column", word_column), ("tag_column", tag_column)):
        if not -width <= column < width:
            raise DataError(f"{place}: {width} columns, but {name}={column}: give a column from 0 to {width - 1}")
    if word_column % width == tag_column % width:
        raise DataError(f"{place}: word_column={word_column} and tag_column={tag_column} are the same column")


def _name(delimiter: str) -> str:
    return {" ": "spaces or tabs", "\t": "a tab"}.get(delimiter, repr(delimiter))
