"""Tagging labelled sentences without a sign of where their entities are, and comparing tags of different words."""

from __future__ import annotations

from collections.abc import Sequence

from pymetaner.sentence import Sentence
from pymetaner.tagging import tags_from_spans
from pymetaner.words import regroup, sentence_from_text

__all__ = ["aligned", "blinded"]


def blinded(sentence: Sentence) -> Sentence:
    """The sentence without tags, its words cut as if it had never had any.

    `pymetaner.sentence_from_text` and `pymetaner.regroup` cut words at the edges of labelled entities, which would tell
    a tagger where these begin and end. Words that were given stay as they are.
    """
    plain, source = sentence.with_tags(None), sentence.source
    if not isinstance(source, str) and sentence.words == source:
        return regroup(plain)
    entities = [(entity.start, entity.end, entity.label) for entity in sentence.entities]
    if isinstance(source, str):
        whole, cut = sentence_from_text(source), sentence_from_text(source, entities)
    else:
        whole, cut = regroup(Sentence(source)), regroup(Sentence(source, tags_from_spans(entities, len(source))))
    return whole if sentence.spans == cut.spans else plain


def aligned(labelled: Sentence, read: Sentence, tags: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tags of a labelled sentence, and others, one for each piece of text that no word of the two is cut by.

    Where the words are the same, these pieces are the words.

    Args:
        labelled: the sentence.
        read: another one of the same source.
        tags: IOB2 tags of the words of `read`.

    Example:
        >>> gold = Sentence(("北", "京", "人"), ("B-LOC", "I-LOC", "O"))
        >>> aligned(gold, Sentence(("北京", "人"), None, gold.source, ((0, 2), (2, 3))), ("B-LOC", "O"))
        (('B-LOC', 'I-LOC', 'O'), ('B-LOC', 'I-LOC', 'O'))
    """
    own = labelled.tags or ()
    if labelled.spans == read.spans:
        return own, tuple(tags)
    starts = sorted({edge for start_and_end in (*labelled.spans, *read.spans) for edge in start_and_end})
    of_each = [_at(sentence.spans, names, starts) for sentence, names in ((labelled, own), (read, tags))]
    found = [pair for pair in zip(*of_each, strict=True) if pair != (None, None)]  # else it is between words
    return tuple(one or "O" for one, _ in found), tuple(two or "O" for _, two in found)


def _at(spans: Sequence[tuple[int, int]], tags: Sequence[str], starts: Sequence[int]) -> list[str | None]:
    """The tag of the piece that begins at each of some positions, among them all edges of spans; None outside them."""
    found: dict[int, str] = {}
    places = {start: i for i, start in enumerate(starts)}
    for (start, end), tag in zip(spans, tags, strict=True):
        found[start] = tag
        for inside in starts[places[start] + 1 : places[end]]:
            found[inside] = "O" if tag == "O" else f"I-{tag[2:]}"
    return [found.get(start) for start in starts]
