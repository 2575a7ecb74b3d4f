"""Sentence vectors: one unit vector per sentence from the hidden states of its windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pymetaner.windows import Batch

__all__ = ["Pool"]


class Pool:
    """Gathers the vectors of some sentences, window by window.

    Args:
        count: how many sentences.
        dim: the width of the hidden states.
        how: ``"mean"`` over all pieces of a sentence, or ``"cls"``, the first of each window.
    """

    def __init__(self, count: int, dim: int, how: str) -> None:
        self.how = how
        self.sums: NDArray[np.float64] = np.zeros((count, dim), dtype=np.float64)

    def add(self, batch: Batch, hidden: Tensor) -> None:
        """Take in the hidden states (B, T, d) of a batch; a long window of a sentence weighs more than a short one."""
        if self.how == "cls":
            vectors = hidden[:, 0].float() * batch.attention_mask.sum(1, keepdim=True)
        else:
            vectors = (hidden.float() * batch.attention_mask.unsqueeze(-1)).sum(1)
        rows: Sequence[int] = [window.sentence for window in batch.windows]
        np.add.at(self.sums, rows, vectors.cpu().numpy())

    def unit(self) -> NDArray[np.float32]:
        """(count, dim) unit vectors; zero for a sentence without words."""
        norms = np.linalg.norm(self.sums, axis=1, keepdims=True)
        return (self.sums / np.where(norms > 0, norms, 1)).astype(np.float32)
