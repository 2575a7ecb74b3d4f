"""Scores of a model: by the words that were labelled, by the types that were labelled, plain and adapted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2
from tiny import CORPUS, model_of, parse

from pymetaner import adapt, evaluate, evaluation, predict
from pymetaner.blinding import aligned, blinded
from pymetaner.engine import InnerStep
from pymetaner.errors import EmptyDataError, EncoderMismatchError, SettingError
from pymetaner.learning import Learning
from pymetaner.memory import Memory
from pymetaner.sentence import Sentence, tag_spans
from pymetaner.tagger import Tagged
from pymetaner.tagging import tags_from_spans
from pymetaner.words import regroup, sentence_from_text

LATIN = [s for s in CORPUS if "明" not in s.text and "京" not in s.text]


def learning_on(model, **changes) -> Learning:
    return Learning(**{"memory": model.memory, "k": 2, "inner": InnerStep(lr=0.1), **changes})


def tags_of(results, which: str) -> list[list[str]]:
    """IOB2 tags from what `adapt` gives, through the places of its entities."""
    return [
        list(tags_from_spans([(e.start, e.end, e.label) for e in getattr(r, which)], len(r.sentence.source)))
        for r in results
    ]


@pytest.mark.parametrize("exclude_self", [False, True])
def test_scores_are_those_of_adapt_and_predict(model, exclude_self):
    found = evaluate(model, LATIN, learning=learning_on(model, exclude_self=exclude_self))
    gold = [list(s.tags) for s in LATIN]
    results = adapt(model, [list(s.words) for s in LATIN], lr=0.1, exclude_self=exclude_self)
    before, after = tags_of(results, "base_entities"), tags_of(results, "entities")
    assert before == tags_of(predict(model, [list(s.words) for s in LATIN]), "entities")
    assert found.plain.f1 == pytest.approx(f1_score(gold, before, mode="strict", scheme=IOB2))
    assert found.adapted is not None
    assert found.adapted.f1 == pytest.approx(f1_score(gold, after, mode="strict", scheme=IOB2))
    assert found.adapted != found.plain
    assert found.changed == sum(one != other for one, other in zip(before, after, strict=True)) > 0
    assert (found.sentences, found.dropped, found.missing) == (len(LATIN), (), ())
    plain = evaluate(model, LATIN)
    assert (plain.plain, plain.adapted, plain.changed) == (found.plain, None, 0)


def tagged_as(monkeypatch, answer) -> list[Sentence]:
    """Let `evaluate` find what `answer` gives for each sentence; the list gets the sentences that it asked about."""
    asked: list[Sentence] = []

    def tag(model, sentences, learning, computation, numbers=None):
        asked.extend(sentences)
        tags = [answer(s) for s in sentences]
        ones = [np.ones(len(s)) for s in sentences]
        return [Tagged(s, t, o, t, o, ()) for s, t, o in zip(sentences, tags, ones, strict=True)], None

    monkeypatch.setattr(evaluation, "tag", tag)
    return asked


def test_chinese_characters_are_read_as_words_and_scored_as_characters(model, monkeypatch):
    gold = Sentence(tuple("他在北京大学读书"), ("O", "O", "B-ORG", "I-ORG", "I-ORG", "I-ORG", "O", "O"))
    right = {"北京大学": "B-ORG"}
    asked = tagged_as(monkeypatch, lambda s: tuple(right.get(word, "O") for word in s.words))
    found = evaluate(model, [gold])
    assert asked == [Sentence(("他", "在", "北京大学", "读书"), None, gold.words, ((0, 1), (1, 2), (2, 6), (6, 8)))]
    assert (found.plain.correct, found.plain.predicted, found.plain.support) == (1, 1, 1)
    inside = Sentence(gold.words, ("O", "O", "B-LOC", "I-LOC", "O", "O", "O", "O"))
    found = evaluate(model, [inside])
    assert asked[1] == asked[0]  # the labels do not show where words end
    assert (found.plain.correct, found.plain.predicted, found.plain.support) == (0, 0, 1)
    assert found.dropped == ("ORG", "PER")

    two = {"北京大学": "B-ORG", "读书": "I-ORG"}
    tagged_as(monkeypatch, lambda s: tuple(two.get(word, "O") for word in s.words))
    whole = Sentence(gold.words, ("O", "O", "B-ORG", *["I-ORG"] * 5))
    assert evaluate(model, [whole, gold]).plain.correct == 1


def test_types_that_the_data_lack_are_dropped_and_those_that_the_model_lacks_are_missed(model, monkeypatch):
    gold = [parse("[Ada|PER] saw [Rome|LOC] and [Ulysses|MISC]"), parse("nobody slept")]
    tagged_as(monkeypatch, lambda s: ("B-PER", "B-ORG", "B-LOC", "O", "B-ORG")[: len(s)])
    found = evaluate(model, gold)
    assert (found.dropped, found.missing) == (("ORG",), ("MISC",))
    assert (found.plain.correct, found.plain.predicted, found.plain.support) == (2, 3, 3)
    assert (found.plain.per_type["PER"].predicted, found.plain.per_type["MISC"].support) == (2, 1)


def test_the_official_figure_joins_entities_across_sentences(model, monkeypatch):
    gold = [parse("with [Ada|PER]"), parse("[Lovelace|PER] slept")]
    tagged_as(monkeypatch, lambda s: ("O", "B-PER") if s.words[0] == "with" else ("I-PER", "O"))
    strict, official = (evaluate(model, gold, scoring=scoring).plain for scoring in ("strict", "conlleval"))
    assert (strict.correct, strict.support) == (1, 2)
    assert (official.correct, official.support) == (0, 2)


def test_sentences_without_labels_do_not_count(model):
    assert evaluate(model, [Sentence(("Ada",)), CORPUS[0]]).sentences == 1
    for nothing in ([], [Sentence(("Ada",))], [Sentence((), ())]):
        with pytest.raises(EmptyDataError, match="no labelled sentence to score on"):
            evaluate(model, nothing)


def test_bad_settings(model):
    with pytest.raises(SettingError, match="batch_size=0"):
        evaluate(model, CORPUS, batch_size=0)
    with pytest.raises(SettingError, match="scoring='f1'"):
        evaluate(model, CORPUS, scoring="f1")
    from tiny import model_of

    other = Memory(model_of("bert", seed=1))
    other.add(CORPUS)
    with pytest.raises(EncoderMismatchError):
        evaluate(model, CORPUS, learning=learning_on(model, memory=other))


CHINESE = "我和李克强总理在北京大学门口谈到华盛顿"


def test_labels_of_raw_text_do_not_show_where_words_end():
    """A labelled text is cut at the edges of its entities; what is tagged is the text as anybody would give it."""
    model = model_of("bert")
    spans = [(2, 5, "PER"), (8, 10, "LOC"), (16, 19, "LOC")]
    labelled = sentence_from_text(CHINESE, spans)
    plain = sentence_from_text(CHINESE)
    assert labelled.words != plain.words
    assert blinded(labelled) == plain
    found = evaluate(model, [labelled])
    result = predict(model, CHINESE)
    places = {(e.start, e.end, e.label) for e in result.entities if e.label in ("PER", "LOC")}
    assert (found.plain.predicted, found.plain.correct, found.plain.support) == (
        len(places), len(places & set(spans)), 3
    )  # fmt: skip
    assert predict(model, labelled).entities == result.entities


def test_words_that_were_given_stay():
    own = Sentence(("李克强", "总理", "在"), ("B-PER", "O", "O"), "李克强 总理在", ((0, 3), (4, 6), (6, 7)))
    assert blinded(own) == own.with_tags(None)
    tokens = Sentence(tuple("李克强总理在京"), ("B-PER", "I-PER", "I-PER", "O", "O", "O", "B-LOC"))
    assert blinded(tokens) == blinded(regroup(tokens)) == regroup(tokens.with_tags(None))


@given(st.data())
def test_aligned_tags_have_the_same_entities(data):
    length = data.draw(st.integers(1, 12))
    source = "x" * length

    def drawn(tagged):
        edges = sorted({0, length, *data.draw(st.lists(st.integers(0, length)))})
        spans = list(pairwise(edges))
        names = [data.draw(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"])) for _ in spans]
        words = tuple(source[a:b] for a, b in spans)
        sentence = Sentence(words, tuple(names) if tagged else None, source, tuple(spans))
        return sentence, sentence.tags or tuple(names)

    (gold, tags), (read, found) = drawn(True), drawn(False)
    starts = sorted({start for start, _ in (*gold.spans, *read.spans)} | {length})
    for sentence, names, pieces in zip((gold, read), (tags, found), aligned(gold, read, found), strict=True):
        if gold.spans == read.spans:
            assert pieces == names
            continue
        entities = {(sentence.spans[a][0], sentence.spans[b - 1][1], name) for a, b, name in tag_spans(names)}
        assert {(starts[a], starts[b], name) for a, b, name in tag_spans(pieces)} == entities


def test_a_text_that_is_cut_otherwise_in_the_memory_is_itself_all_the_same():
    model = model_of("bert")
    labelled = sentence_from_text(CHINESE, [(2, 5, "PER"), (8, 10, "LOC")])
    tokens = Sentence(tuple(CHINESE), ("O",) * 2 + ("B-LOC",) + ("O",) * (len(CHINESE) - 3))
    model.memory.add([labelled, regroup(tokens), *CORPUS])
    for sentence in (labelled, tokens):
        plain = {support.text for support in adapt(model, sentence, k=4).supports}
        assert sentence.text in plain
        others = adapt(model, sentence, k=4, exclude_self=True).supports
        assert all(support.sentence.source != sentence.source for support in others)
    learning = Learning(model.memory, 1, InnerStep(lr=1e3), exclude_self=True)
    assert evaluate(model, [labelled, tokens], learning=learning).adapted is not None
