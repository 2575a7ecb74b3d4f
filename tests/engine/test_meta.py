"""Gradients after inner steps, against torch.func on the same network, one task at a time, in float64."""

from __future__ import annotations

import pytest
import torch
from tasks import TASKS
from tiny import CORPUS, model_of
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from pymetaner.engine import Computation, InnerStep, MetaLearner, SequentialMetaLearner, Task
from pymetaner.errors import SettingError
from pymetaner.model import MetaNER
from pymetaner.network import adapted_groups, adapted_parameters
from pymetaner.sentence import Sentence

TRAINING = [task for task in TASKS if task.query.tags]


def word_losses(model: MetaNER, parameters: dict[str, Tensor], sentence: Sentence) -> Tensor:
    """The loss of every word, windows read alone and without padding."""
    tags = torch.tensor(model.labels.encode(sentence.tags or ()))
    losses = []
    for window in model.words.windows([sentence]):
        logits = functional_call(model.network, parameters, (torch.tensor([window.ids]),)).logits[0]
        losses.append(
            torch.nn.functional.cross_entropy(
                logits[list(window.positions)], tags[slice(*window.words)], reduction="none"
            )
        )
    return torch.cat(losses)


def expected_gradients(model: MetaNER, inner: InnerStep, order: int, rate: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Of the summed query losses in the weights and in the step size, by torch.func and autograd."""
    parameters = adapted_parameters(model.network, model.settings.freeze_layers)
    start = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    total = torch.zeros((), dtype=torch.float64)
    for task in TRAINING:
        weights = dict(start)
        state: dict[str, tuple[Tensor, Tensor]] = {}
        for _ in range(inner.steps if task.supports else 0):
            losses = [word_losses(model, weights, support) for support in task.supports]
            windows = [len(model.words.windows([support])) for support in task.supports]
            assert set(windows) == {1} or not inner.lambda_max
            loss = torch.cat(losses).mean() + inner.lambda_max * torch.stack([each.max() for each in losses]).mean()
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            moved = {}
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                gradient = gradient if order == 2 else gradient.detach()
                moved[name] = step(name, weight, gradient, inner, rate, state)
            weights = moved
        total = total + word_losses(model, weights, task.query).sum()
    found = torch.autograd.grad(total, [*start.values(), rate])
    return dict(zip(start, found[:-1], strict=True)), found[-1]


def step(name: str, weight: Tensor, gradient: Tensor, inner: InnerStep, rate: Tensor, state: dict) -> Tensor:
    """One step of SGD, or of BertAdam as in the official code."""
    if inner.optimizer == "sgd":
        return weight - rate * gradient
    gradient = gradient * (1 / (gradient.norm() + 1e-6)).clamp(max=1.0)
    m, v = state.get(name, (torch.zeros_like(weight), torch.zeros_like(weight)))
    state[name] = m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient * gradient
    update = m / (v.clamp(min=1e-300).sqrt() + 1e-6)
    return weight - rate * (update + 0.01 * weight if weight.dim() > 1 else update)


def found_gradients(model: MetaNER, inner: InnerStep, order: int, rate: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The same through the batched engine."""
    learner = MetaLearner(model, inner, order=order, computation=Computation(batch_size=3))
    parameters = adapted_parameters(model.network, model.settings.freeze_layers)
    rates = dict.fromkeys(inner.rates(adapted_groups(model.network, model.settings.freeze_layers)), rate)
    tag_ids = [model.labels.encode(task.query.tags or ()) for task in TRAINING]
    model.network.requires_grad_(True)
    model.network.zero_grad()
    losses = [
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels(tag_ids).flatten(), reduction="sum")
        for batch, logits in learner.logits(TRAINING, rates=rates)
    ]
    found = torch.autograd.grad(sum(losses), [*parameters.values(), rate])
    return dict(zip(parameters, found[:-1], strict=True)), found[-1]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("bert", InnerStep(lr=0.1)),
        ("bert", InnerStep(lr=0.1, steps=2)),
        ("bert", InnerStep(lr=0.01, optimizer="bertadam")),
        ("bert", InnerStep(lr=0.01, optimizer="bertadam", steps=2)),
        ("xlm-roberta", InnerStep(lr=0.1)),
        ("deberta-v2", InnerStep(lr=0.1)),
    ],
)
def test_meta_gradients_are_those_of_torch_func(name, inner, order):
    model = model_of(name, window=64 if name != "xlm-roberta" else 60).double()
    rate = torch.tensor(inner.lr, dtype=torch.float64, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        weights, in_rate = expected_gradients(model, inner, order, rate)
    found, found_in_rate = found_gradients(model, inner, order, rate)
    assert found.keys() == weights.keys()
    for key, expected in weights.items():
        torch.testing.assert_close(
            found[key], expected, rtol=1e-6, atol=1e-8, msg=lambda text, key=key: f"{key} {text}"
        )
    torch.testing.assert_close(found_in_rate, in_rate, rtol=1e-6, atol=1e-8)


def gradients_task_after_task(model: MetaNER, tasks: list[Task], inner: InnerStep) -> dict[str, Tensor]:
    """Of the summed query losses, through the sequential learner."""
    tag_ids = [model.labels.encode(task.query.tags or ()) for task in tasks]
    model.network.requires_grad_(True)
    model.network.zero_grad()
    learner = SequentialMetaLearner(model, inner, computation=Computation(batch_size=1))
    for batch, logits in learner.logits(tasks):
        labels = batch.labels(tag_ids).flatten()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum").backward()
    return {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "optimizer", "steps", "together"),
    [
        *[("bert", optimizer, steps, 512) for optimizer in ("sgd", "bertadam") for steps in (1, 2, 3)],
        ("bert", "bertadam", 2, 1),
        ("bert", "bertadam", 2, 40),
        ("deberta-v2", "bertadam", 2, 512),
    ],
)
def test_task_after_task_gives_the_same_gradients(name, optimizer, steps, together, monkeypatch):
    monkeypatch.setattr("pymetaner.engine.sequential._TOGETHER", together)
    model = model_of(name, window=64).double()
    inner = InnerStep(lr=0.01, optimizer=optimizer, steps=steps)
    rate = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        expected, _ = expected_gradients(model, inner, 1, rate)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = gradients_task_after_task(model, TRAINING, inner)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-6, atol=1e-8)
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("steps", [1, 2])
def test_a_task_whose_supports_have_no_words_takes_no_step(steps):
    model = model_of("bert").double()
    inner = InnerStep(lr=0.01, optimizer="bertadam", steps=steps)
    wordless = gradients_task_after_task(model, [Task(CORPUS[0], (Sentence((), ()),))], inner)
    plain = gradients_task_after_task(model, [Task(CORPUS[0], ())], inner)
    assert all(torch.equal(wordless[name], gradient) for name, gradient in plain.items())


@pytest.mark.parametrize("learner", [MetaLearner, SequentialMetaLearner])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_max_term_reaches_the_meta_gradient(learner, steps):
    model = model_of("bert").double()
    tasks = [task for task in TRAINING if all(len(model.words.windows([s])) == 1 for s in task.supports)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "TRAINING", tasks)
        inner = InnerStep(lr=0.1, steps=steps, lambda_max=2.0)
        rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        weights, _ = expected_gradients(model, inner, 1, rate)
        if learner is MetaLearner:
            found, _ = found_gradients(model, inner, 1, rate)
        else:
            found = gradients_task_after_task(model, tasks, inner)
    for key, expected in weights.items():
        torch.testing.assert_close(found[key], expected, rtol=1e-6, atol=1e-8)


def test_second_order_differs_from_first():
    model = model_of("bert").double()
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    first, _ = found_gradients(model, InnerStep(lr=0.1), 1, rate)
    second, _ = found_gradients(model, InnerStep(lr=0.1), 2, rate)
    assert max(float((first[key] - second[key]).abs().max()) for key in first) > 0.1


def test_gradients_of_order_one_add_up_batch_by_batch():
    model = model_of("bert")
    model.network.requires_grad_(True)
    tasks = [Task(s, (CORPUS[0], CORPUS[1])) for s in CORPUS[2:9]]
    totals = []
    for size in (1, 7):
        model.network.zero_grad()
        for _, logits in MetaLearner(model, InnerStep(lr=0.1), computation=Computation(batch_size=size)).logits(tasks):
            (logits[:, 1] ** 2).sum().backward()
        totals.append({n: p.grad.clone() for n, p in model.network.named_parameters() if p.grad is not None})
    frozen = {name for name, _ in model.network.named_parameters() if "embeddings" in name or ".layer.0." in name}
    assert totals[0].keys() == {name for name, _ in model.network.named_parameters()} - frozen
    for name, gradient in totals[0].items():
        torch.testing.assert_close(gradient, totals[1][name], rtol=1e-4, atol=1e-4)


def test_queries_may_be_masked():
    model = model_of("bert")
    tasks = [Task(CORPUS[0], (CORPUS[1],))]
    plain = [logits for _, logits in MetaLearner(model, InnerStep(lr=0.1)).logits(tasks)]
    mask = model.tokenizer.mask_token_id
    edited = [
        logits
        for _, logits in MetaLearner(model, InnerStep(lr=0.1)).logits(
            tasks, edit=lambda batch: torch.full_like(batch.input_ids, mask)
        )
    ]
    assert not torch.allclose(plain[0], edited[0])


def test_an_order_that_does_not_exist_is_refused():
    with pytest.raises(SettingError, match="expected 1 or 2"):
        MetaLearner(model_of("bert"), InnerStep(lr=0.1), order=3)
