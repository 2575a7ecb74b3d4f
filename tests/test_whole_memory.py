"""k="all": one model for all queries, which is that of the sequential loop with the whole memory as supports."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tasks import TASKS, largest_difference, reference
from tiny import ARCHITECTURES, CORPUS, model_of

from pymetaner import Memory, Sentence, adapt, predict
from pymetaner.engine import Computation, InnerStep, Work, full_batch, full_batch_logits, full_batch_model
from pymetaner.errors import SettingError
from pymetaner.whole_memory import model_of_memory

SETTINGS = {
    "signsgd, 2 steps": InnerStep(lr=0.003, steps=2, optimizer="signsgd"),
    "bertadam, 3 steps, max term": InnerStep(lr=0.003, steps=3, optimizer="bertadam", lambda_max=0.5),
    "sgd, layers": InnerStep(lr=(0.1, 0.0, 0.3), lambda_max=1.0),
}
SUPPORTS = tuple(CORPUS[::2])
LONG = Sentence(tuple(word for sentence in CORPUS for word in sentence.words))


@pytest.fixture
def model():
    tiny = model_of("bert")
    tiny.memory.add(CORPUS)
    return tiny


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("inner", SETTINGS.values(), ids=SETTINGS)
def test_it_is_the_reference_with_all_supports(name, inner, monkeypatch):
    monkeypatch.setattr(full_batch, "_PIECES", 60)  # several parts a step
    model = model_of(name).double()
    tasks = [replace(task, supports=SUPPORTS) for task in TASKS]
    learned = full_batch_model(model, SUPPORTS, inner, Computation())
    expected = reference(model, tasks, inner)
    # transformers rotates ModernBERT's queries in float32 whatever the model is
    tolerance = 1e-5 if name == "modernbert" else 1e-9
    lower = [reading.lower for reading in model.read([task.query for task in tasks], keep_lower=True)]
    for known in (lower, [()] * len(tasks)):
        given = [replace(task, lower=hidden) for task, hidden in zip(tasks, known, strict=True)]
        assert largest_difference(full_batch_logits(learned, given, Computation(), Work()), expected) < tolerance
    plain = reference(model, [replace(task, supports=()) for task in tasks], inner)
    assert largest_difference(plain, expected) > 0.1


def test_adapt_tags_as_the_loop_does_and_moves_nothing(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    queries = [*CORPUS, LONG]
    settings = {"k": "all", "lr": 0.003, "steps": 2, "inner_optimizer": "signsgd"}
    found = adapt(model, queries, **settings)
    expected = adapt(model, queries, engine="reference", **settings)
    assert [r.entities for r in found] != [r.base_entities for r in found]
    for ours, theirs in zip(found, expected, strict=True):
        assert [(e.start, e.end, e.label) for e in ours.entities] == [
            (e.start, e.end, e.label) for e in theirs.entities
        ]
        assert [e.score for e in ours.entities] == pytest.approx([e.score for e in theirs.entities], abs=1e-4)
        assert ours.base_entities == theirs.base_entities
        assert len(ours.supports) == 3 and ours.supports == theirs.supports
    assert found[0].profile.engine == "full-batch" and expected[0].profile.engine == "reference"
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


def test_its_own_settings_are_the_default(model):
    lr = model.settings.lr["signsgd"]
    found = adapt(model, CORPUS, k="all")
    assert found == adapt(model, CORPUS, k="all", lr=lr, steps=2, inner_optimizer="signsgd")
    assert found != adapt(model, CORPUS, k="all", lr=2 * lr)


def test_it_is_learned_again_only_when_something_changed(model):
    def learned(**changes):
        return model_of_memory(model, model.memory, replace(inner, **changes), Computation())

    inner = InnerStep(lr=0.003, optimizer="signsgd")
    first = learned()
    assert learned() is first
    assert learned(lr=0.004) is not first
    first = learned()
    [added] = model.memory.add(Sentence(("Bo", "ran"), ("B-PER", "O")))
    second = learned()
    assert second is not first
    model.memory.remove([added])
    assert learned() is not second
    third = learned()
    with torch.no_grad():
        model.network.classifier.bias.add_(1.0)
    assert learned() is not third


def test_what_was_added_is_used_by_the_next_call(model):
    memory = Memory(model)
    memory.add(CORPUS[:3])
    settings = {"memory": memory, "k": "all", "lr": 0.003}
    before = adapt(model, CORPUS, **settings)
    memory.add(CORPUS[3:])
    after = adapt(model, CORPUS, **settings)
    assert after != before
    assert [r.entities for r in after] == [r.entities for r in adapt(model, CORPUS, k="all", lr=0.003)]


def test_threads_learn_it_once(model, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "pymetaner.whole_memory.full_batch_model",
        lambda *a: calls.append(threading.get_ident()) or full_batch_model(*a),
    )
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: adapt(model, CORPUS, k="all", lr=0.003), range(8)))
    assert len(calls) == 1
    assert all(results == found[0] for results in found)


def test_an_empty_memory_is_told_and_leaves_the_model_as_it_is():
    model = model_of("bert")
    with pytest.warns(UserWarning, match="empty"):
        results = adapt(model, CORPUS[:3], k="all")
    assert [r.entities for r in results] == [r.entities for r in predict(model, CORPUS[:3])]


def test_neighbours_vote_on_top_of_it(model):
    settings = {"k": "all", "lr": 0.003}
    assert adapt(model, CORPUS, knn=1.0, **settings) != adapt(model, CORPUS, **settings)


@pytest.mark.parametrize("wrong", [{"k": "some"}, {"k": "all", "exclude_self": True}, {"k": "all", "lr": (0.1, 0.1)}])
def test_what_it_cannot_do_is_refused(model, wrong):
    with pytest.raises(SettingError, match=r"expected|exclude_self"):
        adapt(model, CORPUS[0], **wrong)
