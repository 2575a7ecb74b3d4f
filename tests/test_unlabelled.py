"""Pseudo-labels: the model's own tags for a memory, where it is sure, and to train itself with."""

from __future__ import annotations

import pytest
import torch
from tiny import CORPUS, model_of

from pymetaner import Memory, MetaNER, adapt, predict, self_train
from pymetaner.engine import Computation, FineTuning, fine_tuned_model
from pymetaner.errors import EmptyDataError, EncoderMismatchError, InputError, SettingError
from pymetaner.tagger import tag
from pymetaner.unlabelled import pseudo_labelled


def test_labels_are_the_models_own_where_it_is_sure(model):
    tokens = [list(s.words) for s in CORPUS]
    every = pseudo_labelled(model, tokens, confidence=0.0)
    results = predict(model, tokens)
    expected = [r for r in results if r.entities]
    assert [s.words for s in every] == [r.sentence.words for r in expected]
    assert [[(e.start, e.end, e.label) for e in s.entities] for s in every] == [
        [(e.start, e.end, e.label) for e in r.entities] for r in expected
    ]
    assert len(every) > 0
    assert len(pseudo_labelled(model, tokens, confidence=1.0)) == 0
    with pytest.raises(SettingError, match="confidence"):
        pseudo_labelled(model, tokens, confidence=2)


def test_a_memory_takes_them(model):
    memory = Memory(model)
    texts = [s.text for s in CORPUS]
    ids = memory.add_unlabelled(texts, confidence=0.0, source="web")
    assert len(memory) == len(set(ids)) > 0
    assert memory.sources() == {"web": sorted(set(ids))}
    assert memory.add_unlabelled(texts, confidence=1.0) == []


def test_a_sentence_with_an_empty_token_is_left_out_and_the_others_added(model):
    memory = Memory(model)
    tokens = [list(s.words) for s in CORPUS]
    expected = memory.add_unlabelled(tokens, confidence=0.0)
    other = Memory(model)
    assert other.add_unlabelled([[*tokens[0], "", "Ada"], *tokens, [""], []], confidence=0.0) == expected
    assert [s for _, s in other] == [s for _, s in memory]


def logits_of(model):
    return torch.cat([torch.from_numpy(reading.logits) for reading in model.read(CORPUS)])


def test_self_training_is_fine_tuning_on_the_models_own_tags(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = [list(s.words) for s in CORPUS]
    trained = self_train(model, [*tokens, []], steps=3, lr=0.003, mask_probability=0.5, seed=4)
    blind = [sentence.with_tags(None) for sentence in CORPUS]
    own = [
        s.with_tags(item.base_tags) for s, item in zip(blind, tag(model, blind, None, Computation())[0], strict=True)
    ]
    how = FineTuning(0.003, 3, mask_probability=0.5, seed=4, interpolation=0.6)
    assert (logits_of(trained) == logits_of(fine_tuned_model(model, own, how, Computation()))).all()
    assert (logits_of(trained) - logits_of(model)).abs().max() > 0.01
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


def test_labels_that_texts_have_are_not_looked_at(model):
    blind = [sentence.with_tags(None) for sentence in CORPUS]
    found = [self_train(model, texts, steps=2, lr=0.01) for texts in (CORPUS, blind)]
    assert (logits_of(found[0]) == logits_of(found[1])).all()


def test_a_self_trained_model_has_a_memory_of_its_own_and_can_be_saved(tmp_path):
    model = model_of("bert")
    model.memory.add(CORPUS[:6])
    trained = self_train(model, [s.text for s in CORPUS], steps=2, lr=0.003)
    assert [s for _, s in trained.memory] == [s for _, s in model.memory]
    trained.memory.remove(trained.memory.ids[:1].tolist())
    assert (len(trained.memory), len(model.memory)) == (5, 6)
    trained.save_pretrained(tmp_path / "saved")
    again = MetaNER.from_pretrained(tmp_path / "saved")
    assert adapt(again, CORPUS, lr=0.1) == adapt(trained, CORPUS, lr=0.1)
    assert len(model_of("bert").memory) == len(self_train(model_of("bert"), ["Ada slept"], steps=1).memory) == 0


def test_self_training_tells_what_is_wrong(model):
    for texts, error in (([], EmptyDataError), (["", " "], EmptyDataError), ([3], InputError)):
        with pytest.raises(error):
            self_train(model, texts)
    for wrong in ({"steps": 0}, {"lr": -1.0}, {"mask_probability": 2}):
        with pytest.raises(SettingError, match="expected"):
            self_train(model, ["Ada slept"], **wrong)


def test_of_more_texts_than_the_steps_take_some_are_tagged(model, monkeypatch):
    seen = []
    monkeypatch.setattr("pymetaner.unlabelled.fine_tuned_model", lambda m, s, *_: seen.append(s) or m)
    self_train(model, CORPUS * 10, steps=1)
    assert 16 <= len(seen[0]) <= 32 and len({s.words for s in seen[0]}) > 3


def test_a_memory_of_another_model_is_told_before_the_work(model, monkeypatch):
    other = model_of("bert", seed=5)
    other.memory.add(CORPUS)
    model.memory = other.memory
    monkeypatch.setattr("pymetaner.unlabelled.fine_tuned_model", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(EncoderMismatchError):
        self_train(model, [s.text for s in CORPUS])
