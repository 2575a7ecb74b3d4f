"""What every reader returns, and the step all of them share: tags as written to IOB2."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymetaner.errors import DataError, EmptyDataError, TagError
from pymetaner.sentence import Sentence
from pymetaner.tagging import Notation, detect_notation, split_tags, tags_from_spans, to_iob2

__all__ = ["Corpus", "check_tokens", "convert_tags", "tokens_and_tags"]


@dataclass(frozen=True)
class Corpus:
    """Labelled sentences and how they were written.

    Attributes:
        sentences: the sentences, their tags in IOB2.
        notation: the notation found in the data.
        repairs: how many tags broke the rules of that notation and were repaired.
        path: the file they came from, None for data that came from memory.

    Example:
        >>> corpus = Corpus([Sentence(("Ada", "slept"), ("B-PER", "O"))])
        >>> len(corpus), corpus[0].words, corpus.types
        (1, ('Ada', 'slept'), ('PER',))
    """

    sentences: list[Sentence]
    notation: Notation = "IOB2"
    repairs: int = 0
    path: str | None = None

    def __len__(self) -> int:
        return len(self.sentences)

    def __iter__(self) -> Iterator[Sentence]:
        return iter(self.sentences)

    def __getitem__(self, index: int) -> Sentence:
        return self.sentences[index]

    @property
    def types(self) -> tuple[str, ...]:
        """The entity types that occur, sorted."""
        return tuple(sorted({entity.label for sentence in self.sentences for entity in sentence.entities}))


def convert_tags(
    sequences: Sequence[Sequence[str]], first_seen: Mapping[str, str], notation: Notation | None, source: str
) -> tuple[list[tuple[str, ...]], Notation, int]:
    """(IOB2 tags of every sequence, their notation, repairs); the notation is found over all sequences if not given.

    Args:
        sequences: the tags of every sentence as they were written.
        first_seen: where each distinct tag stands first (``"file.txt:12"``), for errors.
        notation: the notation, or None to find it out.
        source: the name of the data, for errors and for the warning that tells of repairs.

    Raises:
        TagError: for a tag that is not understood, naming its place.
    """
    # One reading of the whole vocabulary, so that a sentence whose tags happen to fit letter-first and letter-last
    # (`I-B`) is read like all others.
    written = {}
    for tag, part in split_tags(first_seen).items():
        if part is None and (notation != "IO" or not tag):
            raise TagError(
                f"{first_seen[tag]}: {tag!r} is not a tag of any known notation: expected O, or B-, I-, E-, S-, L- or "
                "U- and a type; check `tag_column` and `delimiter`, and for bare types give notation='IO'"
            )
        written[tag] = tag if part is None else "O" if part[0] == "O" else f"{part[0]}-{part[1]}"
    uniform = [[written[tag] for tag in tags] for tags in sequences]
    try:
        found = notation or detect_notation(uniform)
        converted = [to_iob2(tags, found) for tags in uniform]
    except DataError as error:
        raise type(error)(f"{_place_of_trouble(written, first_seen, notation) or source}: {error}") from None
    repairs = sum(count for _, count in converted)
    if repairs:
        warnings.warn(f"{source}: {repairs:,} tags break the rules of {found} and were repaired", stacklevel=4)
    return [tags for tags, _ in converted], found, repairs


def _place_of_trouble(
    written: Mapping[str, str], first_seen: Mapping[str, str], notation: Notation | None
) -> str | None:
    """Where the first tag stands that does not go with the notation, or with the tags before it."""
    tags = list(first_seen)

    def agree(count: int) -> bool:
        some = [[written[tag]] for tag in tags[:count]]
        try:
            found = notation or detect_notation(some)
            return all(to_iob2(each, found) for each in some)
        except DataError:
            return False

    good, bad = 0, len(tags)  # how many agree, and how many do not
    if agree(bad):
        return None
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if agree(middle) else (good, middle)
    return first_seen[tags[good]]


def tokens_and_tags(sentence: Sentence) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tokens that a labelled sentence came from, one tag each; the words of a raw text."""
    if isinstance(sentence.source, str):
        return sentence.words, sentence.tags or ()
    spans = [(entity.start, entity.end, entity.label) for entity in sentence.entities]
    return sentence.source, tags_from_spans(spans, len(sentence.source))


def check_tokens(tokens: Iterable[Any]) -> tuple[str, ...]:
    """The tokens as they are, if every one is a string that holds something and can be written."""
    words = tuple(tokens)
    if not words:
        raise EmptyDataError("there is no token: remove the sentence")
    for i, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise DataError(f"token {i} is {word!r}: every token must be a string that is not empty")
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"a token holds a lone surrogate ({error}), which is no text: decode the bytes again") from None
    return words
