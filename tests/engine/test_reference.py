"""The reference engine against plain PyTorch, one window at a time."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tasks import TASKS, batched, largest_difference, reference
from tiny import ARCHITECTURES, CORPUS, model_of
from torch import nn

from pymetaner.engine import Computation, InnerStep, Task, Work, batched_logits, reference_logits
from pymetaner.engine.bertadam import bertadam_update, steps_of, steps_of_, zero_moments
from pymetaner.errors import SettingError
from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence


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


def word_losses(model: MetaNER, network: nn.Module, task: Task) -> list[torch.Tensor]:
    """The loss of every word of each support."""
    return [
        nn.functional.cross_entropy(
            one_by_one(model, network, support),
            torch.tensor([model.labels.tags.index(tag) for tag in support.tags or ()]),
            reduction="none",
        )
        for support in task.supports
    ]


def oracle(model: MetaNER, task: Task, optimizer_of, steps: int) -> np.ndarray:
    """Word logits of the query after plain steps on a deep copy."""
    if not task.query.words:
        return np.zeros((0, len(model.labels.tags)))
    network = copy.deepcopy(model.network).eval()
    parameters = trained_parameters(network, model.settings.freeze_layers)
    optimizer = optimizer_of(parameters)
    for _ in range(steps if task.supports else 0):
        network.zero_grad()
        losses = word_losses(model, network, task)
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


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reference_is_a_plain_step_of_sgd(name):
    model = model_of(name)
    expected = [oracle(model, task, lambda p: torch.optim.SGD(p.values(), lr=0.1), 1) for task in TASKS]
    found = reference(model, TASKS, InnerStep(lr=0.1))
    assert largest_difference(found, expected) < 1e-5
    plain = reference(model, [replace(task, supports=()) for task in TASKS], InnerStep(lr=0.1))
    assert largest_difference(plain, found) > 0.1
    assert np.array_equal(plain[2], found[2])


@pytest.mark.parametrize("name", ["bert", "modernbert"])
@pytest.mark.parametrize("steps", [1, 3])
def test_several_steps_of_either_optimiser(name, steps):
    model = model_of(name)
    adam = InnerStep(lr=0.01, steps=steps, optimizer="bertadam")
    expected = [oracle(model, task, lambda p: OfficialBertAdam(p, 0.01), steps) for task in TASKS[:5]]
    assert largest_difference(reference(model, TASKS[:5], adam), expected) < 1e-4
    expected = [oracle(model, task, lambda p: torch.optim.SGD(p.values(), lr=0.05), steps) for task in TASKS[:5]]
    found = reference(model, TASKS[:5], InnerStep(lr=0.05, steps=steps))
    assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_first_bertadam_step_in_closed_form(scale):
    torch.manual_seed(0)
    for weight in (torch.randn(5, 7, dtype=torch.float64), torch.randn(9, dtype=torch.float64)):
        gradient = scale * torch.randn_like(weight)
        clipped = gradient / max(1.0, gradient.norm().item() + 1e-6)
        decay = 0.01 * weight if weight.dim() > 1 else 0
        expected = weight - 3e-5 * (0.1 * clipped / (0.001**0.5 * clipped.abs() + 1e-6) + decay)
        bertadam_update(weight, gradient, torch.zeros_like(weight), torch.zeros_like(weight), 3e-5)
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("view", [lambda w: w.t(), lambda w: w[:, 1:4], lambda w: w[::2]])
def test_bertadam_steps_of_weights_and_gradients_that_are_laid_out_otherwise(view):
    torch.manual_seed(0)
    weight = view(torch.randn(5, 7, dtype=torch.float64))
    gradients = [torch.randn(weight.shape, dtype=torch.float64) for _ in range(2)]
    expected = weight.clone(memory_format=torch.contiguous_format)
    for moved in (expected, weight):
        first, second = torch.zeros_like(moved), torch.zeros_like(moved)
        for gradient in gradients:
            bertadam_update(moved, gradient.clone(), first, second, 1e-2)
    torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-9, 1e-2, 10.0])
@pytest.mark.parametrize("shape", [(5, 7), (9,)])
def test_bertadam_steps_with_moments_kept_as_means_are_the_same(scale, shape):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    expected, zeros = weight.clone(), (torch.zeros_like(weight), torch.zeros_like(weight))
    means = torch.full_like(weight, 1e5), torch.full_like(weight, 1e5)  # what an earlier run of steps has left
    for step in range(1, 5):
        gradient = scale * torch.randn(shape, dtype=torch.float64)
        bertadam_update(expected, gradient.clone(), *zeros, 1e-2)
        bertadam_update(weight, gradient, *means, 1e-2, step=step)
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-5, 1e-2])
def test_bertadam_steps_of_float16_weights(scale):
    torch.manual_seed(0)
    gradients = [scale * torch.randn(50, 70) for _ in range(3)]
    moved = {}
    for kind in (torch.float64, torch.float16):
        weight = torch.zeros(50, 70, dtype=kind)
        moments = zero_moments(weight)
        for step, gradient in enumerate(gradients, 1):
            bertadam_update(weight, gradient.to(kind), *moments, 1e-3, step=step)
        moved[kind] = weight.double()
    assert (moved[torch.float16] - moved[torch.float64]).norm() < 0.005 * moved[torch.float64].norm()


@pytest.mark.parametrize("steps", [1, 2])
def test_a_weight_of_two_layers_moves_by_the_gradients_of_both(steps):
    model = model_of("bert").double()
    layers = model.network.bert.encoder.layer
    layers[2].output.dense.weight = layers[1].output.dense.weight
    tasks = TASKS[:5]
    expected = [oracle(model, task, lambda p: torch.optim.SGD(p.values(), lr=0.1), steps) for task in tasks]
    for lr in (0.1, (0.1, 0.1, 0.1)):
        assert largest_difference(reference(model, tasks, InnerStep(lr, steps)), expected) < 1e-9
    expected = [oracle(model, task, lambda p: OfficialBertAdam(p, 0.01), steps) for task in tasks]
    assert largest_difference(reference(model, tasks, InnerStep(0.01, steps, "bertadam")), expected) < 1e-9
    with pytest.raises(SettingError, match=r"layer\.2\.output\.dense.*share a weight.*0\.2 and 0\.1"):
        reference(model, tasks, InnerStep((0.1, 0.2, 0.1)))


@pytest.mark.parametrize("lambda_max", [0.0, 1.0])
@pytest.mark.parametrize("optimizer", ["sgd", "bertadam"])
@pytest.mark.parametrize("engine", [reference, batched])
def test_a_task_that_ends_in_no_numbers_spoils_no_other(engine, optimizer, lambda_max):
    model = model_of("bert")
    bad, good = Task(CORPUS[10], (CORPUS[7],)), Task(CORPUS[14], (CORPUS[10],))
    with torch.no_grad():  # a piece that the good task has not
        model.network.bert.embeddings.word_embeddings.weight[model.words.windows([CORPUS[7]])[0].ids[1]] = torch.inf
    inner = InnerStep(0.003, 2, optimizer, lambda_max)
    [expected] = engine(model, [good], inner)
    found = engine(model, [bad, replace(bad, query=Sentence(())), good], inner)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[2], expected, atol=1e-5)


@pytest.mark.parametrize("engine", [reference, batched])
def test_a_callers_inference_mode(engine):
    inner = InnerStep(0.1, 2)
    expected = engine(model_of("bert"), TASKS, inner)
    model = model_of("bert")
    with torch.inference_mode():
        assert largest_difference(engine(model, TASKS, inner), expected) == 0
        assert torch.is_inference_mode_enabled()


@pytest.mark.parametrize("optimizer", ["sgd", "bertadam"])
@pytest.mark.parametrize("engine", [reference_logits, batched_logits])
def test_supports_without_words_move_nothing(engine, optimizer):
    model = model_of("bert")
    wordless = Sentence((), ())
    supports = [(wordless,), (), (wordless, CORPUS[1]), (CORPUS[1],)]
    inner = InnerStep(lr=0.1, steps=2, optimizer=optimizer)
    found = engine(model, [Task(CORPUS[0], given) for given in supports], inner, Computation(), Work())
    assert np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[2], found[3], atol=1e-5)
    assert not np.allclose(found[1], found[3])


@pytest.mark.parametrize("lambda_max", [0.5, 2.0])
def test_the_max_term_is_the_mean_of_the_windows_largest_losses(lambda_max):
    model = model_of("bert").double()
    task = Task(CORPUS[8], (CORPUS[9], CORPUS[14], CORPUS[0]))
    network = copy.deepcopy(model.network)
    losses = word_losses(model, network, task)
    loss = torch.cat(losses).mean() + lambda_max * torch.stack([each.max() for each in losses]).mean()
    parameters = trained_parameters(network, model.settings.freeze_layers)
    for parameter, gradient in zip(
        parameters.values(), torch.autograd.grad(loss, list(parameters.values())), strict=True
    ):
        parameter.data -= 0.1 * gradient
    with torch.no_grad():
        expected = one_by_one(model, network, task.query).numpy()
    found = reference(model, [task], InnerStep(lr=0.1, lambda_max=lambda_max))[0]
    assert np.abs(found - expected).max() < 1e-9


def test_a_step_size_for_each_layer():
    model = model_of("bert").double()  # three layers, the first frozen
    rates = {"layer.1": 0.05, "layer.2": 0.0, "classifier": 0.2}

    def sgd(parameters: dict[str, nn.Parameter]) -> torch.optim.SGD:
        groups = [
            {"params": [p for name, p in parameters.items() if part in name], "lr": lr} for part, lr in rates.items()
        ]
        return torch.optim.SGD(groups)

    expected = [oracle(model, task, sgd, 2) for task in TASKS[:5]]
    found = reference(model, TASKS[:5], InnerStep(lr=(0.05, 0.0, 0.2), steps=2))
    assert largest_difference(found, expected) < 1e-9


@pytest.mark.parametrize("lr", [(), (0.1,), (0.1, 0.1), (0.1, 0.1, 0.1, 0.1)])
def test_step_sizes_that_do_not_fit_the_layers_are_refused(lr):
    with pytest.raises(SettingError, match=r"step sizes|above 0"):
        reference(model_of("bert"), TASKS, InnerStep(lr=lr))


@pytest.mark.parametrize(
    "wrong", [{"lr": 0}, {"lr": (0.0, 0.0)}, {"lr": (-0.1, 0.1)}, {"lr": "0.1"}, {"lr": True}, {"lr": float("nan")},
              {"lr": 0.1, "lambda_max": -1.0}, {"lr": 0.1, "steps": 0}, {"lr": 0.1, "optimizer": "adam"}],
)  # fmt: skip
def test_inner_steps_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match="expected"):
        InnerStep(**wrong)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-2, 10.0])
def test_steps_of_many_weights_are_those_of_each(scale):
    torch.manual_seed(0)
    gradients = [scale * torch.randn(3, 4, 5, dtype=torch.float64) for _ in range(3)]
    for steps in (1, 3):
        moved = steps_of(gradients[:steps], 1e-3 * 0.01)
        for b in range(3):
            weight = torch.ones(4, 5, dtype=torch.float64)
            first, second = torch.zeros_like(weight), torch.zeros_like(weight)
            for gradient in gradients[:steps]:
                bertadam_update(weight, gradient[b].clone(), first, second, 1e-3)
            expected = (1 - 1e-5) ** steps - 1e-3 * moved[b]
            torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-15)
        in_place = steps_of_([gradient.clone() for gradient in gradients[:steps]], 1e-3 * 0.01)
        torch.testing.assert_close(in_place, moved, rtol=1e-12, atol=0)
