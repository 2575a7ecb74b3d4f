"""The loss of base training: masked entity words, mean cross-entropy, and the worst word of each sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from pymetaner.ops import masked_token_loss
from pymetaner.windows import IGNORE

__all__ = ["batch_loss", "mask_entities"]


def mask_entities(input_ids: Tensor, labels: Tensor, outside: int, mask_id: int, probability: float) -> Tensor:
    """The pieces with every one that carries an entity tag replaced by the mask piece with some probability.

    Redrawn at each call, so that the model has to read entities off their context (Wu et al. 2020, section 3.3).

    Args:
        input_ids: (B, T) int64 pieces.
        labels: (B, T) int64 tag ids, IGNORE where a piece carries none.
        outside: the id of the tag ``"O"``.
        mask_id: the id of the mask piece.
        probability: of masking, 0 to 1.
    """
    entity = (labels != IGNORE) & (labels != outside)
    drawn = torch.rand(input_ids.shape, device=input_ids.device) < probability
    return torch.where(entity & drawn, mask_id, input_ids)


def batch_loss(logits: Tensor, labels: Tensor, lambda_max: float, *, words: int, sentences: int) -> Tensor:
    """A part of a batch's loss: mean cross-entropy of its words + `lambda_max` * mean of its sentences' largest one.

    Equations 9 and 10 of Wu et al. 2020. Unlike the mean of `masked_token_loss` over the rows, every word weighs the
    same here, however long its sentence. The parts of a batch add up to its loss, so a batch need not fit in memory.

    Args:
        logits: (B, T, C) of the part.
        labels: (B, T) int64, IGNORE where nothing counts.
        lambda_max: weight of the max term, 0 or more.
        words: labelled words in the whole batch.
        sentences: rows in the whole batch.
    """
    counted = (labels != IGNORE).sum(1).to(logits.dtype)
    means = masked_token_loss(logits, labels, 0.0)
    loss = (means * counted).sum() / words
    if lambda_max:
        loss = loss + lambda_max * (masked_token_loss(logits, labels, 1.0) - means).sum() / sentences
    return loss
