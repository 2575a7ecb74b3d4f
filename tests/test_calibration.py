"""Calibration: it tries what it says, leaves every sentence out of its own supports, and picks what scores best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tasks import reference
from tiny import CORPUS, model_of

from pymetaner import Memory, adapt, calibrate, calibration, predict, trials
from pymetaner.decode import decode
from pymetaner.engine import Computation, FineTuning, Task, fine_tuned_model
from pymetaner.errors import EmptyDataError, SettingError
from pymetaner.memory import contents
from pymetaner.scoring import score


@pytest.mark.parametrize("optimizer", ["sgd", "bertadam"])
def test_scores_are_those_of_sentences_left_out(model, optimizer):
    found = calibrate(model, ks=(1, 3), lrs=(0.05, 0.3), optimizer=optimizer)
    assert found.sentences == len(CORPUS)
    assert [(t.k, t.inner and t.inner.lr) for t in found.trials[:5]] == [
        (0, None), (1, 0.05), (1, 0.3), (3, 0.05), (3, 0.3)
    ]  # fmt: skip
    gold = [s.tags for s in CORPUS]
    vectors = model.embed(CORPUS)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    for trial in found.trials:
        if trial.knn:
            continue  # tests/test_knn.py
        tasks = [
            Task(s, tuple(CORPUS[j] for j in np.argsort(-similar[i], kind="stable")[: trial.k]))
            for i, s in enumerate(CORPUS)
        ]
        logits = reference(model, tasks, trial.inner or found.trials[1].inner)
        tagged = decode(logits, model.labels, model.settings.decoding)
        assert trial.score == score(gold, [tags for tags, _ in tagged])
    assert found.best.margin == max(trial.margin for trial in found.trials) >= found.plain.margin == 0
    assert all(trial.margin <= trial.score.f1 - found.plain.score.f1 + 1e-12 for trial in found.trials)


@pytest.fixture
def _adapting_is_best(monkeypatch):
    """A network with random weights gets worse by adapting; let it win."""
    for module in (calibration, trials):
        monkeypatch.setattr(module, "margin_of", lambda trial: (trial.k, trial.inner is not None and trial.inner.steps))
    monkeypatch.setattr(trials, "_sure_gain", lambda *_: 1.0)


@pytest.mark.usefixtures("_adapting_is_best")
def test_what_it_found_goes_into_adapt(model):
    found = calibrate(model, ks=(2,), lrs=(0.3,), steps=(1, 2, 3), knns=())
    assert found.arguments == {"k": 2, "lr": 0.3, "steps": 3, "inner_optimizer": "sgd", "lambda_max": 0.0, "knn": 0.0}
    tokens = [list(s.words) for s in CORPUS]
    results = adapt(model, tokens, exclude_self=True, **found.arguments)
    tags = [sentence.with_tags(None) for sentence in CORPUS]
    assert len(results) == len(tags)
    counted = score([s.tags for s in CORPUS], [iob2(r, len(s)) for r, s in zip(results, CORPUS, strict=True)])
    assert counted == found.best.score
    assert "F1" in str(found) and str(found.best.k) in str(found)


def iob2(result, length):
    tags = ["O"] * length
    for e in result.entities:
        tags[e.start : e.end] = [f"B-{e.label}", *[f"I-{e.label}"] * (e.end - e.start - 1)]
    return tags


def test_not_adapting_wins_unless_something_is_better(model):
    found = calibrate(model, ks=(1,), lrs=(1e-9,), knns=())
    assert found.best == found.plain and found.arguments == {"k": 0, "knn": 0.0}
    texts = [s.text for s in CORPUS[:3]]
    plain, adapted = predict(model, texts), adapt(model, texts, **found.arguments)
    assert [r.entities for r in adapted] == [r.entities for r in plain]
    assert adapted[0].supports == () and adapted[0].profile.engine == "none"


def test_a_step_that_gains_nothing_over_the_votes_alone_is_not_taken(model, monkeypatch):
    for module in (calibration, trials):
        monkeypatch.setattr(module, "margin_of", lambda trial: (trial.k, trial.knn))
    assert calibrate(model, ks=(1,), lrs=(1e-9,), knns=(0.5,)).arguments == {"k": 0, "knn": 0.5}


def test_a_memory_calibrates_itself(model):
    settings = {"ks": (1,), "lrs": (0.1,)}
    assert model.memory.calibrate(**settings) == calibrate(model, **settings)


def test_a_lone_sentence_is_not_counted_as_several(model):
    assert " on 1 sentence: F1" in str(calibrate(model, ks=(2,), lrs=(0.02,), knns=(), most=1))
    assert f" on {len(CORPUS)} sentences: F1" in str(calibrate(model, ks=(2,), lrs=(0.02,), knns=()))
    alone = Memory(model)
    alone.add(CORPUS[:1])
    assert [repr(memory)[:20] for memory in (alone, Memory(model))] == ["Memory(1 sentence, i", "Memory(0 sentences, "]


def test_a_large_memory_is_sampled_over_all_of_it(model):
    found = calibrate(model, most=5, ks=(1,), lrs=(0.1,))
    assert found.sentences == 5


@pytest.mark.usefixtures("_adapting_is_best")
def test_more_steps_and_fewer_layers_are_tried_with_the_best(model):
    found = calibrate(model, ks=(2,), lrs=(0.3,), steps=(1, 3, 2), knns=())
    tried = [(t.inner.lr, t.inner.steps) for t in found.trials[1:]]
    assert tried[:3] == [(0.3, 1), (0.3, 2), (0.3, 3)]
    assert set(tried[3:]) == {((0.0, 0.3, 0.3), 1), ((0.0, 0.0, 0.3), 1)}


def test_what_cannot_be_calibrated_is_refused(model):
    lonely = Memory(model)
    lonely.add(CORPUS[0])
    with pytest.raises(EmptyDataError, match="fewer than two"):
        calibrate(model, lonely)
    for wrong in ({"ks": ()}, {"ks": (0,)}, {"lrs": ()}, {"most": 0}, {"lrs": (-1.0,)}):
        with pytest.raises(SettingError, match="expected"):
            calibrate(model, **wrong)
    with pytest.raises(Exception, match="memory"):
        calibrate(model_of("bert", seed=3), model.memory)


@pytest.fixture
def large_steps(model, monkeypatch):
    """A network with random weights tags the same after small ones."""
    monkeypatch.setattr(model, "settings", replace(model.settings, lr={"adamw": 0.003}))
    return model


def test_learning_from_all_wins_if_it_gains_at_all(large_steps, monkeypatch):
    gains = iter([0.01, 0.3])
    monkeypatch.setattr(trials, "_sure_gain", lambda *_: next(gains))
    found = calibrate(large_steps, knns=(0.5,))
    assert [(trial.k, trial.knn, trial.margin) for trial in found.trials] == [
        (0, 0.0, 0.0),
        ("all", 0.0, 0.01),
        (0, 0.5, 0.3),
    ]
    assert found.best == found.trials[1]


@pytest.mark.parametrize("enough", [len(CORPUS), len(CORPUS) + 1])
def test_learning_from_all_that_goes_astray_is_no_choice(model, monkeypatch, enough):
    monkeypatch.setattr(calibration, "_MANY", enough)
    monkeypatch.setattr(model, "settings", replace(model.settings, lr={"adamw": 1e30}))
    assert [trial.k for trial in calibrate(model, ks=("all", 2), lrs=(1e-9,), knns=()).trials] == [0, 2]


def test_learning_from_all_leaves_out_the_third_of_the_sentence(large_steps):
    model = large_steps
    found = calibrate(model, ks=("all",), knns=())
    assert [trial.k for trial in found.trials] == [0, "all"]
    inner = found.trials[1].inner
    assert inner == FineTuning(model.settings.lr["adamw"])
    tagged = [()] * len(CORPUS)
    for fold in range(3):
        others = [sentence for i, sentence in enumerate(CORPUS) if i % 3 != fold]
        learned = fine_tuned_model(model, others, replace(inner, steps=8), Computation())
        held_out = decode([r.logits for r in learned.read(CORPUS)], model.labels, model.settings.decoding)
        tagged[fold::3] = [tags for tags, _ in held_out][fold::3]
    assert found.trials[1].score == score([s.tags for s in CORPUS], tagged) != found.plain.score


def test_sentences_of_the_same_words_are_left_out_together(large_steps):
    model = large_steps
    memory = Memory(model)
    memory.add([CORPUS[0], CORPUS[0].with_tags(("O",) * len(CORPUS[0])), CORPUS[1], CORPUS[2]])
    found = calibrate(model, memory, ks=("all",), knns=())
    gold = [sentence.tags for _, sentence in memory]
    how = replace(found.trials[1].inner, steps=8)
    tagged = []
    for _, sentence in memory:
        others = [other for _, other in memory if other.words != sentence.words]
        learned = fine_tuned_model(model, others, how, Computation())
        [(tags, _)] = decode([learned.read([sentence])[0].logits], model.labels, model.settings.decoding)
        tagged.append(tags)
    assert found.trials[1].score == score(gold, tagged)


def test_two_labellings_of_one_text_teach_nothing_about_it(model):
    memory = Memory(model)
    memory.add([CORPUS[0], CORPUS[0].with_tags(("O",) * len(CORPUS[0]))])
    found = calibrate(model, memory, lrs=(0.1,), knns=(0.5,))
    assert found.sentences == 2 and all(trial.score == found.plain.score for trial in found.trials)
    assert found.best == found.plain


def test_what_all_of_it_teaches_has_the_benefit_of_the_doubt_from_twenty_sentences_on(large_steps, monkeypatch):
    model = large_steps

    def tried(enough, **settings):
        monkeypatch.setattr(trials, "_ENOUGH", enough)
        return calibrate(model, lrs=(1e-9,), knns=(), **settings)

    doubted, trusted = tried(len(CORPUS) + 1), tried(len(CORPUS))
    gain = doubted.trials[1].score.f1 - doubted.plain.score.f1
    assert doubted.trials[1].margin <= gain <= trusted.trials[1].margin
    error = gain - doubted.trials[1].margin
    assert error > 0 and trusted.trials[1].margin - gain == pytest.approx(2 * error)
    monkeypatch.setattr(trials, "_sure_gain", lambda *_: 0.01)
    assert [trial.k for trial in tried(1).trials] == [0, "all"]  # what holds is not compared with dearer choices
    assert tried(1).arguments["k"] == "all"
    assert adapt(model, CORPUS[:2], **tried(1).arguments)[0].profile.engine == "fine-tuned"
    assert {trial.k for trial in tried(1, most_for_all=len(CORPUS) - 1).trials} == {0, 2, 4}
    monkeypatch.setattr(trials, "_sure_gain", lambda *_: 0.0)
    assert tried(len(CORPUS)).arguments["k"] == "all"  # a trial so short need not change a tag of so few
    assert tried(len(CORPUS) + 1).arguments["k"] == 0
    model.memory = Memory(model)
    model.memory.add([sentence.with_tags(("O",) * len(sentence)) for sentence in CORPUS])
    assert tried(1).arguments["k"] == 0  # nor is there anything to be learned without an entity


def test_from_forty_sentences_on_no_step_on_the_nearest_stands_in_for_all(large_steps, monkeypatch):
    monkeypatch.setattr(trials, "_sure_gain", lambda *_: -0.01)

    def tried(enough, **settings):
        monkeypatch.setattr(calibration, "_MANY", enough)
        found = calibrate(large_steps, lrs=(0.3,), knns=(0.5,), **settings)
        assert found.best == found.plain
        return [(trial.k, trial.knn) for trial in found.trials]

    assert tried(len(CORPUS)) == [(0, 0.0), ("all", 0.0), (0, 0.5)]
    assert tried(len(CORPUS) + 1) == [(0, 0.0), ("all", 0.0), (2, 0.0), (4, 0.0), (0, 0.5)]
    assert tried(len(CORPUS), ks=(2,)) == [(0, 0.0), (2, 0.0), (0, 0.5)]  # a number alone is what was asked for


def test_a_gain_in_one_sentence_of_many_is_no_gain():
    plain = np.array([[1, 2, 2]] * 20)
    once, often = plain.copy(), plain.copy()
    once[0, 0] = 2
    often[:12, 0] = 2
    assert trials._sure_gain(plain, plain) == 0
    assert -0.02 < trials._sure_gain(once, plain) <= 0.001 < 0.2 < trials._sure_gain(often, plain) < 0.3
    assert trials._sure_gain(plain, often) < -0.3


def test_sentences_that_are_removed_meanwhile(model, monkeypatch):
    """Between any two of its looks at the memory."""
    for after in range(1, 6):
        memory = Memory(model)
        memory.add(CORPUS)
        calls = []

        def found(self, sentence, calls=calls, after=after, find=Memory.find):
            calls.append(sentence)
            if len(calls) == after:
                self.remove(self.ids[-3:])
            return find(self, sentence)

        with monkeypatch.context() as patch:
            patch.setattr(Memory, "find", found)
            assert calibrate(model, memory, ks=("all", 2)).sentences == len(CORPUS)
    taken = []

    def spread(ids, most, spread=contents.spread):
        found = spread(ids, most)
        if not taken:
            taken.append(memory.remove(found[:2]))
        return found

    memory.add(CORPUS)
    monkeypatch.setattr(contents, "spread", spread)
    assert calibrate(model, memory, ks=(2,)).sentences == len(CORPUS) - 2


def test_a_memory_that_is_emptied_meanwhile_has_no_calibration(model, monkeypatch):
    memory = Memory(model)
    memory.add(CORPUS)
    monkeypatch.setattr(trials, "_sure_gain", lambda *_: memory.clear() or 0.0)
    memory.calibrate(ks=(2,))
    assert len(memory) == 0 and memory.calibration is None


def test_a_callers_autocast_changes_nothing(model):
    expected = calibrate(model, ks=(2,), lrs=(0.1,))
    with torch.autocast("cpu", torch.bfloat16):
        found = calibrate(model, ks=(2,), lrs=(0.1,))
    assert found == expected


def test_weights_that_cannot_learn_leave_the_numbers_of_supports(model):
    memory = Memory(model)
    memory.add(CORPUS)
    half = model_of("bert").half()
    half.memory.add(CORPUS)
    found = calibrate(half, lrs=(0.1,))
    assert {trial.k for trial in found.trials} == {0, 2, 4}
    with pytest.raises(SettingError, match="float16"):
        calibrate(half, ks=("all",))
