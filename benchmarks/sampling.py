"""Some items of many, the same at every run."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

from pymetaner import Sentence

Item = TypeVar("Item")


def spread(items: Sequence[Item], most: int | None) -> Sequence[Item]:
    """At most so many of the items, spread over all; all of them if `most` is 0 or None."""
    return items[:: max(1, len(items) // most)][:most] if most else items


def drawn(sentences: Sequence[Sentence], size: int, draw: int, unseen: Iterable[Sentence]) -> list[Sentence]:
    """So many of the sentences by chance, all of them if there are no more; another draw has others.

    None has the words of an unseen one, on which what learns from them is scored: texts of a language's train and test
    sets do repeat. Others stand in for those that do, so that a draw without any is what it is without `unseen`.
    """
    repeated = {sentence.words for sentence in unseen}
    chance = random.Random(draw)
    first = chance.sample(range(len(sentences)), min(size, len(sentences)))
    others = sorted(set(range(len(sentences))) - set(first))
    chance.shuffle(others)
    allowed = (sentences[i] for i in (*first, *others) if sentences[i].words not in repeated)
    return list(islice(allowed, size))
