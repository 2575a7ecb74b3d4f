"""Column files: one word per line with its tag, a blank line between sentences (the CoNLL-2002 and 2003 dialects)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pymetaner.errors import DataError, EmptyDataError
from pymetaner.readers.corpus import Corpus, convert_tags, tokens_and_tags
from pymetaner.sentence import Sentence
from pymetaner.tagging import Notation

__all__ = ["find_delimiter", "read_columns", "sentence_to_columns", "usual_width"]

# Only these two separate columns: a token may hold any other space (NBSP in "10 000", the ideographic space).
_BLANKS = re.compile(r"[ \t]+")
_DOCSTART = "-DOCSTART-"
_NOTE = re.compile(r"# \S+ = ")  # of CoNLL-U: "# text = ..."


def read_columns(
    path: str,
    lines: Iterable[str],
    *,
    delimiter: str,
    usual: int = 0,
    word_column: int = 0,
    tag_column: int = -1,
    notation: Notation | None = None,
) -> Corpus:
    """The labelled sentences of the lines of a column file; see `pymetaner.readers.read`.

    `usual` is how many columns they have (`usual_width`), which tells comments from words.
    """
    sentences: list[tuple[str, ...]] = []
    tag_rows: list[tuple[str, ...]] = []
    first_seen: dict[str, str] = {}
    words: list[str] = []
    tags: list[str] = []
    width = 0

    def end_sentence() -> None:
        if words:
            sentences.append(tuple(words))
            tag_rows.append(tuple(tags))
            words.clear()
            tags.clear()

    for number, line in enumerate(lines, 1):
        fields = _BLANKS.split(line.strip(" \t")) if delimiter == " " else line.split(delimiter)
        at_word = fields[word_column] if -len(fields) <= word_column < len(fields) else ""
        if _DOCSTART in (*line.split(None, 1)[:1], at_word) or not line.strip():
            end_sentence()
            continue
        if _is_comment(line, delimiter, len(fields), usual):
            continue
        if not width:
            width = len(fields)
            _check_columns(f"{path}:{number}", line, width, word_column, tag_column)
        if len(fields) != width:
            separator = {" ": "spaces or tabs", "\t": "a tab"}.get(delimiter, repr(delimiter))
            missing = "the tag is missing, " if len(fields) == 1 else ""
            raise DataError(
                f"{path}:{number}: {missing}{len(fields)} of {width} columns found ({line[:80]!r}): every line needs "
                f"as many as the first, separated by {separator}; mend the line, or give `delimiter`"
            )
        word, tag = fields[word_column], fields[tag_column].strip()
        if not word:
            raise DataError(f"{path}:{number}: the word is empty ({line[:80]!r}): fill it in or remove the line")
        if tag not in first_seen:
            first_seen[tag] = f"{path}:{number}"
        words.append(word)
        tags.append(tag)
    end_sentence()
    if not sentences:
        raise EmptyDataError(f"{path}: there is no sentence in it: expected lines of a word and its tag")
    converted, found, repairs = convert_tags(tag_rows, first_seen, notation, path)
    return Corpus([Sentence(w, t) for w, t in zip(sentences, converted, strict=True)], found, repairs, path)


def find_delimiter(lines: Sequence[str]) -> str:
    """A tab if most lines that hold a word have one, else a space, which stands for a run of spaces and tabs."""
    held = [line for line in lines if line.strip()]
    held = [line for line in held if not line.startswith(("#", _DOCSTART))] or held
    return "\t" if 2 * sum("\t" in line for line in held) > len(held) else " "


def sentence_to_columns(sentence: Sentence, place: str) -> str:
    """The lines of a labelled sentence: a word, a tab, its tag."""
    lines = []
    for word, tag in zip(*tokens_and_tags(sentence), strict=True):
        is_mark = word.split(None, 1)[:1] == [_DOCSTART] or _NOTE.match(word)
        if not word or is_mark or re.search(r"[\t\r\n\0]", word + tag) or tag != tag.strip():
            raise DataError(
                f"{place}: the word {word!r} with the tag {tag!r} cannot stand in a column file (it is empty, a mark "
                "of the format, or holds a tab, a line break or a zero byte): write format='jsonl'"
            )
        lines.append(f"{word}\t{tag}\n")
    return "".join(lines) + "\n"


def _is_comment(line: str, delimiter: str, columns: int, width: int) -> bool:
    """Whether this is a CoNLL-U comment. Between spaces `# O` is the word "#", so such files have no comments."""
    if delimiter == " " or not line.startswith("#"):
        return False
    is_note = line.startswith(("# ", f"#{delimiter}")) and width not in (0, columns)
    return columns == 1 or is_note or bool(_NOTE.match(line))


def usual_width(lines: Sequence[str], delimiter: str) -> int:
    """How many columns the first line has that is surely none of comments; 0 if there is none."""
    for line in lines:
        if line.strip() and not line.startswith(("#", _DOCSTART)):
            return len(line.split(delimiter))
    return 0


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
        raise DataError(
            f"{place}: word_column={word_column} and tag_column={tag_column} are the same of {width} columns"
        )
