"""Averaging models: the mean of their weights, what belongs together, and what the new model has besides."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny import CORPUS, TAGS, model_of, network_of

from pymetaner import MetaNER, average, fine_tune, predict, self_train
from pymetaner.errors import LabelMismatchError, SettingError, UnsupportedModelError
from pymetaner.network import adapted_parameters


@pytest.fixture(scope="module")
def models():
    """A model, and two that learned different things from its weights on."""
    first = model_of("bert")
    halves = (CORPUS[:8], CORPUS[8:])
    return [first, *(fine_tune(first, half, steps=3, lr=0.01, seed=i) for i, half in enumerate(halves))]


def test_every_weight_is_the_mean(models):
    before = [{name: tensor.clone() for name, tensor in model.network.state_dict().items()} for model in models]
    averaged = average(models)
    for name, tensor in averaged.network.state_dict().items():
        mean = sum(tensors[name].double() for tensors in before) / 3
        assert torch.allclose(tensor.double(), mean, rtol=0, atol=1e-7)
    moved = adapted_parameters(models[0].network, models[0].settings.freeze_layers)
    assert any(not torch.equal(before[0][name], before[1][name]) for name in moved)
    for model, tensors in zip(models, before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.network.state_dict().items())


def test_the_mean_of_one_is_that_one(models):
    alone = average(models[1:2])
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), models[1].parameters(), strict=True))
    assert [r.entities for r in predict(alone, CORPUS)] == [r.entities for r in predict(models[1], CORPUS)]
    with torch.no_grad():  # and stays what it is when that one changes
        models[1].network.classifier.bias.add_(1)
        assert not torch.equal(alone.network.classifier.bias, models[1].network.classifier.bias)
        models[1].network.classifier.bias.sub_(1)


def test_frozen_weights_are_shared_and_the_memory_is_a_copy(models):
    first = models[0]
    first.memory.add(CORPUS[:5])
    averaged = average(iter(models))
    frozen = {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in averaged.parameters()}
    assert len(frozen) == sum(1 for _ in first.network.parameters()) - len(
        adapted_parameters(first.network, first.settings.freeze_layers)
    )
    assert len(averaged.memory) == 5 and averaged.fingerprint == first.fingerprint
    averaged.memory.add(CORPUS[5:7])
    assert len(first.memory) == 5
    first.memory.clear()


def test_it_is_saved_like_any_other(models, tmp_path):
    averaged = average(models)
    averaged.save_pretrained(tmp_path / "mean")
    again = MetaNER.from_pretrained(tmp_path / "mean")
    assert [r.entities for r in predict(again, CORPUS)] == [r.entities for r in predict(averaged, CORPUS)]


def test_what_does_not_belong_together_is_refused(models):
    first = models[0]
    with pytest.raises(SettingError, match="one or more"):
        average([])
    with pytest.raises(SettingError, match="Sentence"):
        average([first, CORPUS[0]])
    with pytest.raises(SettingError, match=r"models\[1\]='runs/b'.*from_pretrained"):
        average([first, "runs/b"])
    for alone in (3, first, "runs/a"):
        with pytest.raises(SettingError, match=f"models is a {type(alone).__name__}: expected a list"):
            average(alone)
    swapped = ("O", *(tag for tag in TAGS[:0:-1]))
    network = network_of("bert", tags=swapped)
    with pytest.raises(LabelMismatchError, match="model 1 has the tags O, I-LOC"):
        average([first, MetaNER(network, first.tokenizer, settings=first.settings)])
    with pytest.raises(UnsupportedModelError, match="model 2 has other frozen weights"):
        other = model_of("bert")
        other.settings = replace(other.settings, freeze_layers=0)
        average([first, models[1], other])
    with pytest.raises(UnsupportedModelError, match="tokenizer"):
        average([first, model_of("xlm-roberta")])
    head = fine_tune(first, CORPUS, steps=1)
    with torch.no_grad():
        head.network.classifier.weight.copy_(torch.randn_like(head.network.classifier.weight))
    with pytest.raises(UnsupportedModelError, match="one and the same seed"):
        average([first, head])


def test_heads_that_are_no_numbers_are_refused(models):
    broken = copy.deepcopy(models[0])
    with torch.no_grad():
        broken.network.classifier.weight.fill_(torch.nan)
    with pytest.raises(UnsupportedModelError, match="nothing in common"):
        average([models[0], broken])


def test_where_no_layer_is_frozen_a_memory_is_embedded_anew():
    model = model_of("bert")
    model.settings = replace(model.settings, freeze_layers=0)
    model.memory.add(CORPUS)
    tuned = fine_tune(model, steps=2)
    trained = self_train(model, [sentence.text for sentence in CORPUS], steps=2)
    for new in (tuned, trained, average([tuned, trained])):
        assert len(new.memory) == len(CORPUS) and new.fingerprint != model.fingerprint
        new.memory.check(new)
        found = new.memory.search(new.embed(CORPUS[3:4]), k=1)[0]
        assert found[0].similarity == pytest.approx(1, abs=1e-5)


def test_models_whose_layers_share_a_weight():
    first = model_of("bert")
    layers = first.network.bert.encoder.layer
    layers[2].output.dense.weight = layers[1].output.dense.weight
    second = fine_tune(first, CORPUS, steps=3, lr=0.01)
    averaged = average([first, second]).network
    for name, tensor in averaged.state_dict().items():
        mean = (first.network.state_dict()[name].double() + second.network.state_dict()[name].double()) / 2
        assert torch.allclose(tensor.double(), mean, rtol=0, atol=1e-7)
    layers = averaged.bert.encoder.layer
    assert layers[2].output.dense.weight is layers[1].output.dense.weight
