"""What a model learned from: noted by training, kept with the model, and told from sentences of another kind."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from test_training import SHORT
from tiny import CORPUS, model_of, parse

import pymetaner
from pymetaner import Memory, MetaNER, MetaSettings, Sentence, average, extend, fine_tune, self_train, source, train
from pymetaner.errors import ModelFileError
from pymetaner.source import Source

DIM = 8


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def kinds(*sizes, spread=0.3):
    """Unit vectors of several kinds of sentences, each around a direction of its own."""
    drawn = np.random.default_rng(0)
    return [unit(np.eye(DIM)[i] + spread * drawn.standard_normal((size, DIM))) for i, size in enumerate(sizes)]


class Encoder:
    """Makes the same of every sentence."""

    def __init__(self, made=0):
        self.made = made

    def embed(self, sentences):
        return np.eye(DIM, dtype=np.float32)[[self.made] * len(sentences)]


def of(vectors):
    return Source(vectors, Encoder().embed([None])[0])


def test_sentences_of_a_kind_that_was_learned_are_known_and_others_are_not():
    first, second, other = kinds(300, 300, 100)
    learned = of(np.concatenate([first[:250], second[:250]]))
    assert learned.knows(Encoder(), first[250:]) and learned.knows(Encoder(), second[250:])
    assert learned.knows(Encoder(), np.concatenate([first[250:], second[250:]]))
    assert not learned.knows(Encoder(), other)
    assert not learned.knows(Encoder(), np.concatenate([first[250:270], other]))


def test_however_many_there_are_of_them():
    """Hundreds of the same kind are nearer to each other than to the source; no more are compared than it can bear."""
    known, other = kinds(5500, 5000)
    learned = of(known[:500])
    assert learned.knows(Encoder(), known[500:]) and not learned.knows(Encoder(), other)


def test_too_few_of_them_or_of_what_was_learned_are_not_known():
    (known,) = kinds(400)
    assert of(known[:300]).knows(Encoder(), known[300:310])
    assert not of(known[:300]).knows(Encoder(), known[300:309])
    assert not of(known[:249]).knows(Encoder(), known[300:])
    assert not of(known[:0]).knows(Encoder(), known[300:])
    assert not of(known[:300]).knows(Encoder(), known[:0])


def test_vectors_of_another_encoder_are_no_measure():
    (known,) = kinds(400)
    assert not of(known[:300]).knows(Encoder(made=1), known[300:])
    assert not Source(known[:300], np.ones(3, np.float32)).knows(Encoder(), known[300:])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    model = model_of("bert")
    train(model, [*CORPUS, Sentence((), ())], folder, dev=CORPUS[:4], settings=SHORT)
    return folder, model


def same(ours, theirs):
    return np.array_equal(ours.vectors, theirs.vectors) and np.array_equal(ours.probe, theirs.probe)


def test_training_notes_what_was_learned(trained, tmp_path):
    folder, model = trained
    np.testing.assert_allclose(model.source.vectors, model.embed(CORPUS), atol=1e-3)
    again = model_of("bert")
    train(again, [*CORPUS, Sentence((), ())], folder, dev=CORPUS[:4], settings=SHORT)  # takes over what is there
    for other in (again, MetaNER.from_pretrained(folder), copy.deepcopy(model)):
        assert same(other.source, model.source)
    meta = model_of("bert")
    train(meta, CORPUS, tmp_path / "meta", settings=replace(SHORT, steps=2), meta=MetaSettings(plain_share=0.0))
    assert same(MetaNER.from_pretrained(tmp_path / "meta").source, model.source)
    assert model_of("bert").source is None


def test_at_most_a_thousand_stand_for_all(monkeypatch):
    monkeypatch.setattr(source, "_MOST", 4)
    model = model_of("bert")
    noted = Source.of(model, CORPUS)
    np.testing.assert_allclose(noted.vectors, model.embed(CORPUS[:: len(CORPUS) // 4][:4]), atol=1e-3)
    more = Source.of(model, CORPUS[1:3], before=noted)
    assert len(more.vectors) == 4 and len({*map(bytes, more.vectors)}) == 4
    assert same(Source.of(model, CORPUS, before=noted), noted)  # the same sentences again
    stranger = Source(noted.vectors, -noted.probe)
    assert same(Source.of(model, CORPUS, before=stranger), noted)


def test_models_made_of_a_model_know_what_it_knows(trained):
    _, model = trained
    more = [parse("[Lee|PER] met [Kim|PER] in [Oslo|LOC]"), parse("nobody was there")]
    tuned = fine_tune(model, more, steps=1)
    assert len(tuned.source.vectors) == len(model.source.vectors) + 2
    assert same(self_train(model, ["Ada lives in Rome."], steps=1).source, model.source)
    assert same(extend(model, [parse("[Aspirin|DRUG] helps")]).source, model.source)
    assert same(average([model, model]).source, model.source)
    assert len(average([model, tuned]).source.vectors) == len(tuned.source.vectors)
    unknown = copy.deepcopy(model)
    unknown.source = None
    assert average([model, unknown]).source is None


@pytest.mark.parametrize("form", ["packed", "bfloat16"])
def test_rounded_weights_are_the_same_encoder(trained, tmp_path, form):
    _, model = trained
    model.save_pretrained(tmp_path, packed=form == "packed")
    loaded = MetaNER.from_pretrained(tmp_path, dtype=torch.bfloat16 if form == "bfloat16" else torch.float32)
    assert loaded.source._fits(loaded.embed([source.PROBE])[0])
    assert not loaded.source._fits(model_of("bert", seed=5).embed([source.PROBE])[0])


def test_a_folder_holds_what_its_model_learned_from_and_nothing_older(trained, tmp_path):
    _, model = trained
    model.save_pretrained(tmp_path)
    file = tmp_path / "source.safetensors"
    assert load_file(file)["vectors"].dtype == np.float16
    (tmp_path / "model.safetensors").rename(tmp_path / "moved")
    with pytest.raises(ModelFileError, match=r"no \*\.safetensors file"):  # that of the source has no weights
        MetaNER.from_pretrained(tmp_path)
    (tmp_path / "moved").rename(tmp_path / "model.safetensors")
    vectors, probe = np.ones((3, 4), np.float16), np.ones(4, np.float16)
    for damaged in (
        {"vectors": vectors},
        {"vectors": vectors, "probe": np.ones(3, np.float16)},
        {"vectors": vectors[0], "probe": probe},
        {"vectors": vectors * np.float16("nan"), "probe": probe},
    ):
        save_file(damaged, file)
        with pytest.raises(ModelFileError, match=r"source\.safetensors is damaged"):
            MetaNER.from_pretrained(tmp_path)
    file.write_bytes(b"no such thing")
    with pytest.raises(ModelFileError, match=r"source\.safetensors is damaged"):
        MetaNER.from_pretrained(tmp_path)
    model_of("bert").save_pretrained(tmp_path)
    assert not file.exists() and MetaNER.from_pretrained(tmp_path).source is None


def test_where_the_model_knows_such_sentences_learning_from_them_has_to_gain(monkeypatch):
    model = model_of("bert")
    model.settings = replace(model.settings, lr={"adamw": 0.003})  # a network with random weights barely moves else
    model.memory = Memory(model)
    model.memory.add(CORPUS)
    monkeypatch.setattr("pymetaner.trials._ENOUGH", 1)
    new = model.memory.calibrate(knns=())
    monkeypatch.setattr(Source, "knows", lambda *_: True)
    assert model.memory.calibrate(knns=()).known is False  # it is not known what it learned from
    model.source = Source.of(model, CORPUS)
    known = model.memory.calibrate(knns=())
    assert known.known and not new.known
    assert "learned from sentences like these" in str(known) and "learned from" not in str(new)
    from_all = [next(trial for trial in found.trials if trial.k == "all") for found in (known, new)]
    gain = from_all[0].score.f1 - known.plain.score.f1
    assert from_all[0].score == from_all[1].score
    assert from_all[0].margin < gain < from_all[1].margin


def test_the_default_model_knows_the_languages_that_it_learned():
    model = pymetaner.default_model()
    ids = model.memory.sources()
    for held_out, known in (("uner/da_ddt", True), ("uner/en_ewt", True), ("europeana/fr", False)):
        sentences = [model.memory[i] for i in ids[held_out][:40]]
        assert model.source.knows(model, model.embed(sentences)) is known
