"""JSONL: tokens with tags, texts with spans, both ways without loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymetaner.errors import DataError, EmptyDataError, LengthMismatchError, SaveError, SpanError, TagError
from pymetaner.readers import read, write
from pymetaner.render import sentence_dict
from pymetaner.sentence import Sentence
from pymetaner.tagging import tags_from_spans
from pymetaner.words import regroup, sentence_from_text


def save(folder: Path, *records: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "record",
    [
        {"tokens": ["Ada", "slept"], "tags": ["B-PER", "O"]},
        {"tokens": ["Ada", "slept"], "ner_tags": ["S-PER", "O"], "id": 7, "text": "Ada slept"},
        {"text": "Ada slept", "spans": [[0, 3, "PER"]]},
        {"text": "Ada slept", "entities": [{"start": 0, "end": 3, "label": "PER", "score": 1}]},
        {"text": "Ada slept", "spans": [{"start": 0, "end": 4, "label": "PER"}], "tokens": ["Ada", "slept"]},
    ],
)
def test_ways_to_write_a_sentence(tmp_path: Path, record: dict[str, Any]) -> None:
    sentence = read(save(tmp_path, record))[0]
    assert (sentence.words, sentence.tags) == (("Ada", "slept"), ("B-PER", "O"))
    assert sentence.source == ("Ada slept" if "spans" in record or "entities" in record else ("Ada", "slept"))


def test_both_kinds_keep_their_order_and_notation_is_found_over_the_file(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        {"tokens": ["Ada", "Bob"], "tags": ["I-PER", "B-PER"]},
        {"text": "in Paris", "spans": [[3, 8, "LOC"]]},
        {"tokens": ["Lyon"], "tags": ["I-LOC"]},
    )
    corpus = read(path)
    assert [s.tags for s in corpus] == [("B-PER", "B-PER"), ("O", "B-LOC"), ("B-LOC",)]
    assert (corpus.notation, corpus.repairs) == ("IOB1", 0)


def test_the_format_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text('\ufeff\n{"tokens": ["Ada"], "tags": ["O"]}\r\n\r\n', encoding="utf-8")
    assert len(read(path)) == 1
    path.write_text("{ O\n} O\n", encoding="utf-8")
    assert read(path)[0].words == ("{", "}")


def test_words_break_at_span_edges(tmp_path: Path) -> None:
    sentence = read(save(tmp_path, {"text": "Berliners", "spans": [[0, 6, "LOC"]]}))[0]
    assert (sentence.words, sentence.tags) == (("Berlin", "ers"), ("B-LOC", "O"))


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, LengthMismatchError, "2 tokens but 1 tags"),
        ({"tokens": ["a"], "tags": ["X-PER"]}, TagError, "'X-PER' is not a tag"),
        ({"tokens": ["a"], "tags": [0]}, DataError, "must be strings"),
        ({"tokens": ["a"], "tags": "O"}, DataError, "tags is str, a list is expected"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, DataError, "token 1 is ''"),
        ({"tokens": [1], "tags": ["O"]}, DataError, "token 0 is 1"),
        ({"tokens": [], "tags": []}, EmptyDataError, "no token"),
        ({"tokens": ["\ud800"], "tags": ["O"]}, DataError, "lone surrogate"),
        ({"tokens": ["a"], "tags": ["B-\ud800"]}, DataError, "lone surrogate"),
        ({"text": "a\ud800", "spans": []}, DataError, "lone surrogate"),
        ({"text": "ab", "spans": [[0, 1, "\ud800"]]}, DataError, "lone surrogate"),
        ({"text": " ", "spans": []}, EmptyDataError, "blank"),
        ({"text": "Ada", "spans": [[0, 4, "PER"]]}, SpanError, "outside the text of 3"),
        ({"text": "Ada", "spans": [[2, 2, "PER"]]}, SpanError, "empty"),
        ({"text": "a b", "spans": [[1, 2, "PER"]]}, SpanError, "white space"),
        ({"text": "Ada", "spans": [[0, 2, "PER"], [1, 3, "LOC"]]}, SpanError, "overlap"),
        ({"text": "Ada", "spans": [[0, 2]]}, SpanError, "is not a span"),
        ({"text": "Ada", "spans": [[0, True, "PER"]]}, SpanError, "is not a span"),
        ({"text": "Ada", "spans": [{"start": 0, "end": 2}]}, SpanError, "is not a span"),
        ({"text": 5, "spans": []}, DataError, "text is int"),
        ({"text": "Ada"}, DataError, "has text; expected"),
        ({"tokens": ["a"], "tags": ["O"], "text": "a", "spans": []}, DataError, "leave one"),
        ({"tokens": ["a"], "tags": ["O"], "ner_tags": ["O"]}, DataError, "both tags and ner_tags"),
        ({}, DataError, "expected"),
        ([1], DataError, "not list"),
        ({"text": "Ada", "spans": [[0, 2, "PER"]], "words": [[0, 3]]}, SpanError, "no edge of `words`"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, record: Any, error: type[Exception], message: str) -> None:
    path = save(tmp_path, {"tokens": ["fine"], "tags": ["O"]}, record)
    with pytest.raises(error, match=rf"data\.jsonl:2: .*{message}"):
        read(path)


def test_broken_json_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"tokens": ["a"], "tags": ["O"]}\n{"tokens": [\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.jsonl:2: this is not JSON"):
        read(path)
    path.write_text("\n\n", encoding="utf-8")
    with pytest.raises(EmptyDataError, match=r"data\.jsonl: there is no sentence"):
        read(path)
    path.write_text("Ada B-PER\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.jsonl:1: this is not JSON"):
        read(path)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.text(min_size=1), st.sampled_from(["", "PER", "a-b c"])), min_size=1), min_size=1)
)
def test_tokens_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[tuple[str, str]]]) -> None:
    sentences = [
        Sentence(
            tuple(word for word, _ in row),
            tags_from_spans([(i, i + 1, name) for i, (_, name) in enumerate(row) if name], len(row)),
        )
        for row in rows
    ]
    path = tmp_path_factory.mktemp("jsonl") / "data.jsonl"
    write(path, sentences)
    assert read(path).sentences == sentences


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1).filter(str.strip), st.data())
def test_texts_come_back(tmp_path_factory: pytest.TempPathFactory, text: str, data: st.DataObject) -> None:
    edges = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = [(a, b, "X") for a, b in zip(edges[::2], edges[1::2], strict=False) if text[a:b].strip()]
    sentence = sentence_from_text(text, spans)
    path = tmp_path_factory.mktemp("jsonl") / "data.jsonl"
    write(path, [sentence])
    assert read(path).sentences == [sentence]


def test_other_words_of_a_text_come_back(tmp_path: Path) -> None:
    sentence = Sentence(("Bad", "Ems-", "Nord"), ("B-LOC", "I-LOC", "O"), "Bad Ems-Nord", ((0, 3), (4, 8), (8, 12)))
    path = tmp_path / "data.jsonl"
    write(path, [sentence])
    assert read(path).sentences == [sentence]


def test_regrouped_tokens_are_written_as_the_tokens_they_were(tmp_path: Path) -> None:
    sentence = Sentence(tuple("她在北京"), ("O", "O", "B-LOC", "I-LOC"))
    path = tmp_path / "data.jsonl"
    write(path, [regroup(sentence)])
    assert read(path).sentences == [sentence]
    assert json.loads(path.read_text(encoding="utf-8"))["tokens"] == list("她在北京")


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    write(path, [Sentence(("Ada",), ("B-PER",))])
    before = path.read_bytes()
    for sentence, error, message in (
        (Sentence(("Ada",)), DataError, "sentence 1 .'Ada'. has no tags"),
        (Sentence((), (), " "), EmptyDataError, "sentence 1 has no words"),
        (Sentence(("\ud800",), ("O",)), DataError, "surrogate"),
        (Sentence(("", "b"), ("O", "B-PER")), DataError, "token 0 is ''"),
        (Sentence(("ada",), ("B-PER",), "Ada", ((0, 3),)), DataError, "not those that stand in the text"),
        (Sentence(("Ada",), ("B-PER",), "Ada slept", ((0, 3),)), DataError, "leave out letters"),
    ):
        with pytest.raises(error, match=message):
            write(path, [Sentence(("Bob",), ("B-PER",)), sentence])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(SaveError):
        write(tmp_path, [])


def test_tokens_with_entities_are_read_as_they_are_written_for_others(tmp_path: Path) -> None:
    """`Result.to_dict` and `memory list --jsonl`: the entities of tokens count tokens."""
    path = tmp_path / "data.jsonl"
    for sentence in (
        Sentence(("Ada", "Lovelace", "wrote", "."), ("B-PER", "I-PER", "O", "O")),
        Sentence(("nobody", "wrote", "."), ("O", "O", "O")),
        sentence_from_text("Ada Lovelace wrote.", [(0, 12, "PER")]),
    ):
        path.write_text(json.dumps({"id": 1, **sentence_dict(sentence, sentence.entities)}), encoding="utf-8")
        assert read(path).sentences == [sentence]


def test_spans_that_are_not_what_they_say_they_cover_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    entity = {"text": "Ada Lovelace", "label": "PER", "start": 0, "end": 2}
    for record, found in (
        ({"text": "Ada Lovelace wrote .", "entities": [entity]}, "'Ad'"),
        ({"text": "Ada Lovelace wrote .", "tokens": ["Ada", "wrote"], "entities": [entity]}, "'Ad'"),
        ({"text": "Ada wrote", "tokens": ["Ada", "wrote"], "entities": [entity]}, "'Ad'"),
    ):
        path.write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(SpanError, match=f"data.jsonl:1: .* covers {found}"):
            read(path)
