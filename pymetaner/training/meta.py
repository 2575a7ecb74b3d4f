"""Meta-training: pseudo-tasks of a sentence and its nearest neighbours, so that one step on neighbours is enough.

For each task the weights take inner steps on the supports, and are moved by the gradient of the masked query's loss at
the weights they arrive at (Wu et al. 2020, sections 3.2 and 3.3; Finn et al. 2017). The batched engine does all tasks
of a step together, but for BertAdam on a CPU, where one after the other is faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pymetaner.engine import Computation, MetaLearner, SequentialMetaLearner, Task
from pymetaner.errors import EmptyDataError
from pymetaner.model import MetaNER
from pymetaner.objective import Batches, batch_loss, mask_entities, masking
from pymetaner.ops import cosine_topk
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings
from pymetaner.training.settings import MetaSettings, TrainSettings
from pymetaner.windows import Batch

__all__ = ["MetaObjective", "cls_vectors", "pseudo_tasks"]

_RATES = "inner step sizes"


class MetaObjective:
    """The loss of masked queries after the inner steps on their neighbours.

    Attributes:
        fingerprint: of the weights whose vectors picked the neighbours.

    Args:
        model: the model; its vectors pick the neighbours.
        sentences: labelled sentences, two or more.
        tag_ids: of each sentence.
        settings: of the run.
        meta: of the inner steps.

    Raises:
        EmptyDataError: if there is only one sentence, which has no neighbour.
        UnsupportedModelError: if the batched engine cannot adapt the network.
    """

    def __init__(
        self,
        model: MetaNER,
        sentences: Sequence[Sentence],
        tag_ids: Sequence[Sequence[int]],
        settings: TrainSettings,
        meta: MetaSettings,
    ) -> None:
        self.model = model
        self.settings = settings
        self.meta = meta
        self.outside, self.mask_id = masking(model, settings)
        self.inner = meta.inner()
        self.first = round(settings.steps * meta.plain_share)  # step in which tasks take inner steps
        embedder = _cls_model(model) if meta.vectors == "cls" else model
        self.fingerprint = embedder.fingerprint
        tasks = pseudo_tasks(sentences, embedder.embed(sentences), meta.k, leave_out=meta.leave_out)
        self.batches = Batches(list(zip(tasks, tag_ids, strict=True)), settings)
        self.learner = _learner(model, settings, meta)
        self.groups = self.learner.groups
        assert not isinstance(self.inner.lr, tuple)  # MetaSettings takes a number
        logarithms = torch.full((len(self.groups),), self.inner.lr, device=model.device, dtype=torch.float64).log()
        self.rates = nn.Parameter(logarithms, requires_grad=meta.learn_rates)
        self.parameters = {_RATES: self.rates} if meta.learn_rates else {}

    def backward(self, step: int, share: float) -> float:
        """Adds the gradients of a step; its loss."""
        drawn = self.batches[step]
        tasks = [task for task, _ in drawn]
        if step < self.first:
            tasks = [Task(task.query, ()) for task in tasks]
            self.rates.grad = torch.zeros_like(self.rates)  # the optimiser's moments of all parameters begin together
        tag_ids = [ids for _, ids in drawn]
        others, lambda_max = self.model.words.others, self.settings.lambda_max
        windows = self.model.words.windows([task.query for task in tasks])
        of_task = np.array([window.sentence for window in windows])
        pieces = np.bincount(of_task, [window.labelled(others) for window in windows]).astype(np.int64)
        counts = np.bincount(of_task)

        def masked(batch: Batch) -> Tensor:
            labels = batch.labels(tag_ids, others)
            return mask_entities(batch.input_ids, labels, self.outside, self.mask_id, self.settings.mask_probability)

        def loss_of(batch: Batch, logits: Tensor) -> Tensor:
            labels = batch.labels(tag_ids, others)
            if self.meta.reduction == "mean":
                return batch_loss(logits, labels, lambda_max, pieces=int(pieces.sum()), sentences=len(windows))
            rows = [window.sentence for window in batch.windows]
            of_row = [torch.from_numpy(each[rows]).to(logits.device) for each in (pieces, counts)]
            return batch_loss(logits, labels, lambda_max, pieces=of_row[0], sentences=of_row[1])

        tensor = self.rates.exp() * (share if self.meta.scheduled else 1.0)
        rates = tensor if self.meta.learn_rates else tensor.tolist()  # numbers, so that a GPU need not be waited for
        by_module: Any = {name: rates[i] for i, group in enumerate(self.groups) for name in group}
        # Batches that share a graph, of step sizes or of supports, go back together.
        together = self.meta.learn_rates or self.meta.order == 2
        whole: Tensor | None = None
        loss: Tensor | float = 0.0
        for batch, logits in self.learner.logits(tasks, rates=by_module, edit=masked):
            part = loss_of(batch, logits)
            loss = loss + part.detach()
            if together:
                whole = part if whole is None else whole + part
            else:
                part.backward()
        if whole is not None:
            whole.backward()
        return float(loss)

    def settings_after(self, settings: Settings) -> Settings:
        """The model's settings with the inner step size that it was trained for."""
        trained = tuple(self.rates.detach().exp().tolist()) if self.meta.learn_rates else self.inner.lr
        own = trained if self.meta.final_lr is None else self.meta.final_lr
        return replace(settings, lr={**settings.lr, self.inner.optimizer: own})


def _learner(model: MetaNER, settings: TrainSettings, meta: MetaSettings) -> MetaLearner | SequentialMetaLearner:
    """What takes the inner steps.

    A step of BertAdam has no thin form: the batched engine makes its matrices anew in every pass, which a GPU does in
    less time than it takes to launch what the loop does, and a CPU does not.
    """
    inner = meta.inner()
    computation = Computation(batch_size=settings.batch_size, precision=settings.precision)
    if inner.optimizer == "bertadam" and meta.order == 1 and not meta.learn_rates and model.device.type == "cpu":
        return SequentialMetaLearner(model, inner, computation=computation, dropout=meta.dropout)
    return MetaLearner(model, inner, order=meta.order, computation=computation, dropout=meta.dropout)


def cls_vectors(model: MetaNER, sentences: Iterable[Sentence]) -> NDArray[np.float32]:
    """(n, d) unit vectors: the first hidden state that the encoder gives for each sentence after its last layer."""
    return _cls_model(model).embed(sentences)


def _cls_model(model: MetaNER) -> MetaNER:
    settings = replace(model.settings, freeze_layers=0, pooling="cls")
    return MetaNER(model.network, model.tokenizer, labels=model.labels, settings=settings)


def pseudo_tasks(
    sentences: Sequence[Sentence],
    vectors: NDArray[np.float32],
    k: int,
    *,
    leave_out: Literal["itself", "best"] = "itself",
) -> list[Task]:
    """A task for each sentence: its supports are the `k` others that are most similar to it.

    Args:
        sentences: n sentences.
        vectors: (n, d), of each.
        k: supports of a task, 1 or more.
        leave_out: the sentence itself, or the best hit, which may be another one with the same words.

    Raises:
        EmptyDataError: if there is only one sentence.
    """
    if len(sentences) < 2:
        raise EmptyDataError("one sentence has no neighbour to learn from: expected two or more for meta-training")
    k = min(k, len(sentences) - 1)
    if leave_out == "best":
        nearest = cosine_topk(vectors, vectors, k + 1)[1][:, 1:]
    else:
        nearest = cosine_topk(vectors, vectors, k, np.arange(len(sentences), dtype=np.int64))[1]
    return [
        Task(sentence, tuple(sentences[i] for i in found))
        for sentence, found in zip(sentences, nearest.tolist(), strict=True)
    ]
