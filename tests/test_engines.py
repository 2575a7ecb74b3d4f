"""The reference engine against plain PyTorch, one window at a time; the batched engine against the reference."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, BATCHED, CORPUS, model_of
from torch import nn

from pymetaner.adaptation import adapt
from pymetaner.engine import InnerStep, Task, batched, batched_logits, reference_logits
from pymetaner.engine.bertadam import bertadam_update
from pymetaner.errors import SettingError, UnsupportedModelError
from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence

LONG = Sentence(
    tuple(word for s in CORPUS[:4] for word in s.words), tuple(tag for s in CORPUS[:4] for tag in s.tags or ())
)
TASKS = [
    Task(CORPUS[0], (CORPUS[1],)),
    Task(CORPUS[6], (CORPUS[7], CORPUS[2])),
    Task(CORPUS[14], ()),
    Task(LONG, (CORPUS[1], CORPUS[13], CORPUS[4], CORPUS[14])),
    Task(CORPUS[3], (LONG, CORPUS[5])),
    Task(CORPUS[8], (CORPUS[9], CORPUS[14], CORPUS[9])),
    Task(Sentence(()), (CORPUS[0],)),
    Task(CORPUS[10], (CORPUS[10],)),
]


def trained_parameters(network: nn.Module, freeze_layers: int) -> dict[str, nn.Parameter]:
    """By their names: those of the layers from `freeze_layers` on, and of the head."""
    found = {}
    for name, parameter in network.named_parameters():
        layer = re.search(r"\.layers?\.(\d+)\.", name)
        if (layer and int(layer[1]) >= freeze_layers) or not name.startswith(network.base_model_prefix + "."):
            found[name] = parameter
    return found


def one_by_one(model: MetaNER, network: nn.Module, sentence: Sentence) -> torch.Tensor:
    """(W, C) word logits, each window read alone and without padding."""
    rows = [
        network(input_ids=torch.tensor([window.ids])).logits[0, list(window.positions)]
        for window in model.words.windows([sentence])
    ]
    return torch.cat(rows)


def oracle(model: MetaNER, task: Task, optimizer_of, steps: int) -> np.ndarray:
    """Word logits of the query after plain steps on a deep copy."""
    if not task.query.words:
        return np.zeros((0, len(model.labels.tags)))
    network = copy.deepcopy(model.network).eval()
    parameters = trained_parameters(network, model.settings.freeze_layers)
    optimizer = optimizer_of(parameters)
    for _ in range(steps if task.supports else 0):
        network.zero_grad()
        losses = [
            nn.functional.cross_entropy(
                one_by_one(model, network, support),
                torch.tensor([model.labels.tags.index(tag) for tag in support.tags or ()]),
                reduction="none",
            )
            for support in task.supports
        ]
        torch.cat(losses).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return one_by_one(model, network, task.query).numpy()


class OfficialBertAdam:
    """BertAdam as published, its schedule left out: clip, moments without bias correction, decay by name."""

    def __init__(self, parameters: dict[str, nn.Parameter], lr: float) -> None:
        self.parameters, self.lr = parameters, lr
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self) -> None:
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            nn.utils.clip_grad_norm_(p, 1.0)
            m, v = self.moments[name]
            m.mul_(0.9).add_(p.grad, alpha=0.1)
            v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
            update = m / (v.sqrt() + 1e-6)
            if not (name.endswith("bias") or "norm" in name.lower()):
                update += 0.01 * p
            p.add_(update, alpha=-self.lr)


def largest_difference(one, other) -> float:
    assert [len(a) for a in one] == [len(b) for b in other]
    return max(float(np.abs(a - b).max(initial=0)) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reference_is_a_plain_step_of_sgd(name):
    model = model_of(name)
    expected = [oracle(model, task, lambda p: torch.optim.SGD(p.values(), lr=0.1), 1) for task in TASKS]
    found = reference_logits(model, TASKS, InnerStep(lr=0.1), batch_size=3)
    assert largest_difference(found, expected) < 1e-5
    plain = reference_logits(model, [replace(task, supports=()) for task in TASKS], InnerStep(lr=0.1), batch_size=3)
    assert largest_difference(plain, found) > 0.1
    assert np.array_equal(plain[2], found[2])


@pytest.mark.parametrize("name", ["bert", "modernbert"])
@pytest.mark.parametrize("steps", [1, 3])
def test_several_steps_of_either_optimiser(name, steps):
    model = model_of(name)
    adam = InnerStep(lr=0.01, steps=steps, optimizer="bertadam")
    expected = [oracle(model, task, lambda p: OfficialBertAdam(p, 0.01), steps) for task in TASKS[:5]]
    assert largest_difference(reference_logits(model, TASKS[:5], adam, batch_size=3), expected) < 1e-4
    expected = [oracle(model, task, lambda p: torch.optim.SGD(p.values(), lr=0.05), steps) for task in TASKS[:5]]
    found = reference_logits(model, TASKS[:5], InnerStep(lr=0.05, steps=steps), batch_size=3)
    assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_first_bertadam_step_in_closed_form(scale):
    torch.manual_seed(0)
    for weight in (torch.randn(5, 7, dtype=torch.float64), torch.randn(9, dtype=torch.float64)):
        gradient = scale * torch.randn_like(weight)
        clipped = gradient / max(1.0, gradient.norm().item() + 1e-6)
        decay = 0.01 * weight if weight.dim() > 1 else 0
        expected = weight - 3e-5 * (0.1 * clipped / (0.001**0.5 * clipped.abs() + 1e-6) + decay)
        bertadam_update("w", weight, gradient, {}, 3e-5)
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", BATCHED)
def test_batched_is_the_reference(name):
    model = model_of(name)
    inner = InnerStep(lr=0.1)
    assert (
        largest_difference(
            batched_logits(model, TASKS, inner, batch_size=4), reference_logits(model, TASKS, inner, batch_size=4)
        )
        < 1e-4
    )
    model.double()
    found = batched_logits(model, TASKS, inner, batch_size=4)
    assert found[0].dtype == np.float64
    rounding = 1e-7 if name == "modernbert" else 1e-9  # its rotary embedding is float32 whatever the model is
    assert largest_difference(found, reference_logits(model, TASKS, inner, batch_size=4)) < rounding


@pytest.mark.parametrize("freeze_layers", [0, 2, 3])
def test_batched_is_the_reference_whatever_is_frozen(freeze_layers):
    model = model_of("bert", freeze_layers=freeze_layers).double()
    inner = InnerStep(lr=0.3)
    expected = reference_logits(model, TASKS, inner, batch_size=4)
    assert largest_difference(batched_logits(model, TASKS, inner, batch_size=4), expected) < 1e-9
    naive = [oracle(model, task, lambda p: torch.optim.SGD(p.values(), lr=0.3), 1) for task in TASKS]
    assert largest_difference(expected, naive) < 1e-9


@pytest.mark.parametrize("name", ["bert", "modernbert"])
@pytest.mark.parametrize("engine", [batched_logits, reference_logits])
def test_batch_size_changes_nothing(name, engine):
    model = model_of(name)
    expected = engine(model, TASKS, InnerStep(lr=0.1), 100, False)
    for batch_size in (1, 2, 7):
        found = engine(model, TASKS, InnerStep(lr=0.1), batch_size, False)
        assert largest_difference(found, expected) < 1e-5


def test_many_long_supports_make_smaller_batches(monkeypatch):
    model, seen = model_of("bert"), []
    capture = batched._support_factors

    def noted(model, network, modules, supports):
        windows = model.words.windows(list(dict.fromkeys(s for group in supports for s in group)))
        seen.append(len(windows) * max(len(window.ids) for window in windows))
        return capture(model, network, modules, supports)

    monkeypatch.setattr(batched, "_support_factors", noted)
    tasks = [Task(query, tuple(CORPUS[i : i + 4])) for i, query in enumerate(CORPUS[:12])]
    expected = batched_logits(model, tasks, InnerStep(lr=0.1), 12)
    assert len(seen) == 1
    monkeypatch.setattr(batched, "_SUPPORT_PIECES", 400)
    found = batched_logits(model, tasks, InnerStep(lr=0.1), 12)
    assert largest_difference(found, expected) < 1e-5
    assert len(seen) > 3 and max(seen[1:]) <= 400


def test_a_repeated_support_weighs_twice():
    model = model_of("bert").double()
    query, one, two = CORPUS[0], CORPUS[1], CORPUS[4]
    inner = InnerStep(lr=0.1)
    tasks = [Task(query, (one, two)), Task(query, (one, one, two)), Task(query, (two, one, one))]
    once, twice, turned = batched_logits(model, tasks, inner, 8)
    assert np.abs(once - twice).max() > 1e-3
    assert np.abs(turned - twice).max() < 1e-12
    assert np.abs(reference_logits(model, tasks[1:2], inner, 8)[0] - twice).max() < 1e-9


@pytest.mark.parametrize(
    "changes", [{}, {"share_att_key": False}, {"relative_attention": False, "position_biased_input": True}]
)
def test_deberta_is_batched_only_where_that_is_exact(changes):
    from tiny import network_of, tokenizer_of

    settings = model_of("deberta-v2").settings
    model = MetaNER(network_of("deberta-v2", **changes), tokenizer_of("unigram"), settings=settings).double()
    inner = InnerStep(lr=0.1)
    expected = reference_logits(model, TASKS, inner, 4)
    naive = [oracle(model, task, lambda p: torch.optim.SGD(p.values(), lr=0.1), 1) for task in TASKS[:4]]
    assert largest_difference(expected[:4], naive) < 1e-9
    if "relative_attention" in changes:
        assert largest_difference(batched_logits(model, TASKS, inner, 4), expected) < 1e-9
        return
    for tasks in (TASKS, [TASKS[0], TASKS[0]]):  # one support window alone: the shape of relative positions
        with pytest.raises(UnsupportedModelError, match=r"use engine='reference'"):
            batched_logits(model, tasks, inner, 4)
    model.memory.add(CORPUS)
    auto, reference = (adapt(model, [CORPUS[0]], engine=engine, lr=0.1)[0] for engine in ("auto", "reference"))
    assert auto == reference
    with pytest.raises(UnsupportedModelError):
        adapt(model, [CORPUS[0]], engine="batched", lr=0.1)


def test_a_layer_that_nobody_calls_is_not_forgotten():
    model = model_of("bert")

    class Hidden(nn.Module):
        """Uses the weight of its layer without calling it."""

        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.inner.weight, self.inner.bias)

    layer = model.network.bert.encoder.layer[2].intermediate
    layer.dense = Hidden(layer.dense)
    with pytest.raises(UnsupportedModelError, match=r"layer\.2\.intermediate\.dense\.inner"):
        batched_logits(model, TASKS[:2], InnerStep(lr=0.1), 4)
    naive = [oracle(model, task, lambda p: torch.optim.SGD(p.values(), lr=0.1), 1) for task in TASKS[:2]]
    assert largest_difference(reference_logits(model, TASKS[:2], InnerStep(lr=0.1), 4), naive) < 1e-5


@pytest.mark.parametrize("inner", [InnerStep(lr=0.1, steps=2), InnerStep(lr=0.1, optimizer="bertadam")])
def test_batched_refuses_what_it_cannot_do(inner):
    with pytest.raises(SettingError, match="use engine='reference'"):
        batched_logits(model_of("bert"), TASKS, inner, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_run(dtype):
    model = model_of("bert").to(dtype)
    for engine in (batched_logits, reference_logits):
        found = engine(model, TASKS, InnerStep(lr=0.1), 4, False)
        exact = engine(model_of("bert"), TASKS, InnerStep(lr=0.1), 4, False)
        assert largest_difference(found, exact) < (1e-5 if dtype == torch.float64 else 3)
