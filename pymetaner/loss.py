"""The loss of a batch that may pass in parts: what training and the full-batch engine lower."""

from __future__ import annotations

from torch import Tensor

from pymetaner.ops import masked_token_loss
from pymetaner.windows import IGNORE

__all__ = ["batch_loss"]


def batch_loss(
    logits: Tensor, labels: Tensor, lambda_max: float, *, pieces: int | Tensor, sentences: int | Tensor
) -> Tensor:
    """A part of a batch's loss: mean cross-entropy of its words + `lambda_max` * mean of its sentences' largest one.

    Equations 9 and 10 of Wu et al. 2020. Unlike the mean of `masked_token_loss` over the rows, every word weighs the
    same here, however long its sentence. The parts of a batch add up to its loss, so a batch need not fit in memory.
    Given the counts of each row's own task instead, it is a part of the sum of the tasks' losses.

    Args:
        logits: (B, T, C) of the part.
        labels: (B, T) int64, IGNORE where nothing counts.
        lambda_max: weight of the max term, 0 or more.
        pieces: labelled ones in the whole batch, or (B,) in the task of each row.
        sentences: rows in the whole batch, or (B,) of the task of each row.
    """
    counted = (labels != IGNORE).sum(1).to(logits.dtype)
    means = masked_token_loss(logits, labels, 0.0)
    loss = (means * counted / pieces).sum()
    if lambda_max:
        loss = loss + lambda_max * ((masked_token_loss(logits, labels, 1.0) - means) / sentences).sum()
    return loss
