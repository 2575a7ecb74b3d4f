"""Word logits to tags and their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pymetaner.errors import NumericsError
from pymetaner.labels import LabelScheme

__all__ = ["decode"]


def decode(
    logits: Sequence[NDArray[np.floating[Any]]], labels: LabelScheme, how: str, numbers: Sequence[int] | None = None
) -> list[tuple[tuple[str, ...], NDArray[np.float64]]]:
    """IOB2 tags, and the probability that the softmax gives each, of every sentence.

    Args:
        logits: (W, C) a sentence; W may differ and may be 0.
        labels: the label scheme of the C logits.
        how: ``"viterbi"`` for the most probable sequence that is valid in the scheme, ``"argmax"`` for the most
            probable tag of each word, a stray ``I-`` then opening an entity.
        numbers: of each sentence, for errors: its place in what the caller was given, or its id; by default its
            place in `logits`.

    Raises:
        NumericsError: if a logit is not finite.
    """
    results = []
    for number, rows in zip(range(len(logits)) if numbers is None else numbers, logits, strict=True):
        if not np.isfinite(rows).all():
            raise NumericsError(
                f"the logits of sentence {number} are not finite: the model's weights hold NaN or infinity, or "
                "adapting took far too large a step; give a smaller lr or lambda_max"
            )
        scores = rows.astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        best = scores.argmax(axis=1)
        if how == "viterbi" and not _valid(best, labels.transitions):
            best = _viterbi(scores, labels.transitions)
        results.append((labels.decode(best.tolist()), np.exp(scores[np.arange(len(best)), best])))
    return results


def _valid(ids: NDArray[np.intp], allowed: NDArray[np.bool_]) -> bool:
    """Whether every tag may follow the one before it."""
    before = np.concatenate([[len(allowed) - 1], ids[:-1]])
    return bool(allowed[before[: len(ids)], ids].all())


def _viterbi(scores: NDArray[np.float64], allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The valid sequence of the largest summed score; on ties the lower tag id. `scores` is (W, C), W at least 1."""
    penalty = np.where(allowed, 0.0, -np.inf)
    path = scores[0] + penalty[-1]
    came_from = []
    for row in scores[1:]:
        through = path[:, None] + penalty[:-1]
        origin = through.argmax(axis=0)
        came_from.append(origin)
        path = through[origin, np.arange(len(row))] + row
    best = [int(path.argmax())]
    for origin in reversed(came_from):
        best.append(int(origin[best[-1]]))
    return np.array(best[::-1], dtype=np.intp)
