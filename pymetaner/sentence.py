"""A sentence as every part of pymetaner sees it: words, their place in what the caller gave, and their tags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

from pymetaner.errors import DataError, EmptyDataError, LengthMismatchError, SpanError, TagError

__all__ = ["Entity", "Sentence", "check_sentences", "check_words", "is_text", "spaceless"]


@dataclass(frozen=True, slots=True)
class Entity:
    """One named entity.

    Attributes:
        text: the entity as it stands in the source: a slice of the raw text, or the words joined by a space.
        label: the entity type, e.g. ``"PER"``.
        start: where it starts: a character of the raw text, or a word of the token list.
        end: where it ends, exclusive, in the same unit.
        score: the model's probability, 0 to 1; 1.0 for a labelled entity.
    """

    text: str
    label: str
    start: int
    end: int
    score: float = 1.0


@dataclass(frozen=True)
class Sentence:
    """Words, their spans in the source, and (for a labelled sentence) one IOB2 tag per word.

    Attributes:
        words: the words that are tagged; entities are always whole words.
        tags: IOB2 tags (``"O"``, ``"B-PER"``, ``"I-PER"``), one per word, or None if the sentence is not labelled. An
            ``I-`` that goes on with no entity of its type begins one, so it is kept as ``B-``.
        source: what the caller gave: a raw text, or a tuple of tokens. Defaults to `words`.
        spans: (start, end) of each word in `source`, in characters or in tokens, ascending and without overlap.
            Defaults to one token a word.

    Raises:
        LengthMismatchError: if tags or spans are not one per word.
        TagError: if a tag is not IOB2.
        SpanError: if spans are not pairs of whole numbers, overlap, are empty, or leave the source.

    Example:
        >>> Sentence(("Ada", "Lovelace", "slept"), ("B-PER", "I-PER", "O")).entities
        (Entity(text='Ada Lovelace', label='PER', start=0, end=2, score=1.0),)
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    source: str | tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()

    if TYPE_CHECKING:  # what is taken; the fields are what is kept

        def __init__(
            self,
            words: Sequence[str],
            tags: Sequence[str] | None = None,
            source: str | Sequence[str] = (),
            spans: Sequence[Sequence[SupportsIndex]] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.words, str) or isinstance(self.tags, str):
            raise DataError("words and tags are lists of strings, not one string: for raw text use sentence_from_text")
        if not isinstance(self.words, Iterable) or not isinstance(self.tags, Iterable | None):
            raise DataError(f"words={self.words!r}, tags={self.tags!r}: expected lists of strings")
        # Lists are taken too; what is kept can be hashed and shared.
        object.__setattr__(self, "words", tuple(self.words))
        object.__setattr__(self, "tags", None if self.tags is None else tuple(self.tags))
        if not isinstance(self.source, Iterable):
            raise DataError(f"source={self.source!r}: expected a text or a list of tokens")
        object.__setattr__(self, "source", self.source if isinstance(self.source, str) else tuple(self.source))
        if self.spans:
            object.__setattr__(self, "spans", _spans(self.spans))
        if not all(isinstance(word, str) for word in self.words):
            raise DataError(f"the words {self.words[:5]!r} are not all strings: expected strings")
        for tag in self.tags or ():
            if not isinstance(tag, str) or (tag != "O" and not (tag[:2] in ("B-", "I-") and tag[2:])):
                raise TagError(
                    f"the tag {tag!r} is not IOB2: expected 'O', 'B-TYPE' or 'I-TYPE' (readers convert others)"
                )
        if self.tags:
            object.__setattr__(self, "tags", _begun(self.tags))
        if not self.spans and self.words:
            if self.source and self.source != self.words:
                raise DataError("a sentence whose source is not its words needs `spans`, the place of each word in it")
            object.__setattr__(self, "source", self.words)
            object.__setattr__(self, "spans", tuple((i, i + 1) for i in range(len(self.words))))
        if self.tags is not None and len(self.tags) != len(self.words):
            raise LengthMismatchError(f"{len(self.words)} words but {len(self.tags)} tags: give one tag per word")
        if len(self.spans) != len(self.words):
            raise LengthMismatchError(f"{len(self.words)} words but {len(self.spans)} spans: give one span per word")
        position = 0
        for start, end in self.spans:
            if start < position or end <= start or end > len(self.source):
                raise SpanError(
                    f"the span ({start}, {end}) is empty, overlaps the one before, or leaves the source "
                    f"of length {len(self.source)}"
                )
            position = end

    def __len__(self) -> int:
        return len(self.words)

    @property
    def text(self) -> str:
        """The raw text, or the source tokens joined by a space."""
        return self.source if isinstance(self.source, str) else " ".join(self.source)

    @cached_property
    def entities(self) -> tuple[Entity, ...]:
        """The labelled entities, in order; empty if the sentence is not labelled."""
        return self.entities_of(self.tags or (), None)

    def entities_of(self, tags: Sequence[str], scores: Sequence[float] | None) -> tuple[Entity, ...]:
        """The entities that IOB2 tags mark in this sentence, each scored by the mean of its words' scores."""
        found: list[Entity] = []
        for first, last, label in tag_spans(tags):
            start, end = self.spans[first][0], self.spans[last - 1][1]
            piece = self.source[start:end]
            text = piece if isinstance(piece, str) else " ".join(piece)
            score = 1.0 if scores is None else sum(scores[first:last]) / (last - first)
            found.append(Entity(text, label, start, end, score))
        return tuple(found)

    def with_tags(self, tags: Iterable[str] | None) -> Sentence:
        """The same words with other tags."""
        return replace(self, tags=None if tags is None else tuple(tags))


def _begun(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags with a B- at the beginning of every entity."""
    found: list[str] = []
    for tag in tags:
        goes_on = not tag.startswith("I-") or (found and found[-1][2:] == tag[2:])
        found.append(tag if goes_on else f"B-{tag[2:]}")
    return tuple(found)


def _spans(spans: Iterable[Iterable[SupportsIndex]]) -> tuple[tuple[int, int], ...]:
    """The spans as ints of Python, which a file can hold."""
    try:
        return tuple((index(start), index(end)) for start, end in spans)
    except (TypeError, ValueError) as error:
        raise SpanError(f"spans={spans!r:.60}: expected pairs of whole numbers, start and end ({error})") from error


def is_text(token: str) -> bool:
    """Whether a string can be written: a lone surrogate is no character."""
    try:
        token.encode()
    except UnicodeEncodeError:
        return False
    return True


def spaceless(words: Iterable[str]) -> str:
    """The text of some words without spaces, which is the same wherever they are cut."""
    return "".join("".join(words).split())


def check_sentences(sentences: Iterable[Sentence]) -> list[Sentence]:
    """The sentences as a list.

    Raises:
        DataError: if something is not a Sentence.
    """
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise DataError(
            f"{sentences!r:.60} is a {type(sentences).__name__}, expected pymetaner.Sentence objects in a list"
        )
    found = list(sentences)
    for i, sentence in enumerate(found):
        if not isinstance(sentence, Sentence):
            raise DataError(f"item {i} is a {type(sentence).__name__}, expected a pymetaner.Sentence")
    return found


def check_words(sentence: Sentence, place: str) -> None:
    """Checks that a sentence has words that can be learned from; `place` names it in the message.

    Raises:
        EmptyDataError: if it has none.
        DataError: if one is empty, or no string.
    """
    if not sentence.words:
        raise EmptyDataError(f"{place} has no word: leave it out")
    if not all(isinstance(token, str) for token in sentence.source):
        raise DataError(f"{place} ({sentence.words!r:.60}) has words that are not strings: leave them out")
    if not all((*sentence.words, *sentence.source)):
        raise DataError(f"{place} ({sentence.words!r:.60}) has an empty word: leave it out")


def tag_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first, last + 1, type) of every entity in a sequence of IOB2 tags; a stray ``I-`` opens an entity."""
    spans: list[tuple[int, int, str]] = []
    start, label = 0, ""
    for i, tag in enumerate((*tags, "O")):
        kind, _, name = tag.partition("-")
        if label and (kind != "I" or name != label):
            spans.append((start, i, label))
            label = ""
        if kind != "O" and not label:
            start, label = i, name
    return spans
