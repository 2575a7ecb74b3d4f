"""`adapt` and `predict`: nesting, places in the text, settings, and a model that nothing ever moves."""

from __future__ import annotations

import gc
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tasks import reference
from tiny import CORPUS, OVERLAP, WINDOW, model_of, network_of, parse, tokenizer_of

from pymetaner import adapt, predict
from pymetaner.engine import InnerStep, Task
from pymetaner.errors import EncoderMismatchError, InputError, LabelMismatchError, SettingError
from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings
from pymetaner.words import sentence_from_text

TEXTS = [
    "Ada Lovelace wrote to Charles Babbage in London.",
    "👩‍👩‍👧‍👦 Zoë 🇫🇷 met Ann O'Neil 👍🏽 in São Paulo!",
    "وُلِد نجيب محفوظ في القاهرة، مصر.",
    "שלום יעל כהן מתל אביב",
    "Cafe\u0301 Zu\u0308rich, nai\u0308ve A\u030angstro\u0308m",
    "王小明在北京大学读书。東京は大きいです。",
    "ประเทศไทย กรุงเทพ",
    "  two  spaces\tand\nlines \u200b",
    "\ufeffBOM",
]
"""Texts that are easily cut in the wrong place."""


@pytest.fixture(scope="module")
def model():
    tiny = model_of("bert")
    tiny.memory.add(CORPUS)
    return tiny


def state_of(model) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_the_result_is_nested_like_the_input(model):
    one = adapt(model, TEXTS[0])
    many = adapt(model, [TEXTS[0], TEXTS[1]])
    tokens = adapt(model, [["Ada", "Lovelace"], ["London"]])
    assert one.text == TEXTS[0]
    assert [r.text for r in many] == TEXTS[:2]
    assert [e.text for e in many[0].entities] == [e.text for e in one.entities]
    assert [r.text for r in tokens] == ["Ada Lovelace", "London"]
    assert adapt(model, []) == [] == predict(model, [])
    assert [r.text for r in adapt(model, (t for t in TEXTS))] == TEXTS
    assert adapt(model, CORPUS[0]).sentence == CORPUS[0]
    mixed = adapt(model, [TEXTS[0], ["London"], CORPUS[1]])
    assert [type(r.sentence.source) for r in mixed] == [str, tuple, tuple]


@pytest.mark.parametrize("tag", [predict, adapt])
def test_places_count_characters_of_a_text(model, tag):
    found = 0
    for result in tag(model, TEXTS):
        for entity in (*result.entities, *result.base_entities):
            assert result.text[entity.start : entity.end] == entity.text
            assert entity.text.strip() == entity.text
            assert 0 < entity.score <= 1
            assert entity.label in model.types
            found += 1
    assert found > 20


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=3))
def test_any_text_is_tagged_and_places_hold(model, texts):
    results = predict(model, texts)
    assert [r.text for r in results] == texts
    for text, result in zip(texts, results, strict=True):
        at = 0
        for entity in result.entities:
            assert at <= entity.start < entity.end <= len(text)
            assert text[entity.start : entity.end] == entity.text
            at = entity.end


def test_places_count_words_of_a_token_list(model):
    tokens = ["Ada", "Lovelace", "met", "New York", "王", "小", "明", "!", ""]
    result = adapt(model, [tokens])[0]
    assert result.sentence.source == tuple(tokens)
    assert result.entities
    for entity in (*result.entities, *result.base_entities):
        assert " ".join(tokens[entity.start : entity.end]) == entity.text
    assert result.text == " ".join(tokens)


@pytest.mark.parametrize("blank", ["", " ", "\n\t\u3000", "\u00a0"])
def test_blank_text_has_no_entities(model, blank):
    result = adapt(model, blank)
    assert (result.text, result.entities, result.base_entities, result.supports) == (blank, (), (), ())
    assert not result.changed
    assert [r.entities for r in adapt(model, [blank, [], TEXTS[0]])][:2] == [(), ()]


@pytest.mark.parametrize("engine", ["batched", "reference"])
def test_adapted_entities_are_those_of_the_engine(model, engine):
    results = adapt(model, [list(s.words) for s in CORPUS[:5]], k=3, lr=0.2, engine=engine)
    vectors = model.embed(CORPUS[:5])
    for sentence, hits, result in zip(CORPUS, model.memory.search(vectors, 3), results, strict=False):
        assert [(s.sentence, s.similarity) for s in result.supports] == [(h.sentence, h.similarity) for h in hits]
        assert result.supports[0].sentence == sentence
        assert result.supports[0].similarity == pytest.approx(1, abs=1e-5)
        assert result.supports[0].entities == sentence.entities
        task = Task(sentence, tuple(h.sentence for h in hits))
        (logits,) = reference(model, [task], InnerStep(lr=0.2))
        probability = torch.softmax(torch.from_numpy(logits), 1).numpy()
        for entity in result.entities:
            ids = model.labels.encode([f"B-{entity.label}"] + [f"I-{entity.label}"] * (entity.end - entity.start - 1))
            mean = probability[range(entity.start, entity.end), ids].mean()
            assert entity.score == pytest.approx(mean, abs=1e-4)
    assert any(r.changed for r in results)


def test_changed_tells_whether_an_entity_did(model):
    tokens = [list(s.words) for s in CORPUS]
    results = adapt(model, tokens, lr=0.5) + adapt(model, tokens, lr=1e-6)
    for result in results:
        before, after = ([(e.start, e.end, e.label) for e in es] for es in (result.base_entities, result.entities))
        assert result.changed == (before != after)
    assert {r.changed for r in results} == {True, False}
    assert [r.base_entities for r in results] == [r.entities for r in predict(model, tokens)] * 2


def test_learning_from_the_sentence_itself_finds_its_entities():
    network = network_of("bert", hidden_size=64, intermediate_size=128, initializer_range=0.1)
    model = MetaNER(
        network, tokenizer_of("wordpiece"), settings=Settings(window=WINDOW, overlap=OVERLAP, freeze_layers=1)
    )
    for sentence in CORPUS[:4]:
        memory = Memory(model)
        memory.add(sentence)
        result = adapt(model, [list(sentence.words)], memory=memory, k=1, steps=30, lr=0.1)[0]
        places = [(e.start, e.end, e.label) for e in sentence.entities]
        assert [(e.start, e.end, e.label) for e in result.entities] == places


def test_exclude_self_leaves_out_the_same_words(model):
    twin = CORPUS[0].with_tags(["O"] * len(CORPUS[0]))
    memory = Memory(model)
    memory.add([*CORPUS, twin])
    words = list(CORPUS[0].words)
    assert [s.sentence for s in adapt(model, [words], memory=memory)[0].supports] == [CORPUS[0], twin]
    (result,) = adapt(model, [words], memory=memory, k=50, exclude_self=True)
    assert len(result.supports) == len(CORPUS) - 1
    assert all(s.sentence.words != CORPUS[0].words for s in result.supports)


CUT_BY_LABELS = [
    sentence_from_text("Ankara'da Merkel traf Foto-Wettbewerb-Team.", [(0, 6, "LOC"), (22, 26, "ORG")]),
    Sentence(tuple("他在北京大学读书"), ("O", "O", "B-LOC", "I-LOC", "O", "O", "O", "O")),
]


@pytest.mark.parametrize("k", [3, 0])
def test_exclude_self_finds_a_sentence_however_its_words_are_cut_in_the_memory(model, k):
    without = Memory(model)
    without.add([CORPUS[0]])
    for sentence in CUT_BY_LABELS:
        memory = Memory(model)
        memory.add([sentence, CORPUS[0]])
        text = sentence.source if isinstance(sentence.source, str) else "".join(sentence.source)
        for form in (sentence, list(sentence.words), list(text), text):
            found = adapt(model, [form], memory=memory, k=k, knn=0.5, exclude_self=True)[0]
            expected = adapt(model, [form], memory=without, k=k, knn=0.5)[0]
            assert [e.score for e in found.entities] == pytest.approx([e.score for e in expected.entities], abs=1e-5)


def test_more_supports_than_there_are(model):
    assert len(adapt(model, TEXTS[0], k=1000).supports) == len(CORPUS)


def test_batch_size_changes_no_entity(model):
    expected = adapt(model, TEXTS, lr=0.1)
    for batch_size in (1, 2, 100):
        for one, other in zip(expected, adapt(model, TEXTS, lr=0.1, batch_size=batch_size), strict=True):
            places, others = ([(e.start, e.end, e.label) for e in r.entities] for r in (one, other))
            assert places == others
            assert [e.score for e in one.entities] == pytest.approx([e.score for e in other.entities], abs=1e-5)


@pytest.mark.parametrize("engine", ["batched", "reference"])
@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_the_model_stays_as_it_was_to_the_bit(model, engine, mode):
    model.train(mode == "training")
    names = [name for name, _ in model.named_parameters()]
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 > 0)
    before = state_of(model)
    expected = adapt(model, TEXTS, lr=0.1, engine=engine)
    assert state_of(model) == before
    assert [p.requires_grad for p in model.parameters()] == [i % 3 > 0 for i in range(len(names))]
    assert all(p.grad is None for p in model.parameters())
    assert {module.training for module in model.modules()} == {mode == "training"}
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    model.eval()
    assert adapt(model, TEXTS, lr=0.1, engine=engine) == expected  # and dropout was off


@pytest.mark.parametrize("engine", ["batched", "reference"])
def test_eight_threads_share_a_model(model, engine):
    jobs = [[list(s.words) for s in CORPUS[i : i + 2]] for i in range(12)]
    expected = [adapt(model, job, lr=0.1, engine=engine) for job in jobs]
    before = state_of(model)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: adapt(model, job, lr=0.1, engine=engine), jobs))
    assert found == expected
    assert state_of(model) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("engine", ["batched", "reference"])
def test_callers_may_have_switched_gradients_off(model, mode, engine):
    expected = adapt(model, TEXTS[:3], lr=0.1, engine=engine)
    with mode():
        assert adapt(model, TEXTS[:3], lr=0.1, engine=engine) == expected
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()


def test_an_empty_memory_warns_where_the_caller_is_and_predicts(model):
    with pytest.warns(UserWarning, match=r"memory is empty.*memory\.add") as caught:
        results = adapt(model, TEXTS, memory=Memory(model))
    assert caught[0].filename == __file__
    assert results == predict(model, TEXTS)


def test_a_memory_of_another_encoder_is_refused_with_advice(model):
    other = model_of("bert", seed=1)
    with pytest.raises(EncoderMismatchError, match=r"rebuild"):
        adapt(other, TEXTS[0], memory=model.memory)
    moved = model_of("bert")
    moved.memory.add(CORPUS[:3])
    with torch.no_grad():
        moved.network.bert.encoder.layer[0].output.dense.weight += 1e-3
    with pytest.raises(EncoderMismatchError, match=r"rebuild"):
        adapt(moved, TEXTS[0])
    moved.memory.rebuild()
    assert len(adapt(moved, TEXTS[0]).supports) == 2


def test_a_memory_of_other_labels_is_refused():
    model, other = model_of("bert"), model_of("bert", tags=("O", "B-PER", "I-PER"))
    other.network.bert.load_state_dict(model.network.bert.state_dict())
    model.memory.add(CORPUS)
    with pytest.raises(LabelMismatchError, match="LOC, ORG"):
        adapt(other, TEXTS[0], memory=model.memory)
    with pytest.raises(LabelMismatchError, match="MISC"):
        model.memory.add(parse("[Golden Gate|MISC] is red"))


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (5, "the input is of type int"),
        (None, "the input is of type NoneType"),
        (b"Ada", "the input is of type bytes"),
        ({"text": "Ada"}, "the input is of type dict"),
        (["Ada", 5], "item 1 is of type int"),
        ([["Ada", None]], "item 0, token 1: None is a NoneType"),
        ([["Ada"], [["Ada"]]], "item 1, token 0"),
        ([b"Ada"], "item 0 is of type bytes"),
        ("Ada \ud83d", "the input: .*lone surrogate"),
        (["Ada", "\udc00"], "item 1: .*lone surrogate"),
        ([["\ud800"]], "item 0, token 0: .*lone surrogate"),
        (Sentence(("Ada", "\ud800")), "the input, token 1: .*lone surrogate"),
    ],
)
@pytest.mark.parametrize("tag", [predict, adapt])
def test_what_is_no_text_is_refused_by_place(model, tag, x, says):
    with pytest.raises(InputError, match=says):
        tag(model, x)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"memory": CORPUS}, "memory is a list: expected a Memory"),
        ({"k": -1}, "k=-1"),
        ({"k": 1.5}, "k=1.5"),
        ({"k": True}, "k=True"),
        ({"steps": 0}, "steps=0"),
        ({"steps": "1"}, "steps='1'"),
        ({"lr": 0}, "lr=0: expected a positive number"),
        ({"lr": -0.1}, "lr=-0.1"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.0}, "batch_size=2.0"),
        ({"inner_optimizer": "adam"}, "inner_optimizer='adam': expected one of"),
        ({"engine": "fast"}, "engine='fast': expected one of 'auto'"),
        ({"lr": [0.1]}, "1 step sizes: expected 3, one for each of 2 unfrozen layers"),
        ({"lr": [0.1, "0.1", 0.1]}, "expected a number, 0 or more"),
        ({"lambda_max": -1}, "lambda_max=-1"),
        ({"precision": "fp16"}, "precision='fp16': expected one of"),
        ({"memory_bytes": 0}, "memory_bytes=0"),
    ],
)
def test_settings_out_of_range(model, arguments, says):
    with pytest.raises(SettingError, match=says):
        adapt(model, TEXTS[0], **arguments)


def test_the_default_step_is_the_models(model):
    words = [list(s.words) for s in CORPUS[:3]]
    assert adapt(model, words) == adapt(model, words, lr=model.settings.lr["sgd"])
    adam = adapt(model, words, inner_optimizer="bertadam")
    assert adam == adapt(model, words, inner_optimizer="bertadam", lr=model.settings.lr["bertadam"])
    assert adam != adapt(model, words, inner_optimizer="bertadam", lr=0.01)


def test_a_hundred_thousand_characters_lose_nothing(model):
    text = "Ada Lovelace met Charles Babbage in London. " * 2_273
    result = predict(model, text)
    assert len(text) > 100_000
    assert "".join(result.sentence.words) == "".join(text.split())
    assert max(e.end for e in result.entities) > 99_000
    # Far from its ends, every repetition reads the same but for where its window is cut.
    labels = [{(e.start % 44, e.label) for e in result.entities if e.start // 44 == i} for i in range(5, 2_000)]
    assert len({frozenset(found) for found in labels}) < 40
    short = adapt(model, [text[:3_000], TEXTS[0]], lr=0.1)
    assert len(short[0].supports) == 2


def test_a_thousand_adaptations_leave_memory_flat(model):
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")

    def resident() -> int:
        gc.collect()
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    words = [list(s.words) for s in CORPUS]
    for _ in range(8):
        adapt(model, words)
    before = resident()
    for _ in range(63):
        adapt(model, words)
    assert resident() - before < 4e6  # what a call holds while it runs, 63 times, is far more


def test_no_warning_and_no_output(model, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(model, TEXTS, progress=True)
        predict(model, TEXTS, progress=True)
    assert capfd.readouterr() == ("", "")


def test_readings_are_unit_vectors_and_logits(model):
    readings = model.read([*CORPUS, Sentence(())])
    assert [r.logits.shape for r in readings] == [(len(s), 7) for s in (*CORPUS, Sentence(()))]
    norms = [float(np.linalg.norm(r.vector.astype(np.float64))) for r in readings]
    assert norms[:-1] == pytest.approx([1] * len(CORPUS), abs=1e-6)
    assert norms[-1] == 0
    assert model.embed([]).shape == (0, 16)
