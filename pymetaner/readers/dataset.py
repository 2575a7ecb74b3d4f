"""Hugging Face datasets; the library itself is needed only by who has one."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymetaner.errors import DataError, EmptyDataError, LengthMismatchError, PymetanerError, TagError
from pymetaner.readers.corpus import Corpus, check_tokens, convert_tags
from pymetaner.sentence import Sentence
from pymetaner.tagging import Notation

__all__ = ["from_dataset"]


def from_dataset(
    dataset: Iterable[Mapping[str, Any]],
    *,
    tokens: str = "tokens",
    tags: str = "ner_tags",
    notation: Notation | None = None,
) -> Corpus:
    """The labelled sentences of a Hugging Face ``Dataset``.

    Args:
        dataset: one split: rows with a list of tokens and a list of tags, either strings or ``ClassLabel`` numbers.
        tokens: the name of the column of tokens.
        tags: the name of the column of tags.
        notation: how the tags are written; found out if not given.

    Raises:
        DataError: for a ``DatasetDict``, a missing column, or numbers without names.
        EmptyDataError: if there is no row, or a row has no token.
        LengthMismatchError: if a row has more or fewer tags than tokens.
        TagError: for a tag of no known notation, or a number outside the names.

    Example:
        >>> rows = [{"tokens": ["Ada", "slept"], "ner_tags": ["B-PER", "O"]}]
        >>> from_dataset(rows)[0].tags
        ('B-PER', 'O')
    """
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(repr, dataset))
        raise DataError(f"these are several splits ({splits}): give one of them, dataset[{next(iter(dataset), '')!r}]")
    if isinstance(dataset, str) or not isinstance(dataset, Iterable):
        raise DataError(f"the dataset is of type {type(dataset).__name__}: give a split, or a list of rows")
    names = _class_names(getattr(dataset, "features", None), tags)
    words: list[tuple[str, ...]] = []
    rows: list[tuple[str, ...]] = []
    first_seen: dict[str, str] = {}
    for number, row in enumerate(dataset):
        place = f"row {number}"
        if not isinstance(row, Mapping):
            raise DataError(f"{place} is of type {type(row).__name__}: expected a row with columns by name")
        for column in (tokens, tags):
            if column not in row:
                raise DataError(f"{place}: no column {column!r}: name the right one of {', '.join(map(repr, row))}")
        try:
            sentence = check_tokens(_list(row, tokens))
            tag_row = [_tag_name(tag, names) for tag in _list(row, tags)]
            if len(sentence) != len(tag_row):
                raise LengthMismatchError(f"{len(sentence)} tokens but {len(tag_row)} tags: give one tag per token")
        except PymetanerError as error:
            raise type(error)(f"{place}: {error}") from None
        for tag in tag_row:
            first_seen.setdefault(tag, place)
        words.append(sentence)
        rows.append(tuple(tag_row))
    if not words:
        raise EmptyDataError("the dataset has no rows: give labelled sentences")
    converted, found, repairs = convert_tags(rows, first_seen, notation, "the dataset")
    return Corpus([Sentence(w, t) for w, t in zip(words, converted, strict=True)], found, repairs)


def _list(row: Mapping[str, Any], column: str) -> Iterable[Any]:
    value = row[column]
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise DataError(f"column {column!r} holds {value!r}: expected a list")
    return value


def _class_names(features: Any, column: str) -> Sequence[str] | None:
    """The names of the numbers in a column, if it has any."""
    feature = features.get(column) if isinstance(features, Mapping) else None
    # `Sequence(ClassLabel)`, `List(ClassLabel)` or `[ClassLabel]`, by the version of the library.
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    return getattr(inner, "names", None)


def _tag_name(tag: Any, names: Sequence[str] | None) -> str:
    if isinstance(tag, str):
        return tag
    if names is None:
        raise DataError(
            f"the tag {tag!r} is a number without a name: cast the column to Sequence(ClassLabel(names=[...])), or map "
            "the numbers to strings"
        )
    try:
        number = operator.index(tag)  # of a tensor too, in datasets that are formatted so
    except TypeError:
        number = None
    if number is None or isinstance(tag, bool):
        raise TagError(f"the tag {tag!r} is neither a string nor a number")
    if not 0 <= number < len(names):
        raise TagError(f"the tag {tag!r} is outside the {len(names)} names of its column ({', '.join(names)})")
    return str(names[number])
