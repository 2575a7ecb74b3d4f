"""Input of the wrong kind, over the whole public API: an error of our own that says what was expected."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from tiny import CORPUS, model_of

import pymetaner
from pymetaner import (
    FactorCache,
    LabelScheme,
    Memory,
    MetaNER,
    MetaSettings,
    PymetanerError,
    Sentence,
    Settings,
    TrainSettings,
    adapt,
    average,
    calibrate,
    evaluate,
    extend,
    fine_tune,
    from_dataset,
    predict,
    read,
    self_train,
    train,
    write,
)
from pymetaner.engine import FineTuning
from pymetaner.errors import DataError, NumericsError, SettingError
from pymetaner.learning import learning_of
from pymetaner.reading import Reading
from pymetaner.unlabelled import pseudo_labelled

NUMBERS = (None, "a", "1", [1], {}, True, math.nan, math.inf, -math.inf, -1, 1j)


@pytest.fixture(scope="module")
def model():
    tiny = model_of("bert")
    tiny.memory.add(CORPUS)
    return tiny


def refused(call, *arguments, **settings):
    with pytest.raises(PymetanerError) as caught:
        call(*arguments, **settings)
    assert len(str(caught.value)) > 10


@pytest.mark.parametrize(
    "name",
    ["k", "steps", "lr", "lambda_max", "knn", "inner_optimizer", "engine", "batch_size", "precision", "memory_bytes"],
)
def test_settings_of_adapt(model, name):
    for value in NUMBERS:
        if value is not None and not (name == "lr" and value == [1]):
            refused(adapt, model, "Ada slept", **{name: value})
    refused(adapt, model, "Ada slept", lr=[[1], 2])


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (FineTuning, ("lr", "lambda_max", "batch_size", "mask_probability", "interpolation", "seed")),
        (TrainSettings, ("steps", "batch_size", "lr", "warmup", "weight_decay", "clip", "mask_probability", "seed")),
        (TrainSettings, ("lambda_max", "evaluate_every", "checkpoint_every", "optimizer", "scoring", "precision")),
        (MetaSettings, ("k", "steps", "order", "learn_rates", "reduction", "vectors", "leave_out", "optimizer")),
        (Settings, ("window", "overlap", "freeze_layers", "pooling", "decoding", "script", "lr")),
        (FactorCache, ("cache_bytes",)),
    ],
)
def test_settings_objects(kind, names):
    for name in names:
        for value in NUMBERS:
            if (name, value) not in (("learn_rates", True), ("lr", [1]), ("lr", {}), ("interpolation", None)):
                refused(kind, **{name: value})
    for seed in (-1, 2**32, 0.5):
        if "seed" in names:
            refused(kind, seed=seed)


def test_numbers_of_numpy_are_numbers(model):
    found = adapt(model, CORPUS, k=np.int64(2), steps=np.int32(1), lr=np.float32(0.125), batch_size=np.int64(4))
    assert found == adapt(model, CORPUS, k=2, steps=1, lr=0.125, batch_size=4)
    assert TrainSettings(steps=np.int64(3), lr=np.float64(0.5)) == TrainSettings(steps=3, lr=0.5)


def test_other_settings(model):
    for wrong in ({"cache": 5}, {"memory": "x"}, {"memory": model}, {"progress": "x"}, {"progress": 1}):
        refused(adapt, model, "Ada", **wrong)
    for wrong in ("False", 1, 0, None, "x"):
        refused(adapt, model, "Ada", exclude_self=wrong)
        refused(predict, model, "Ada", progress=wrong)
        refused(read, "nowhere.conll", progress=wrong)
    for wrong in ("x", 0, -1, 2.5, None, True):
        refused(extend, model, [Sentence(("Aspirin",), ("B-DRUG",))], batch_size=wrong)
        refused(model.embed, CORPUS, batch_size=wrong)
        refused(model.read, CORPUS, batch_size=wrong)
    with pytest.raises(SettingError, match=r"learning=\{'k': 2\}: expected a Learning: learning_of"):
        evaluate(model, CORPUS, learning={"k": 2})
    refused(calibrate, model, "x")
    for wrong in ({"dtype": "bf16"}, {"dtype": torch.int8}, {"device": "x"}, {"device": 1.5}):
        refused(FactorCache, **wrong)
    for wrong in (
        {"ks": 2}, {"ks": ()}, {"ks": ("ALL",)}, {"ks": (True,)}, {"ks": (0,)}, {"lrs": 0.1}, {"lrs": (math.nan,)},
        {"lrs": ()}, {"steps": (0,)}, {"steps": ("a",)}, {"knns": (5,)}, {"knns": (math.nan,)}, {"most": 2.5},
        {"most": 0}, {"optimizer": "adam"},
    ):  # fmt: skip
        refused(calibrate, model, **wrong)
    for wrong in ({"seed": "a"}, {"seed": 1.5}, {"seed": 2**70}, {"steps": 0}, {"lr": "a"}, {"lr": math.nan}):
        refused(fine_tune, model, **wrong)
        refused(self_train, model, ["Ada slept"], **wrong)
    refused(self_train, model, ["Ada slept"], mask_probability="a")


@pytest.mark.parametrize("x", [None, 5, b"Ada", {"a": 1}, [None], [5], [["Ada", 5]], ["\ud800"], [["\udfff"]], [b"a"]])
def test_what_is_no_text(model, x):
    for call in (adapt, predict, self_train, pseudo_labelled):
        refused(call, model, x)


def test_what_is_no_sentence(model, tmp_path):
    for words, tags in ((None, None), ((5,), None), ("Ada", None), (("Ada",), (5,)), (("Ada",), "O"), (5, None)):
        refused(Sentence, words, tags)
    for sentences in ("abc", None, 5, ["Ada"], [None], [("Ada", "O")]):
        refused(train, model, sentences, tmp_path / "run")
        refused(train, model, CORPUS, tmp_path / "run", dev=sentences if sentences is not None else 5)
        refused(evaluate, model, sentences)
        refused(extend, model, sentences)
        refused(write, tmp_path / "x.jsonl", sentences)
        refused(model.memory.add, sentences)
        if sentences is not None:
            refused(fine_tune, model, sentences)
    assert not (tmp_path / "x.jsonl").exists()
    for dataset in (None, 5, "abc", [5], [{"tokens": None, "ner_tags": []}], [{"tokens": ["a"], "ner_tags": None}]):
        refused(from_dataset, dataset)


@pytest.mark.parametrize("wrong", ["runs/en", None, MetaNER, CORPUS[0]])
def test_what_is_no_model(wrong, tmp_path):
    calls = {
        adapt: ("Ada",), predict: ("Ada",), evaluate: (CORPUS,), extend: (CORPUS,), fine_tune: (CORPUS,),
        calibrate: (), train: (CORPUS, tmp_path / "run"), self_train: (["Ada"],),
    }  # fmt: skip
    for call, others in calls.items():
        with pytest.raises(SettingError, match=r"model=.*expected a MetaNER: load one with MetaNER\.from_pretrained"):
            call(wrong, *others)
    refused(average, [wrong])
    assert not (tmp_path / "run").exists()


def test_what_is_no_path_or_settings(model, tmp_path):
    for wrong in (None, 5, b"run", "a\0b", "\ud800", ["run"]):
        for call, others in ((read, ()), (write, (CORPUS,)), (model.save_pretrained, ()), (model.memory.save, ())):
            with pytest.raises(SettingError, match="is not a path"):
                call(wrong, *others)
        with pytest.raises(SettingError, match=r"out=.* is not a path"):
            train(model, CORPUS, wrong)
    for wrong in ({}, {"steps": 1}, True, "x", MetaSettings()):
        with pytest.raises(SettingError, match=r"settings=.*expected a TrainSettings"):
            train(model, CORPUS, tmp_path / "run", settings=wrong)
    for wrong in ({}, True, False, TrainSettings()):
        with pytest.raises(SettingError, match=r"meta=.*expected a MetaSettings"):
            train(model, CORPUS, tmp_path / "run", meta=wrong)
    refused(train, model, CORPUS, tmp_path / "run", progress="x")
    refused(model.save_pretrained, tmp_path / "run", packed="False")
    assert not (tmp_path / "run").exists()


def test_words_that_teach_nothing(model, tmp_path):
    for call in (fine_tune, model.memory.add, train):
        others = (tmp_path / "run",) if call is train else ()
        first = () if call == model.memory.add else (model,)
        with pytest.raises(DataError, match=r"sentence 1 .* has an empty word"):
            call(*first, [CORPUS[0], Sentence(("Ada", ""), ("B-PER", "O"))], *others)
    assert not (tmp_path / "run").exists()


def test_what_a_model_reads_and_where_it_is(model, tmp_path):
    for wrong in (["Ada"], CORPUS[0], "Ada", None, [("Ada",)]):
        for call in (model.embed, model.read):
            with pytest.raises(DataError, match=r"expected (a )?pymetaner\.Sentence"):
                call(wrong)
    assert model.embed([]).shape == (0, model.dim) and model.read([]) == []
    assert all(isinstance(reading, Reading) for reading in model.read(iter(CORPUS[:2])))
    model.save_pretrained(tmp_path / "model")
    for wrong in ({"device": "gpu"}, {"device": "meta"}, {"device": "cuda:99"}):
        with pytest.raises(SettingError, match=r"device=.*no such device here"):
            MetaNER.from_pretrained(tmp_path / "model", **wrong)
    for wrong in (torch.int8, torch.bool, torch.complex64, "float32", None):
        with pytest.raises(SettingError, match=r"dtype=.*floating-point"):
            MetaNER.from_pretrained(tmp_path / "model", dtype=wrong)
    with pytest.raises(SettingError, match="expected a Settings"):
        MetaNER.from_encoder(tmp_path / "model", settings={"window": 40})


@pytest.mark.parametrize("way", [{"k": 2}, {"k": "all"}, {"k": 0, "knn": 0.5}, {"k": 2, "knn": 0.5}])
def test_an_empty_memory_is_told_once_for_whatever_needs_one(model, way):
    empty = Memory(model)
    for call in (
        lambda: adapt(model, CORPUS, memory=empty, **way),
        lambda: evaluate(model, CORPUS, learning=learning_of(model, empty, **way)),
    ):
        with pytest.warns(UserWarning, match="the memory is empty") as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert adapt(model, CORPUS, memory=empty, k=0) == adapt(model, CORPUS, k=0)
        adapt(model, [], memory=empty, **way)


def test_a_sentence_that_is_not_finite_is_counted_in_all_that_was_given(model, monkeypatch):
    def read_with_one_broken(sentences, **settings):
        readings = reads(sentences, **settings)
        for sentence, reading in zip(sentences, readings, strict=True):
            if sentence.words == ("broken",):
                reading.logits[:] = np.nan
        return readings

    reads = model.read
    monkeypatch.setattr(model, "read", read_with_one_broken)
    monkeypatch.setattr("pymetaner.tagger._CHUNK_SENTENCES", 3)
    plain = Sentence(("It", "rained"), ("O", "O"))
    given = [plain] * 7 + [Sentence(("broken",), ("O",))]
    for call in (predict, adapt):
        with pytest.raises(NumericsError, match="sentence 7 are not finite"):
            call(model, given)
    given[2] = given[5] = Sentence(("not", "labelled"))
    with pytest.raises(NumericsError, match="sentence 7 are not finite"):
        evaluate(model, given)


def test_files_and_labels(tmp_path):
    file = tmp_path / "a.conll"
    file.write_text("Ada B-PER\n", encoding="utf-8")
    for encoding in ("punycode\0", None, "nothing", 5, "utf-8\0"):
        refused(read, file, encoding=encoding)
    refused(read, "a\0b")
    refused(read, tmp_path)
    refused(write, ".", [CORPUS[0]])
    (tmp_path / "long.jsonl").write_text('{"tokens": ["a"], "tags": ["O"], "n": ' + "9" * 5000 + "}\n")
    refused(read, tmp_path / "long.jsonl")
    for types in ("PER", [], [""], ["O"], [5]):
        refused(LabelScheme.from_types, types)
    for name in (None, 5, "", "a\0b"):
        refused(MetaNER.from_pretrained, name)


@pytest.mark.parametrize("words", ["[[0, 3]]", "[]", "[[0, 3], [3, 4], [4, 5]]"])
def test_words_that_leave_text_out(tmp_path, words):
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"text": "Ada b", "spans": [], "words": {words}}}\n', encoding="utf-8")
    refused(read, file)


def test_a_step_that_is_far_too_large_is_told(model):
    for wrong in ({"lr": 1e30}, {"lambda_max": 1e38, "lr": 1e5}, {"k": "all", "lr": 1e30, "steps": 1}):
        with pytest.raises(NumericsError, match="smaller lr"):
            adapt(model, CORPUS, **wrong)
    with pytest.raises(NumericsError):
        self_train(model, ["Ada slept in Paris"], lr=1e30, steps=3)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.network.classifier.bias.fill_(math.nan)
    with pytest.raises(NumericsError, match="NaN"):
        predict(broken, "Ada slept")


def test_copies_are_apart(model):
    copied = copy.deepcopy(model)
    assert adapt(copied, CORPUS) == adapt(model, CORPUS)
    copied.memory.remove(copied.memory.ids[:3].tolist())
    with torch.no_grad():
        copied.network.classifier.bias[0] += 9
    assert len(model.memory) == len(CORPUS)
    assert [r.entities for r in predict(copied, CORPUS)] != [r.entities for r in predict(model, CORPUS)]


def test_settings_that_do_not_fit_the_encoder(model):
    mine = copy.deepcopy(model)
    for wrong in (Settings(window=10**6), Settings(freeze_layers=99), {}, {"window": 16}, None):
        with pytest.raises(SettingError):
            mine.settings = wrong
    for wrong in ({}, {"window": 16}):
        with pytest.raises(SettingError, match="expected a Settings"):
            MetaNER(model.network, model.tokenizer, settings=wrong)
    mine.settings = Settings(window=16, overlap=4, freeze_layers=mine.settings.freeze_layers)
    assert max(len(window.ids) for window in mine.words.windows(CORPUS)) <= 16


def test_labels_do_not_show_where_words_end():
    labelled = Sentence(tuple("他在北京大学读书"), ("O", "O", "B-LOC", "I-LOC", "O", "O", "O", "O"))
    tiny = model_of("bert")
    for call in (predict, adapt):
        with pytest.warns(UserWarning) if call is adapt else pytest.MonkeyPatch.context():
            found = call(tiny, [labelled, labelled.with_tags(None)])
        assert found[0].sentence.words == found[1].sentence.words


def test_memories_that_are_none():
    refused(Memory, "x")
    assert issubclass(pymetaner.PymetanerError, Exception)
