"""New entity types: what the head learns, what stays, and that the new model is a whole one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import SHORT
from tiny import CORPUS, OVERLAP, TAGS, WINDOW, model_of, network_of, parse, tokenizer_of
from torch import nn

from pymetaner import MetaNER, Settings, adapt, evaluate, extend, train
from pymetaner.errors import EmptyDataError, LabelMismatchError, LabelSchemeError, UnsupportedModelError
from pymetaner.labels import LabelScheme
from pymetaner.network import adapted_parameters

NEW = [
    parse("[aspirin|DRUG] helps [Ada Lovelace|PER] ."),
    parse("Nobody took [vitamin sea|DRUG] yesterday ."),
    parse("[Grace Hopper|PER] wrote in [London|LOC] about [aspirin|DRUG] and [vitamin sea|DRUG] ."),
    parse("It rained yesterday ."),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> MetaNER:
    """A model that tags its training corpus well, and remembers it."""
    network = network_of("bert", hidden_size=64, intermediate_size=128, initializer_range=0.1)
    settings = Settings(window=WINDOW, overlap=OVERLAP, freeze_layers=1)
    model = MetaNER(network, tokenizer_of("wordpiece"), settings=settings)
    run = replace(SHORT, steps=100, batch_size=8, lr=3e-3, mask_probability=0.0, lambda_max=0.0, evaluate_every=100)
    train(model, CORPUS, tmp_path_factory.mktemp("run"), settings=run)
    model.memory.add(CORPUS)
    return model


def test_a_new_type_is_learned_and_the_old_ones_stay(trained):
    before = evaluate(trained, CORPUS).plain
    extended = extend(trained, NEW)
    assert extended.types == trained.types | {"DRUG"}
    assert extended.labels.tags == (*TAGS, "B-DRUG", "I-DRUG")
    assert evaluate(extended, NEW).plain.per_type["DRUG"].f1 == 1
    assert evaluate(extended, CORPUS).plain.f1 >= before.f1 - 0.02
    assert trained.types == {"PER", "ORG", "LOC"}
    assert evaluate(trained, CORPUS).plain == before


def test_the_memory_keeps_the_old_types(trained):
    forgetful = MetaNER(trained.network, trained.tokenizer, labels=trained.labels, settings=trained.settings)
    words = [s for s in NEW if "DRUG" in str(s.tags)][:1]  # too little to tell a drug from other entities
    with_memory, without = extend(trained, words), extend(forgetful, words)
    drugs = [
        sum(tag.endswith("DRUG") for s in CORPUS for tag in model.labels.decode(logits_of(model, s).argmax(1)))
        for model in (with_memory, without)
    ]
    assert drugs[0] < drugs[1]


def logits_of(model: MetaNER, sentence) -> np.ndarray:
    return model.read([sentence])[0].logits


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "distilbert", "electra", "deberta-v2", "modernbert"])
def test_old_logits_stay_what_they_were(name):
    model = model_of(name, window=40)
    extended = extend(model, NEW)
    for sentence in CORPUS[:4]:
        old, new = logits_of(model, sentence), logits_of(extended, sentence)
        assert new.shape[1] == old.shape[1] + 2
        np.testing.assert_allclose(new[:, : old.shape[1]], old, rtol=0, atol=1e-5)
        assert np.isfinite(new).all()
    own = {p.data_ptr() for p in adapted_parameters(model.network, model.settings.freeze_layers).values()}
    assert own and not own & {p.data_ptr() for p in extended.parameters()}


def test_frozen_weights_are_shared_and_vectors_stay(trained):
    extended = extend(trained, NEW)
    assert extended.fingerprint == trained.fingerprint
    for name, tensor in trained.vector_tensors().items():
        assert extended.vector_tensors()[name].data_ptr() == tensor.data_ptr(), name
    assert all(p.requires_grad for p in extended.parameters())


def test_its_memory_takes_the_new_type(trained, tmp_path):
    extended = extend(trained, NEW)
    assert len(extended.memory) == len(CORPUS)
    with pytest.raises(LabelMismatchError):
        trained.memory.add(NEW)
    extended.memory.add(NEW)
    assert len(extended.memory) == len(CORPUS) + len(NEW) and len(trained.memory) == len(CORPUS)
    extended.save_pretrained(tmp_path)
    loaded = MetaNER.from_pretrained(tmp_path)
    assert (loaded.labels, loaded.settings) == (extended.labels, extended.settings)
    assert "DRUG" in loaded.memory.types
    result = adapt(loaded, NEW[1].text, k=1)
    assert [(e.text, e.label) for e in result.base_entities] == [("vitamin sea", "DRUG")]
    assert result.supports[0].sentence == NEW[1]
    assert result == adapt(extended, NEW[1].text, k=1)
    twice = extend(loaded, [parse("[Mars|PLANET] is [Ada Lovelace|PER] far .")])
    assert twice.types == trained.types | {"DRUG", "PLANET"}


def test_a_model_can_be_trained_further(trained, tmp_path):
    extended = extend(trained, NEW)
    before = {name: p.clone() for name, p in trained.network.named_parameters()}
    train(extended, [*CORPUS, *NEW], tmp_path, settings=replace(SHORT, steps=3))
    assert all(torch.equal(p, before[name]) for name, p in trained.network.named_parameters())


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (("O", "B-PER", "I-PER", "X"), ("B-LOC", "I-LOC")),
        (("O", "PER_B", "PER_I", "PER_E", "PER_S"), ("LOC_B", "LOC_I", "LOC_E", "LOC_S")),
        (("O", "I-PER", "B-ORG", "I-ORG"), ("B-LOC", "I-LOC")),
        (("O", "PER"), ("LOC",)),
    ],
)
def test_new_tags_are_written_like_the_old_ones(tags, expected):
    scheme = LabelScheme.from_tags(tags).with_types(["LOC", "PER", "LOC"])
    assert scheme.tags == (*tags, *expected)
    assert LabelScheme.from_tags(scheme.tags) == scheme
    assert scheme.decode(scheme.encode(("B-LOC", "O", "B-PER"))) == ("B-LOC", "O", "B-PER")


def test_nothing_new_is_an_error(trained):
    with pytest.raises(EmptyDataError, match="no entity of a new type"):
        extend(trained, CORPUS)
    for scheme in (trained.labels, LabelScheme.from_tags(("O", "PER"))):
        with pytest.raises(LabelSchemeError, match="other than 'O'"):
            scheme.with_types(["LOC", "O"])
    with pytest.raises(LabelSchemeError, match="other than 'O'"):
        extend(trained, [parse("[Aspirin|O] helps .")])
    model = model_of("bert")
    model.network.classifier = nn.Sequential(model.network.classifier)
    with pytest.raises(UnsupportedModelError, match="linear layer"):
        extend(model, NEW)
