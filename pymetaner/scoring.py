"""Precision, recall and F1 of entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pymetaner.errors import LengthMismatchError, SettingError, TagError
from pymetaner.sentence import tag_spans

__all__ = ["Score", "Scoring", "drop_types", "score", "sentence_counts"]

Scoring = Literal["strict", "conlleval"]


@dataclass(frozen=True)
class Score:
    """How well predicted entities match the labelled ones.

    Attributes:
        correct: predicted entities with the right words and the right type.
        predicted: all predicted entities.
        support: all labelled entities.
        per_type: the same for each entity type that occurs, sorted by name.

    Example:
        >>> Score(correct=3, predicted=4, support=6).f1
        0.6
    """

    correct: int
    predicted: int
    support: int
    per_type: dict[str, Score] = field(default_factory=dict)

    @property
    def precision(self) -> float:
        """The share of predicted entities that are correct, 0 to 1; 0 if there are none."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """The share of labelled entities that were found, 0 to 1; 0 if there are none."""
        return self.correct / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, 0 to 1."""
        total = self.predicted + self.support
        return 2 * self.correct / total if total else 0.0


def score(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], *, scoring: Scoring = "strict") -> Score:
    """The score over all entities and for each type.

    Args:
        gold: the labelled IOB2 tags of every sentence.
        predicted: the predicted ones, as many.
        scoring: ``"strict"``, what seqeval gives with ``mode="strict", scheme=IOB2``: an ``I-`` without its ``B-`` is
            no entity; or ``"conlleval"``, what the script of the CoNLL shared tasks gives on a file without blank lines
            between sentences, as Wu et al. (2020) score: such an ``I-`` opens an entity, and an entity may go on
            in the next sentence.

    Raises:
        LengthMismatchError: if sentences or tags are not as many in both.
        TagError: for a tag that is not IOB2.

    Example:
        >>> score([["B-PER", "I-PER", "O"]], [["B-PER", "O", "B-LOC"]]).per_type["PER"].predicted
        1
    """
    if scoring not in get_args(Scoring):
        raise SettingError(f"scoring={scoring!r} is unknown: give one of {', '.join(get_args(Scoring))}")
    if len(gold) != len(predicted):
        raise LengthMismatchError(f"{len(gold)} labelled sentences but {len(predicted)} predicted: give the same ones")
    for number, (labelled, found) in enumerate(zip(gold, predicted, strict=True)):
        if len(labelled) != len(found):
            raise LengthMismatchError(
                f"sentence {number}: {len(labelled)} labelled tags but {len(found)} predicted: give one tag per word"
            )
    for tag in {*chain.from_iterable(gold), *chain.from_iterable(predicted)}:
        if not isinstance(tag, str) or (tag != "O" and (tag[:2] not in ("B-", "I-") or len(tag) == 2)):
            raise TagError(f"{tag!r} is not an IOB2 tag: convert the tags with pymetaner.tagging.to_iob2")
    entities = _strict if scoring == "strict" else _conlleval
    expected, answered = entities(gold), entities(predicted)
    correct, every, labels = (
        Counter(name for *_, name in group) for group in (expected & answered, answered, expected)
    )
    per_type = {name: Score(correct[name], every[name], labels[name]) for name in sorted(every | labels)}
    return Score(correct.total(), every.total(), labels.total(), per_type)


def sentence_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """(n, 3): how many entities of each sentence are correct, predicted and labelled, as ``scoring="strict"`` counts.

    Sums over any choice of sentences give its score, which is what a bootstrap needs.
    """
    expected, answered = _strict(gold), _strict(predicted)
    return np.stack(
        [
            np.bincount([place for place, *_ in group], minlength=len(gold))
            for group in (expected & answered, answered, expected)
        ],
        axis=1,
    ).astype(np.int64)


def drop_types(tags: Sequence[str], keep: Collection[str]) -> tuple[str, ...]:
    """The tags with every entity whose type is not kept turned into ``O``.

    A model that knows more types than a file (MISC, say) is scored on the types of the file.

    Example:
        >>> drop_types(["B-PER", "O", "B-MISC", "I-MISC"], {"PER", "LOC"})
        ('B-PER', 'O', 'O', 'O')
    """
    return tuple(tag if tag.partition("-")[2] in keep else "O" for tag in tags)


def _strict(sequences: Sequence[Sequence[str]]) -> set[tuple[int, int, int, str]]:
    """(sentence, first word, last + 1, type) of every entity that seqeval's IOB2 scheme accepts."""
    from seqeval.scheme import IOB2, Entities  # takes a second to import

    parsed = Entities([list(tags) for tags in sequences], IOB2, False)
    return {(e.sent_id, e.start, e.end, e.tag) for entities in parsed.entities for e in entities}


def _conlleval(sequences: Sequence[Sequence[str]]) -> set[tuple[int, int, int, str]]:
    """(0, first word, last + 1, type) of every chunk in all sentences set one after the other."""
    return {(0, *span) for span in tag_spans(list(chain.from_iterable(sequences)))}
