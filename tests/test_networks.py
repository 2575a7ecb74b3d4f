"""Networks of other kinds: what can be read is read right, and what cannot is refused when it is loaded."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from tiny import CORPUS, TAGS, model_of, tokenizer_of

from pymetaner import MetaNER, adapt, fine_tune
from pymetaner.engine import InnerStep, SequentialMetaLearner
from pymetaner.errors import ModelFileError, SettingError, UnsupportedModelError
from pymetaner.settings import Settings
from pymetaner.training import MetaSettings, TrainSettings, train

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SIZES |= {"max_position_embeddings": 64, "pad_token_id": 0, "hidden_dropout_prob": 0.0}


def saved(name, folder, **more):
    """A folder with a network with random weights."""
    network_class = getattr(transformers, f"{name}ForTokenClassification")
    tokenizer = tokenizer_of("wordpiece")
    tags = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: i for i, tag in enumerate(TAGS)}}
    torch.manual_seed(0)
    network = network_class(network_class.config_class(vocab_size=len(tokenizer), **SIZES, **tags, **more))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("XLMRoberta", "batched"),
        ("Electra", "batched"),
        ("BioGpt", "batched"),  # defines key, value and query, and calls query first
        ("Bloom", "batched"),  # these two and RoCBert do not take the mask as second argument
        ("GPT2", "reference"),
        ("RoCBert", "batched"),
    ],
)
def test_networks_that_can_be_read(name, engine, tmp_path):
    network = saved(name, tmp_path)
    model = MetaNER.from_pretrained(tmp_path)
    model.settings = Settings(window=48, overlap=8, freeze_layers=1, decoding="argmax")
    for sentence, reading in zip(CORPUS, model.read(CORPUS, batch_size=4), strict=True):
        windows = model.words.windows([sentence])
        if len(windows) == 1:
            ids = torch.tensor([windows[0].ids])
            with torch.inference_mode():
                logits = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            torch.testing.assert_close(torch.from_numpy(reading.logits), logits[list(windows[0].positions)])
    model.memory.add(CORPUS)
    found = [adapt(model, CORPUS, k=2, lr=0.05, engine=engine) for engine in ("auto", "reference")]
    assert found[0][0].profile.engine == engine
    for one, two in zip(*found, strict=True):
        assert [(e.start, e.end, e.label) for e in one.entities] == [(e.start, e.end, e.label) for e in two.entities]
        assert [e.score for e in one.entities] == pytest.approx([e.score for e in two.entities], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "why", "more"),
    [
        ("FNet", "padding changes its logits", {}),
        ("SqueezeBert", "hidden state for each piece", {"embedding_size": 32}),
        ("Longformer", "hidden state for each piece", {"attention_window": [8, 8]}),
    ],
)
def test_networks_that_cannot_are_refused_when_they_are_loaded(name, why, more, tmp_path):
    saved(name, tmp_path, **more)
    with pytest.raises(UnsupportedModelError, match=why):
        MetaNER.from_pretrained(tmp_path)


def same_layer(layers):
    layers[2] = layers[1]


def same_weight(layers):
    layers[2].output.dense.weight = layers[1].output.dense.weight


def weight_of_a_frozen_layer(layers):
    layers[2].output.dense.weight = layers[0].output.dense.weight


def norm_of_a_frozen_layer(layers):
    layers[2].output.LayerNorm = layers[0].output.LayerNorm


@pytest.mark.parametrize("share", [same_layer, same_weight, weight_of_a_frozen_layer, norm_of_a_frozen_layer])
def test_layers_that_are_one_and_the_same_go_to_the_reference_engine(share):
    model = model_of("bert")
    share(model.network.base_model.encoder.layer)
    model.memory.add(CORPUS)
    assert adapt(model, CORPUS[0], lr=0.1).profile.engine == "reference"
    with pytest.raises(UnsupportedModelError, match="one and the same"):
        adapt(model, CORPUS[0], lr=0.1, engine="batched")


@pytest.mark.parametrize("share", [weight_of_a_frozen_layer, norm_of_a_frozen_layer])
def test_weights_of_frozen_layers_do_not_learn(share, tmp_path):
    model = model_of("bert")
    share(model.network.base_model.encoder.layer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UnsupportedModelError, match="frozen layer too"):
        train(model, CORPUS, tmp_path, settings=TrainSettings(steps=2))
    with pytest.raises(UnsupportedModelError, match="frozen layer too"):
        fine_tune(model, CORPUS, steps=2)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_float16_weights_do_not_learn(tmp_path):
    model = model_of("bert").half()
    model.memory.add(CORPUS)
    with pytest.raises(SettingError, match=r"float16.*expected float32"):
        adapt(model, CORPUS[0], k="all")
    for meta in (None, MetaSettings(k=1, optimizer="bertadam")):
        with pytest.raises(SettingError, match=r"float16.*expected float32"):
            train(model, CORPUS, tmp_path, settings=TrainSettings(steps=2), meta=meta)
    with pytest.raises(SettingError, match=r"float16.*expected float32"):
        SequentialMetaLearner(model, InnerStep(0.01, optimizer="bertadam"))


@pytest.mark.parametrize(
    "change",
    [
        5,
        None,
        [],
        {"id2label": ["O"] * len(TAGS)},
        {"id2label": "x"},
        {"num_hidden_layers": "x"},
        {"num_attention_heads": 0},
        {"hidden_size": 17},
    ],
    ids=str,
)
def test_damaged_configs(change, tmp_path):
    saved("Bert", tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | change if isinstance(change, dict) else change))
    with pytest.raises(ModelFileError):
        MetaNER.from_pretrained(tmp_path)
