"""Meta-training: pseudo-tasks of a sentence and its nearest neighbours, so that one step on neighbours is enough.

For each task the weights take inner steps on the supports, and are moved by the gradient of the masked query's loss at
the weights they arrive at (Wu et al. 2020, sections 3.2 and 3.3; Finn et al. 2017). The batched engine does all tasks
of a step together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from pymetaner.engine import Computation, MetaLearner, Task
from pymetaner.errors import EmptyDataError
from pymetaner.model import MetaNER
from pymetaner.ops import cosine_topk
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings
from pymetaner.training.objective import Batches, batch_loss, mask_entities, masking
from pymetaner.training.settings import MetaSettings, TrainSettings
from pymetaner.windows import Batch

__all__ = ["MetaObjective", "pseudo_tasks"]

_RATES = "inner step sizes"


class MetaObjective:
    """The loss of masked queries after the inner steps on their neighbours.

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
        tasks = pseudo_tasks(model, sentences, meta.k)
        self.batches = Batches(list(zip(tasks, tag_ids, strict=True)), settings)
        self.learner = MetaLearner(
            model,
            self.inner,
            order=meta.order,
            computation=Computation(batch_size=settings.batch_size, precision=settings.precision),
        )
        self.groups = self.learner.groups
        assert not isinstance(self.inner.lr, tuple)  # MetaSettings takes a number
        logarithms = torch.full((len(self.groups),), self.inner.lr, device=model.device, dtype=torch.float64).log()
        self.rates = nn.Parameter(logarithms, requires_grad=meta.learn_rates)
        self.parameters = {_RATES: self.rates} if meta.learn_rates else {}

    def backward(self, step: int, share: float) -> float:
        """Adds the gradients of a step; its loss."""
        drawn = self.batches[step]
        tasks = [task for task, _ in drawn]
        tag_ids = [ids for _, ids in drawn]
        words = sum(len(task.query) for task in tasks)
        windows = len(self.model.words.windows([task.query for task in tasks]))

        def masked(batch: Batch) -> Tensor:
            labels = batch.labels(tag_ids)
            return mask_entities(batch.input_ids, labels, self.outside, self.mask_id, self.settings.mask_probability)

        rates = self.rates.exp() * (share if self.meta.scheduled else 1.0)
        by_module = {name: rates[i] for i, group in enumerate(self.groups) for name in group}
        # Batches that share a graph, of step sizes or of supports, go back together.
        together = self.meta.learn_rates or self.meta.order == 2
        whole: Tensor | None = None
        loss: Tensor | float = 0.0
        for batch, logits in self.learner.logits(tasks, rates=by_module, edit=masked):
            part = batch_loss(logits, batch.labels(tag_ids), self.settings.lambda_max, words=words, sentences=windows)
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
        return replace(settings, lr={**settings.lr, self.inner.optimizer: trained})


def pseudo_tasks(model: MetaNER, sentences: Sequence[Sentence], k: int) -> list[Task]:
    """A task for each sentence: its supports are the `k` others that are most similar to it.

    Raises:
        EmptyDataError: if there is only one sentence.
    """
    if len(sentences) < 2:
        raise EmptyDataError("one sentence has no neighbour to learn from: expected two or more for meta-training")
    vectors = model.embed(sentences)
    itself = np.arange(len(sentences), dtype=np.int64)
    _, nearest = cosine_topk(vectors, vectors, min(k, len(sentences) - 1), itself)
    return [
        Task(sentence, tuple(sentences[i] for i in found))
        for sentence, found in zip(sentences, nearest.tolist(), strict=True)
    ]
