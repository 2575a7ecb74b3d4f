"""What a step of training lowers: masked entity words, mean cross-entropy, and the worst word of each sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pymetaner.errors import NumericsError, SettingError
from pymetaner.model import MetaNER
from pymetaner.ops import masked_token_loss
from pymetaner.windows import IGNORE, Batch, Window, make_batch, pack

__all__ = [
    "BaseObjective",
    "Batches",
    "Drawing",
    "Objective",
    "batch_loss",
    "check_finite",
    "mask_entities",
    "masking",
    "parts",
]

Item = TypeVar("Item")

_PART = 4096  # pieces, padding included, that pass forward and backward together: bounds the activations in memory


class Objective(Protocol):
    """What a step of training lowers.

    Attributes:
        parameters: what it learns besides the network's weights, by name.
    """

    parameters: dict[str, nn.Parameter]

    def backward(self, step: int, share: float) -> float:
        """Adds the gradients of a step; its loss. `share` is the learning rate's share of its peak."""


class Drawing(Protocol):
    """What is drawn for a step and how it is weighed: a part of the settings of a training run or of fine-tuning."""

    @property
    def batch_size(self) -> int:
        """Windows a step."""

    @property
    def mask_probability(self) -> float:
        """Of replacing a piece with an entity tag by the mask piece, 0 to 1."""

    @property
    def lambda_max(self) -> float:
        """Weight of the largest token loss of each sentence."""

    @property
    def seed(self) -> int:
        """Fixes the order of the windows."""


def check_finite(step: int, loss: float, weights: Iterable[Tensor] = ()) -> None:
    """Checks that a step left numbers.

    Raises:
        NumericsError: if the loss or a weight is not finite.
    """
    if not math.isfinite(loss) or not all(bool(weight.isfinite().all()) for weight in weights):
        raise NumericsError(
            f"training went astray: at step {step} the loss is {loss:g}, or a weight is not finite; give a smaller "
            "lr or lambda_max"
        )


def mask_entities(
    input_ids: Tensor, labels: Tensor, outside: Sequence[int], mask_id: int, probability: float
) -> Tensor:
    """The pieces with every one that carries an entity tag replaced by the mask piece with some probability.

    Redrawn at each call, so that the model has to read entities off their context (Wu et al. 2020, section 3.3).

    Args:
        input_ids: (B, T) int64 pieces.
        labels: (B, T) int64 tag ids, IGNORE where a piece carries none.
        outside: the ids of the tags that stand for no entity.
        mask_id: the id of the mask piece.
        probability: of masking, 0 to 1.
    """
    entity = ~torch.isin(labels, labels.new_tensor([IGNORE, *outside]))
    # Of one type whatever the default is, so that a seed always draws the same.
    drawn = torch.rand(input_ids.shape, dtype=torch.float32, device=input_ids.device) < probability
    return torch.where(entity & drawn, mask_id, input_ids)


def masking(model: MetaNER, settings: Drawing) -> tuple[tuple[int, ...], int]:
    """The ids of the tags that stand for no entity, and of the mask piece.

    Raises:
        SettingError: if the run masks and the tokenizer has no mask piece.
    """
    mask_id = model.tokenizer.mask_token_id
    if settings.mask_probability and mask_id is None:
        raise SettingError("the tokenizer has no mask piece: train with mask_probability=0")
    return model.labels.outside, int(mask_id or 0)


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
    counted = (labels != IGNORE).sum(1)  # in whole numbers: bfloat16 would round what is above 256
    means = masked_token_loss(logits, labels, 0.0)
    loss = (means * counted / pieces).sum()
    if lambda_max:
        loss = loss + lambda_max * ((masked_token_loss(logits, labels, 1.0) - means) / sentences).sum()
    return loss


class BaseObjective:
    """Plain training: the loss of a batch of windows, dropout on.

    Args:
        model: the model.
        windows: what is trained on.
        tag_ids: of each sentence.
        settings: of the run.
    """

    def __init__(
        self,
        model: MetaNER,
        windows: Sequence[Window],
        tag_ids: Sequence[Sequence[int]],
        settings: Drawing,
    ) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self.model = model
        self.tag_ids = tag_ids
        self.settings = settings
        self.batches = Batches(windows, settings)
        self.outside, self.mask_id = masking(model, settings)

    def backward(self, step: int, share: float) -> float:
        """Adds the gradients of a step; its loss."""
        settings, windows = self.settings, self.batches[step]
        if not self.model.network.training:  # going through all modules takes as long as a layer
            self.model.network.train()
        loss: Tensor | float = 0.0
        for batch, labels, total in parts(self.model, windows, self.tag_ids):
            ids = mask_entities(batch.input_ids, labels, self.outside, self.mask_id, settings.mask_probability)
            logits = self.model(ids, batch.attention_mask)
            part = batch_loss(logits, labels, settings.lambda_max, pieces=total, sentences=len(windows))
            part.backward()
            loss = loss + part.detach()
        return float(loss)


class Batches(Generic[Item]):
    """The items of every step, in a fresh random order each epoch.

    Short and long sentences stay mixed: batches of like lengths pad less, but cost transfer (four F1 in Spanish); the
    padding is saved by passing a batch in parts.
    """

    def __init__(self, items: Sequence[Item], settings: Drawing) -> None:
        self.items = items
        self.settings = settings
        self.per_epoch = math.ceil(len(items) / settings.batch_size)
        self._epoch: tuple[int, list[int]] = (-1, [])

    def __getitem__(self, step: int) -> list[Item]:
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(self.settings.seed * 7_919 + epoch)
            self._epoch = (epoch, torch.randperm(len(self.items), generator=generator).tolist())
        size = self.settings.batch_size
        return [self.items[i] for i in self._epoch[1][place * size : (place + 1) * size]]


def parts(
    model: MetaNER, windows: Sequence[Window], tag_ids: Sequence[Sequence[int]]
) -> Iterator[tuple[Batch, Tensor, int]]:
    """The windows in parts of like length and bounded size, each with its labels and the labelled pieces of all."""
    others = model.words.others
    total = sum(window.labelled(others) for window in windows)
    lengths = [len(window.ids) for window in windows]
    for group in pack(lengths, len(windows), pieces=_PART, overhead=model.pass_overhead):
        batch = make_batch([windows[i] for i in group], model.pad_id).to(model.device)
        yield batch, batch.labels(tag_ids, others), total
