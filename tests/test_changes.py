"""What changes behind a call's back: weights, files, a caller's modes, threads and forks."""

from __future__ import annotations

import copy
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tiny import CORPUS, TAGS, model_of

import pymetaner
from pymetaner import Memory, Sentence, adapt, average, extend, fine_tune, predict
from pymetaner.engine.bertadam import BertAdam
from pymetaner.errors import SettingError, UnsupportedModelError
from pymetaner.labels import LabelScheme

NEW_TYPE = Sentence(("Aspirin", "helps"), ("B-DRUG", "O"))
WAYS = {"nearest": {"k": 2}, "all": {"k": "all", "lr": 0.01, "steps": 2}, "votes": {"k": 0, "knn": 0.7}}


@pytest.fixture
def model():
    tiny = model_of("bert")
    tiny.memory.add(CORPUS)
    return tiny


def scores(model, memory=None, **way):
    tagged = pymetaner.evaluate(model, CORPUS, learning=pymetaner.learning.learning_of(model, memory, **way))
    return tagged.adapted_tags, [r.entities for r in adapt(model, CORPUS, memory=memory, **way)]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "BertAdam"])
def test_steps_of_a_fused_optimiser_are_noticed(model, way, optimizer):
    before = scores(model, **way)
    matrices = [p for p in model.network.parameters() if p.dim() > 1][-3:]
    if optimizer == "BertAdam":  # asks for no fused step, and takes one
        trained = BertAdam(matrices, lr=0.5)
    else:
        trained = getattr(torch.optim, optimizer)(matrices, lr=0.5, fused=True)
    labels = torch.ones(1, 4, dtype=torch.int64)
    model.network(torch.full((1, 4), 7), labels=labels).loss.backward()
    trained.step()
    after = scores(model, **way)
    assert after == scores(copy.deepcopy(model), **way)
    assert after != before


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_another_file_with_the_same_ids_is_noticed(model, way, tmp_path):
    with Memory(model, tmp_path / "a.sqlite") as first, Memory(model, tmp_path / "b.sqlite") as second:
        first.add(CORPUS[:6])
        second.add([s.with_tags(["O"] * len(s)) for s in CORPUS[6:12]])
        before = scores(model, first, **way)
        expected = scores(model, second, **way)
        second.close()
        (tmp_path / "b.sqlite").replace(tmp_path / "a.sqlite")
        assert scores(model, first, **way) == expected != before


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_other_labels_are_noticed(model, way):
    adapt(model, CORPUS, **way)
    model.labels = LabelScheme.from_tags([TAGS[0], *TAGS[3:5], *TAGS[1:3], *TAGS[5:]])
    assert scores(model, **way) == scores(copy.deepcopy(model), **way)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_callers_autocast_rounds_nothing_that_is_kept(model, way):
    expected = scores(copy.deepcopy(model), **way)
    with torch.autocast("cpu", torch.bfloat16):
        inside = scores(model, **way)
    assert inside == scores(model, **way) == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert (model.embed(CORPUS) == model.memory.vectors).all()


def test_votes_of_one_precision_are_not_those_of_another(model):
    expected = scores(copy.deepcopy(model), k=0, knn=0.7)
    adapt(model, CORPUS, k=0, knn=0.7, precision="bf16")
    assert scores(model, k=0, knn=0.7) == expected


def test_models_made_in_inference_mode_can_be_adapted(model):
    with torch.inference_mode():
        made = [average([model, model]), extend(model, [NEW_TYPE]), copy.deepcopy(model), fine_tune(model, steps=1)]
    for each in made:
        assert adapt(each, "Ada slept", k=2).supports


def test_nothing_draws_from_the_callers_generator(model):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    extend(model, [NEW_TYPE])
    pymetaner.default_model()
    assert (torch.rand(3) == expected).all()


def test_settings_that_are_refused_leave_the_others(model):
    before = model.settings
    with pytest.raises(SettingError, match="overlap"):
        model.settings = replace(before, overlap=before.window - 10)
    assert model.settings is before
    assert adapt(model, "Ada slept").supports


def test_threads_that_ask_for_the_memory_at_once_get_one():
    for _ in range(5):
        model = model_of("bert")
        barrier = threading.Barrier(4)

        def add(sentence, model=model, barrier=barrier):
            barrier.wait()
            model.memory.add(sentence)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, CORPUS[:4]))
        assert len(model.memory) == 4


def test_a_training_run_that_is_stopped_leaves_a_model_that_tags(model, tmp_path, monkeypatch):
    before = predict(model, CORPUS)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pymetaner.training.loop.check_finite", stop)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        pymetaner.train(model, CORPUS, tmp_path / "run", settings=pymetaner.TrainSettings(steps=3))
    assert not model.network.training
    assert all(p.requires_grad for p in model.network.parameters())
    assert predict(model, CORPUS) == before


def test_training_goes_on_where_gradients_are_off(model, tmp_path):
    settings = pymetaner.TrainSettings(steps=2, batch_size=4)
    with torch.no_grad():
        pymetaner.train(model, CORPUS, tmp_path / "one", settings=settings)
    other = model_of("bert")
    pymetaner.train(other, CORPUS, tmp_path / "two", settings=settings)
    assert predict(model, CORPUS) == predict(other, CORPUS)


def test_what_save_pretrained_does_not_take_is_told(model, tmp_path):
    with pytest.raises(SettingError, match="pack, push_to_hub"):
        model.save_pretrained(tmp_path / "model", pack=True, push_to_hub=True)
    assert not (tmp_path / "model").exists()


def test_the_loop_takes_any_number_of_supports(model, monkeypatch):
    expected = adapt(model, CORPUS[:3], k=12, engine="reference", lambda_max=1.0)
    monkeypatch.setattr("pymetaner.objective._PART", 60)
    found = adapt(model, CORPUS[:3], k=12, engine="reference", lambda_max=1.0)
    for ours, theirs in zip(found, expected, strict=True):
        assert [(e.start, e.label) for e in ours.entities] == [(e.start, e.label) for e in theirs.entities]
        assert [e.score for e in ours.entities] == pytest.approx([e.score for e in theirs.entities], abs=1e-5)


def test_a_step_size_that_leads_astray_is_passed_over(model):
    found = model.memory.calibrate(ks=(2,), lrs=(0.02, 1e30), knns=())
    assert {trial.inner.lr for trial in found.trials if trial.k == 2 and isinstance(trial.inner.lr, float)} == {0.02}
    with pytest.raises(SettingError, match="knns"):
        model.memory.calibrate(knns=None)
    with pytest.raises(SettingError, match="lr"):
        adapt(model, "Ada slept", lr=10**400)


def test_entities_that_votes_removed_are_shown(model):
    memory = Memory(model)
    memory.add([s.with_tags(["O"] * len(s)) for s in CORPUS])
    [lost] = [r for r in adapt(model, CORPUS, memory=memory, k=0, knn=1.0) if r.base_entities and not r.entities][:1]
    assert lost.base_entities[0].text in str(lost)


@contextmanager
def one_thread():
    """Within the block PyTorch has one: a child cannot use those of its parent's OpenMP."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", [WAYS["all"], WAYS["votes"]], ids=["all", "votes"])
def test_a_child_forked_while_a_thread_learns_can_learn(model, way, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()
    where = "pymetaner.whole_memory.fine_tuned_model" if way["k"] else "pymetaner.model.MetaNER.read"
    parent = os.getpid()

    def waits(original):
        def replaced(*given, **named):
            if os.getpid() == parent and threading.current_thread() is not threading.main_thread():
                reached.set()
                go_on.wait(60)
            return original(*given, **named)

        return replaced

    original = pymetaner.whole_memory.fine_tuned_model if way["k"] else pymetaner.MetaNER.read
    monkeypatch.setattr(where, waits(original))
    with one_thread(), ThreadPoolExecutor(1) as pool:
        running = pool.submit(adapt, model, CORPUS, **way)
        assert reached.wait(60)
        child = os.fork()
        if child == 0:
            done = threading.Thread(target=lambda: os._exit(0 if adapt(model, CORPUS[0].text, **way) else 1))
            done.daemon = True
            done.start()
            done.join(50)
            os._exit(2)
        go_on.set()
        assert os.waitpid(child, 0)[1] == 0
        assert len(running.result()) == len(CORPUS)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_weights_moved_in_a_callers_inference_mode(way, model):
    with torch.inference_mode():
        model.double()
        found = scores(model, **way)
    assert found == scores(copy.deepcopy(model), **way)


def test_weights_made_in_a_callers_inference_mode_are_refused_until_they_are_copied(model, tmp_path):
    expected = copy.deepcopy(model)
    with torch.no_grad():
        expected.network.classifier.weight.mul_(2)
    with torch.inference_mode():
        model.network.classifier.weight = torch.nn.Parameter(model.network.classifier.weight * 2)
    settings = pymetaner.TrainSettings(steps=2, batch_size=4)
    calls = {
        "predict": lambda: predict(model, CORPUS),
        **{name: lambda way=way: adapt(model, CORPUS, **way) for name, way in WAYS.items()},
        "train": lambda: pymetaner.train(model, CORPUS, tmp_path, settings=settings),
    }
    for name, call in calls.items():
        with pytest.raises(UnsupportedModelError, match=r"'classifier\.weight' was made inside torch\.inference_mode"):
            call()
        assert not list(tmp_path.iterdir()), name
    model.network = copy.deepcopy(model.network)  # as the message says
    for way in WAYS.values():
        assert scores(model, **way) == scores(expected, **way)
    with torch.inference_mode():  # where changes in place are counted
        model.network.classifier.weight.mul_(0.5)
    for way in WAYS.values():
        assert scores(model, **way) == scores(copy.deepcopy(model), **way) != scores(expected, **way)
    with torch.inference_mode():
        model.network.double()
    with pytest.raises(UnsupportedModelError, match="inference_mode"):
        model.embed(CORPUS)


def test_what_a_seed_fixes_leaves_the_generators_of_other_devices_alone(model, tmp_path, monkeypatch):
    def seeded_all(_):
        raise AssertionError("the generators of all devices were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded_all)
    before = torch.get_rng_state()
    fine_tune(model, CORPUS, steps=2)
    pymetaner.train(model, CORPUS, tmp_path, settings=pymetaner.TrainSettings(steps=2, batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)
