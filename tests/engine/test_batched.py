"""The batched engine against the reference: every setting and architecture, and short memory."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from tasks import TASKS, batched, largest_difference, reference
from tiny import ARCHITECTURES, CORPUS, model_of, network_of, tokenizer_of
from torch import nn

from pymetaner.adaptation import adapt
from pymetaner.cache import FactorCache
from pymetaner.engine import Computation, InnerStep, Task, Work, batched_logits
from pymetaner.engine.batched import limits
from pymetaner.engine.batched.engine import BatchedEngine
from pymetaner.errors import MemoryLimitError, SettingError, UnsupportedModelError
from pymetaner.model import MetaNER
from pymetaner.view import View

SETTINGS = {
    "sgd": InnerStep(lr=0.1),
    "sgd, max term": InnerStep(lr=0.1, lambda_max=2.0),
    "sgd, 4 steps": InnerStep(lr=0.05, steps=4),
    "sgd, layers, 2 steps": InnerStep(lr=(0.1, 0.0, 0.3), steps=2, lambda_max=1.0),
    "bertadam": InnerStep(lr=0.01, optimizer="bertadam"),
    "bertadam, 3 steps": InnerStep(lr=0.01, steps=3, optimizer="bertadam", lambda_max=0.5),
    "bertadam, layers": InnerStep(lr=(0.0, 0.01, 0.02), steps=2, optimizer="bertadam"),
}


def rounding(name: str) -> float:
    """What float64 is held to: transformers rotates ModernBERT's queries in float32 whatever the model is."""
    return 1e-5 if name == "modernbert" else 1e-9


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("inner", SETTINGS.values(), ids=SETTINGS)
def test_batched_is_the_reference(name, inner):
    model = model_of(name)
    assert largest_difference(batched(model, TASKS, inner), reference(model, TASKS, inner)) < 1e-4
    model.double()
    found, expected = batched(model, TASKS, inner), reference(model, TASKS, inner)
    assert found[0].dtype == np.float64
    assert largest_difference(found, expected) < rounding(name)
    plain = reference(model, [replace(task, supports=()) for task in TASKS], inner)
    assert largest_difference(plain, expected) > 0.1


@pytest.mark.parametrize("freeze_layers", [0, 2, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "bertadam"])
def test_batched_is_the_reference_whatever_is_frozen(freeze_layers, optimizer):
    model = model_of("bert", freeze_layers=freeze_layers).double()
    inner = InnerStep(lr=0.02, steps=2, optimizer=optimizer)
    assert largest_difference(batched(model, TASKS, inner), reference(model, TASKS, inner)) < 1e-9


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("inner", [SETTINGS["sgd"], SETTINGS["bertadam, 3 steps"]], ids=["sgd", "bertadam"])
def test_batch_size_and_memory_change_nothing(name, inner):
    model = model_of(name)
    expected = batched(model, TASKS, inner, batch_size=100)
    for computation in ({"batch_size": 1}, {"batch_size": 2}, {"batch_size": 7, "memory_bytes": 4_000_000}):
        assert largest_difference(batched(model, TASKS, inner, **computation), expected) < 1e-4


def test_a_repeated_support_weighs_twice():
    model = model_of("bert").double()
    query, one, two = CORPUS[0], CORPUS[1], CORPUS[4]
    inner = InnerStep(lr=0.1)
    tasks = [Task(query, (one, two)), Task(query, (one, one, two)), Task(query, (two, one, one))]
    once, twice, turned = batched(model, tasks, inner)
    assert np.abs(once - twice).max() > 1e-3
    assert np.abs(turned - twice).max() < 1e-12
    assert np.abs(reference(model, tasks[1:2], inner)[0] - twice).max() < 1e-9


@pytest.mark.parametrize(
    "changes", [{}, {"share_att_key": False}, {"relative_attention": False, "position_biased_input": True}]
)
def test_deberta_with_any_kind_of_positions(changes):
    settings = model_of("deberta-v2").settings
    model = MetaNER(network_of("deberta-v2", **changes), tokenizer_of("unigram"), settings=settings).double()
    inner = InnerStep(lr=0.1, steps=2)
    assert View(model.network, 1).one_by_one == (changes.get("relative_attention") is not False)
    assert largest_difference(batched(model, TASKS, inner), reference(model, TASKS, inner)) < 1e-9


def hide_a_layer(model: MetaNER) -> None:
    """Makes a layer use its weight without being called."""

    class Hidden(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.inner.weight, self.inner.bias)

    layer = model.network.bert.encoder.layer[2].intermediate
    layer.dense = Hidden(layer.dense)


def test_a_layer_that_nobody_calls_is_not_forgotten():
    model = model_of("bert")
    model.memory.add(CORPUS)
    expected = adapt(model, [CORPUS[0].text], engine="reference", lr=0.1)
    hide_a_layer(model)
    with pytest.raises(UnsupportedModelError, match=r"layer\.2\.intermediate\.dense\.inner.*use engine='reference'"):
        batched(model, TASKS[:2], InnerStep(lr=0.1))
    with pytest.raises(UnsupportedModelError):
        adapt(model, [CORPUS[0].text], engine="batched", lr=0.1)
    found = adapt(model, [CORPUS[0].text], engine="auto", lr=0.1)
    assert found[0].entities == expected[0].entities
    assert found[0].profile is not None and found[0].profile.engine == "reference"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_run(dtype):
    model = model_of("bert").to(dtype)
    for engine in (batched, reference):
        found, exact = engine(model, TASKS, InnerStep(lr=0.1)), engine(model_of("bert"), TASKS, InnerStep(lr=0.1))
        assert largest_difference(found, exact) < (1e-5 if dtype == torch.float64 else 3)


def test_the_squares_of_small_gradients_do_not_vanish_in_float16():
    model = model_of("bert").half()
    inner = SETTINGS["bertadam, 3 steps"]
    found = batched(model, TASKS, inner)
    assert largest_difference(found, reference(model.double(), TASKS, inner)) < 0.05


@pytest.mark.parametrize("inner", [SETTINGS["sgd"], SETTINGS["bertadam"]], ids=["sgd", "bertadam"])
def test_bf16_is_near_and_leaves_the_weights_alone(inner):
    model = model_of("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact = batched(model, TASKS, inner)
    rounded = batched(model, TASKS, inner, precision="bf16")
    plain = batched(model, [replace(task, supports=()) for task in TASKS], inner)
    error = np.mean([np.abs(a - b).mean() for a, b in zip(exact, rounded, strict=True) if len(a)])
    effect = np.mean([np.abs(a - b).mean() for a, b in zip(exact, plain, strict=True) if len(a)])
    assert 0 < error < effect / 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_precisions_that_cannot_be_had_are_refused():
    with pytest.raises(SettingError, match="expected one of"):
        Computation(precision="fp8")
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="CUDA"):
            batched(model_of("bert"), TASKS, InnerStep(lr=0.1), precision="tf32")
    for kind in (torch.float64, torch.float16):
        with pytest.raises(SettingError, match=f"for a {str(kind)[6:]} model"):
            batched(model_of("bert").to(kind), TASKS, InnerStep(lr=0.1), precision="bf16")


def test_supports_of_a_batch_pass_once_and_padding_is_small():
    model, work = model_of("bert"), Work()
    tasks = [Task(query, (CORPUS[0], CORPUS[1])) for query in CORPUS * 8]
    batched_logits(model, tasks, InnerStep(lr=0.1), Computation(batch_size=32), work)
    assert work.supports == 2 * len(CORPUS) * 8 / 32  # two in each of the blocks
    assert work.pieces == sum(len(window.ids) for window in model.words.windows(CORPUS)) * 8
    assert 1 - work.pieces / work.padded < 0.1


def test_lower_hidden_states_that_are_known_are_not_computed_again(monkeypatch):
    model = model_of("bert")
    readings = model.read([task.query for task in TASKS], keep_lower=True)
    known = [replace(task, lower=reading.lower) for task, reading in zip(TASKS, readings, strict=True)]
    expected = batched(model, TASKS, InnerStep(lr=0.1))
    calls = []
    lower = View.lower
    monkeypatch.setattr(View, "lower", lambda self, ids, mask: calls.append(ids) or lower(self, ids, mask))
    assert largest_difference(batched(model, known, InnerStep(lr=0.1)), expected) < 1e-5
    with_supports = len(calls)
    batched(model, [replace(task, supports=()) for task in known], InnerStep(lr=0.1))
    assert with_supports and len(calls) == with_supports
    batched(model, TASKS, InnerStep(lr=0.1, steps=3))
    assert len(calls) <= 3 * with_supports  # further steps do not repeat it


def test_more_than_fits_is_split_and_too_much_is_refused():
    model, inner = model_of("bert"), InnerStep(lr=0.1)
    tasks = [Task(query, tuple(CORPUS[i : i + 3])) for i, query in enumerate(CORPUS[:12])]
    computation = Computation(batch_size=12, memory_bytes=500_000)
    view = View(model.network, 1)
    engine = BatchedEngine(model, view, inner, inner.rates(view.groups), computation, Work())
    blocks = engine.blocks(tasks)
    assert len(blocks) > 1 and sorted(query.task for block in blocks for query in block) == list(range(12))
    assert largest_difference(batched(model, tasks, inner, memory_bytes=500_000), batched(model, tasks, inner)) < 1e-5
    with pytest.raises(MemoryLimitError, match="one sentence with its 3 supports needs"):
        batched(model, tasks, inner, memory_bytes=1000)
    model.memory.add(CORPUS)
    found = adapt(model, [CORPUS[0].text], lr=0.1, memory_bytes=1000)
    assert found[0].profile is not None and found[0].profile.engine == "reference"


def test_a_pass_that_overflows_is_tried_in_halves():
    tried = []

    def run(items: list[int]) -> list[int]:
        tried.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return [10 * item for item in items]

    assert list(limits.split_on_overflow(run, [1, 2, 3, 4, 5])) == [[10, 20], [30], [40, 50]]
    assert tried == [5, 2, 3, 1, 2]

    def never(items: list[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryLimitError, match="one sentence does not fit"):
        list(limits.split_on_overflow(never, [1, 2]))

    def broken(items: list[int]) -> list[int]:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(limits.split_on_overflow(broken, [1, 2]))


def test_threads_may_share_a_model():
    model = model_of("bert")
    expected = batched(model, TASKS, InnerStep(lr=0.1))
    wrong = []

    def work() -> None:
        for _ in range(3):
            if largest_difference(batched(model, TASKS, InnerStep(lr=0.1), cache=model.cache), expected) > 1e-5:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_weights_that_move_or_change_type_are_seen_at_once():
    model = model_of("bert")
    inner = InnerStep(lr=0.1)
    batched(model, TASKS, inner)
    with torch.no_grad():
        model.network.bert.encoder.layer[1].output.dense.weight.mul_(1.5)
    assert largest_difference(batched(model, TASKS, inner), reference(model, TASKS, inner)) < 1e-4
    model.double()
    assert largest_difference(batched(model, TASKS, inner), reference(model, TASKS, inner)) < 1e-9
    model.network.classifier.weight = nn.Parameter(2 * model.network.classifier.weight.detach())
    assert largest_difference(batched(model, TASKS, inner), reference(model, TASKS, inner)) < 1e-9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("inner", SETTINGS.values(), ids=SETTINGS)
def test_a_gpu_gives_the_same(inner):
    expected = reference(model_of("bert"), TASKS, inner)
    model = model_of("bert").to("cuda")
    assert largest_difference(batched(model, TASKS, inner), expected) < 1e-3
    on_cpu = FactorCache(device="cpu")
    for _ in range(2):
        assert largest_difference(batched(model, TASKS, inner, cache=on_cpu), expected) < 1e-3
    for precision in ("tf32", "bf16"):
        assert largest_difference(batched(model, TASKS, inner, precision=precision), expected) < 3
