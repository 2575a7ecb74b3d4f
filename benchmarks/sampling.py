"""Some items of many, the same at every run."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from pymetaner import Sentence

Item = TypeVar("Item")


def spread(items: Sequence[Item], most: int | None) -> Sequence[Item]:
    """At most so many of the items, spread over all; all of them if `most` is 0 or None.

    The figures are of these, which leave the end out where the items do not divide; `pymetaner.sampling` does not.
    """
    return items[:: max(1, len(items) // most)][:most] if most else items


def drawn(sentences: Sequence[Sentence], size: int, draw: int, unseen: Iterable[Sentence]) -> list[Sentence]:
    """So many of the sentences by chance, all of them if there are no more; another draw has others.

    None has the words of an unseen one, on which what learns from them is scored: texts of a language's train and test
    sets do repeat. Others stand in for those that do, so that a draw without any is what it is without `unseen`.
    """
    chance = random.Random(draw)
    first = chance.sample(range(len(sentences)), min(size, len(sentences)))
    others = sorted(set(range(len(sentences))) - set(first))
    chance.shuffle(others)
    return list(islice(without((sentences[i] for i in (*first, *others)), unseen), size))


def without(sentences: Iterable[Sentence], unseen: Iterable[Sentence]) -> Iterator[Sentence]:
    """Those of the sentences that have the words of no unseen one."""
    repeated = {sentence.words for sentence in unseen}
    return (sentence for sentence in sentences if sentence.words not in repeated)
