"""Scores of a model on labelled sentences, with and without adapting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pymetaner.blinding import aligned, blinded
from pymetaner.checks import check_model, instance
from pymetaner.engine import Computation, Precision
from pymetaner.errors import EmptyDataError
from pymetaner.learning import Learning
from pymetaner.model import MetaNER
from pymetaner.scoring import Score, Scoring, drop_types, score
from pymetaner.sentence import Sentence, check_sentences
from pymetaner.tagger import tag

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Scores on one set of sentences.

    Attributes:
        plain: the score without adapting.
        adapted: the score with adapting; None if it was not asked for.
        sentences: how many sentences were scored.
        changed: in how many of them adapting changed a tag.
        dropped: entity types that the model knows and the set does not, predicted as no entity.
        missing: entity types of the set that the model does not know; every one of them counts as missed.
        gold: the labelled tags of each sentence, one per word; where the model read other words (Chinese, raw text),
            one for each piece of text that no word of either is cut by.
        plain_tags: those predicted without adapting.
        adapted_tags: those predicted with adapting; the same if it was not asked for.
    """

    plain: Score
    adapted: Score | None
    sentences: int
    changed: int
    dropped: tuple[str, ...]
    missing: tuple[str, ...]
    gold: tuple[tuple[str, ...], ...] = field(repr=False)
    plain_tags: tuple[tuple[str, ...], ...] = field(repr=False)
    adapted_tags: tuple[tuple[str, ...], ...] = field(repr=False)


def evaluate(
    model: MetaNER,
    sentences: Iterable[Sentence],
    *,
    learning: Learning | None = None,
    scoring: Scoring = "strict",
    batch_size: int = 16,
    precision: Precision = "fp32",
    memory_bytes: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Precision, recall and F1 of a model on labelled sentences, plain and (given something to learn from) adapted.

    Args:
        model: the model.
        sentences: labelled sentences; a token list of single Chinese characters is regrouped into words for the model
            and scored by character, and words that were cut at the edges of labelled entities are cut anew without.
        learning: what to adapt on and how, from `pymetaner.learning_of`; None for the plain score alone.
        scoring: ``"strict"``, seqeval's strict IOB2 mode, or ``"conlleval"``, the official script's figure.
        batch_size: the most sentences in a batch.
        precision: of products, as for `pymetaner.adapt`.
        memory_bytes: what a batch may take, as for `pymetaner.adapt`.
        progress: show a progress bar.

    Raises:
        DataError, EmptyDataError: if something is not a sentence, or none is labelled.
        SettingError: if a setting is out of range, or the model is no `MetaNER`.
    """
    check_model(model)
    if learning is not None:
        instance("learning", learning, Learning, how="learning_of(model, k=2) of pymetaner.learning makes one")
    numbers, gold = [], []
    for i, sentence in enumerate(check_sentences(sentences)):
        if sentence.tags:
            numbers.append(i)
            gold.append(sentence)
    if not gold:
        raise EmptyDataError("no labelled sentence to score on: expected sentences with one tag per word")
    types = {name[2:] for sentence in gold for name in sentence.tags or () if name != "O"}
    blind = [blinded(sentence) for sentence in gold]
    computation = Computation(
        batch_size=batch_size, precision=precision, cache=model.cache, memory_bytes=memory_bytes, progress=progress
    )
    tagged, _ = tag(model, blind, learning, computation, numbers)
    truth: list[tuple[str, ...]] = []
    plain: list[tuple[str, ...]] = []
    adapted: list[tuple[str, ...]] = []
    for sentence, item in zip(gold, tagged, strict=True):
        expected, before = aligned(sentence, item.sentence, item.base_tags)
        truth.append(expected)
        plain.append(drop_types(before, types))
        adapted.append(drop_types(aligned(sentence, item.sentence, item.tags)[1], types))
    return Evaluation(
        plain=score(truth, plain, scoring=scoring),
        adapted=None if learning is None else score(truth, adapted, scoring=scoring),
        sentences=len(gold),
        changed=sum(before != after for before, after in zip(plain, adapted, strict=True)),
        dropped=tuple(sorted(model.types - types)),
        missing=tuple(sorted(types - model.types)),
        gold=tuple(truth),
        plain_tags=tuple(plain),
        adapted_tags=tuple(adapted),
    )
