"""A step of meta-training: all tasks at once against the official procedure, one task after the other.

Random weights of BERT-base's shape, four layers frozen, random sentences of 15 to 40 pieces, two new supports per task,
first order, max term 2, no dropout, so that answers can be compared: the gradient of the step. The procedure is that of
Wu et al. (2020) written out: inner steps that move the weights, the gradient of the query added up, the weights copied
back; once with every sentence padded to 128 pieces, as in the official code, and once without that padding.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmarks.contest import OURS
from benchmarks.engine import DEVICE, model_of, synchronised, tasks_of
from pymetaner.engine.bertadam import BETA1, BETA2, CLIP, EPSILON, WEIGHT_DECAY
from pymetaner.model import MetaNER
from pymetaner.network import adapted_parameters
from pymetaner.objective import batch_loss
from pymetaner.training import MetaSettings, wu2020
from pymetaner.training.meta import MetaObjective
from pymetaner.windows import IGNORE, make_batch

Gradients = list[Tensor]
METAS = {
    "one SGD step": MetaSettings(lr=0.02, lambda_max=2.0, reduction="sum", dropout="none", plain_share=0.0),
    "wu2020": replace(wu2020.META, dropout="none", scheduled=False),
}
TASKS = 32 if DEVICE == "cuda" else 8  # on a CPU the cost is proportional to them
ALLOWED = 1e-4  # distance of two gradients over their length


class Case(NamedTuple):
    width: int
    tasks: int
    meta: str
    quick: bool

    @property
    def name(self) -> str:
        return f"12 x {self.width}, {self.tasks} tasks, {self.meta}"


CASES = [Case(384, 4, "one SGD step", quick=True)] + [Case(768, TASKS, meta, quick=False) for meta in METAS]


@functools.cache
def objective_of(case: Case) -> MetaObjective:
    model, tasks = model_of(case.width), tasks_of(case.tasks)
    sentences = [task.query for task in tasks]
    tag_ids = [model.labels.encode(sentence.tags or ()) for sentence in sentences]
    settings = replace(wu2020.TRAIN, batch_size=case.tasks, mask_probability=0.0)
    objective = MetaObjective(model, sentences, tag_ids, settings, METAS[case.meta])
    # Supports that no other task has: the most work there can be.
    objective.batches.items = list(zip(tasks, tag_ids, strict=True))
    return objective


def ours(case: Case) -> Gradients:
    model, objective = model_of(case.width), objective_of(case)
    parameters = _trained(model, model.network)
    for parameter in parameters:
        parameter.grad = None
    objective.backward(0, share=1.0)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def sequential(case: Case, *, pieces: int = 0) -> Gradients:
    """The procedure, sentences padded to so many pieces at least."""
    model, inner = model_of(case.width), METAS[case.meta].inner()
    assert isinstance(inner.lr, float)
    network = _copy_of(case.width)
    weights = _trained(model, network)
    start = [weight.detach().clone() for weight in weights]
    total = [torch.zeros_like(weight) for weight in weights]
    for task in tasks_of(case.tasks):
        moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights if inner.optimizer == "bertadam"]
        for _ in range(inner.steps):
            gradients = torch.autograd.grad(_loss(model, network, task.supports, pieces), weights)
            with torch.no_grad():
                for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                    if inner.optimizer == "sgd":
                        weight.sub_(gradient, alpha=inner.lr)
                    else:
                        _bertadam(weight, gradient, *moments[i], inner.lr)
        gradients = torch.autograd.grad(_loss(model, network, [task.query], pieces), weights)
        with torch.no_grad():
            for added, gradient, weight, before in zip(total, gradients, weights, start, strict=True):
                added += gradient
                weight.copy_(before)
    return total


def _bertadam(weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, lr: float) -> None:
    """A step as the official optimiser takes it, operation by operation."""
    gradient.mul_((CLIP / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1.0))
    first.mul_(BETA1).add_(gradient, alpha=1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    update = first / (second.sqrt() + EPSILON)
    if weight.dim() > 1:
        update += WEIGHT_DECAY * weight
    weight.add_(-(lr * update))


def _loss(model: MetaNER, network: nn.Module, sentences: Any, pieces: int) -> Tensor:
    windows = model.words.windows(sentences)
    batch = make_batch(windows, model.pad_id).to(model.device)
    labels = batch.labels([model.labels.encode(sentence.tags or ()) for sentence in sentences])
    padding = (0, max(0, pieces - labels.shape[1]))
    logits = network(
        input_ids=pad(batch.input_ids, padding, value=model.pad_id), attention_mask=pad(batch.attention_mask, padding)
    ).logits
    labelled = sum(window.labelled(None) for window in windows)
    return batch_loss(logits, pad(labels, padding, value=IGNORE), 2.0, pieces=labelled, sentences=len(windows))


@functools.cache
def _copy_of(width: int) -> nn.Module:
    return copy.deepcopy(model_of(width).network)


def _trained(model: MetaNER, network: Any) -> list[nn.Parameter]:
    """What learns; the rest of the network stands still."""
    parameters = list(adapted_parameters(network, model.settings.freeze_layers).values())
    network.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


CONTENDERS: dict[str, Callable[[Case], Gradients]] = {
    OURS: ours,
    "official procedure": functools.partial(sequential, pieces=128),
    "official procedure without its padding": sequential,
}
_answers: dict[Case, Gradients] = {}


def test_meta(benchmark: Any, case: Case, contender: str) -> None:
    run = CONTENDERS[contender]
    run(case)  # warms up: memory that is new would cost as much as some tasks
    benchmark.group = case.name
    benchmark.extra_info.update(contender=contender, dtype="float32", device=DEVICE)
    answer = benchmark.pedantic(synchronised, args=(run, case), rounds=1, iterations=1)
    if contender == OURS:
        _answers[case] = [gradient.clone() for gradient in answer]
    else:
        pairs = list(zip(_answers[case], answer, strict=True))
        distance = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
        length = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
        assert distance < ALLOWED * length, f"{case.name}: {distance / length} of the gradient is off"
