"""Sentences refuse what does not fit together, and take lists as well as tuples."""

from __future__ import annotations

import numpy as np
import pytest

from pymetaner import Entity, Sentence
from pymetaner.errors import DataError, LengthMismatchError, SpanError, TagError
from pymetaner.readers import read, write


def test_an_inside_tag_that_goes_on_with_nothing_begins_an_entity(tmp_path):
    stray = Sentence(("Ann", "Bo", "met", "Oslo", "Ann"), ("I-PER", "I-PER", "O", "I-LOC", "I-PER"))
    assert stray.tags == ("B-PER", "I-PER", "O", "B-LOC", "B-PER")
    assert [(e.text, e.label) for e in stray.entities] == [("Ann Bo", "PER"), ("Oslo", "LOC"), ("Ann", "PER")]
    assert stray == Sentence(stray.words, stray.tags) and hash(stray) == hash(Sentence(stray.words, stray.tags))
    write(tmp_path / "stray.jsonl", [stray])
    assert list(read(tmp_path / "stray.jsonl")) == [stray]


def test_lists_become_tuples_that_can_be_hashed():
    given = Sentence(["Ada", "slept"], ["B-PER", "O"], ["Ada", "slept"], [[0, 1], [1, 2]])
    assert given == Sentence(("Ada", "slept"), ("B-PER", "O"))
    assert len({given, Sentence(("Ada", "slept"), ("B-PER", "O"))}) == 1


@pytest.mark.parametrize("tag", ["PER", "B-", "B", "S-PER", "", "b-PER"])
def test_tags_of_another_notation_are_refused(tag):
    with pytest.raises(TagError, match="IOB2"):
        Sentence(("Ada",), (tag,))


def test_one_string_is_no_list_of_words():
    with pytest.raises(DataError, match="sentence_from_text"):
        Sentence("Ada slept")


def test_tags_and_spans_are_one_a_word():
    with pytest.raises(LengthMismatchError, match="2 words but 1 tags"):
        Sentence(("Ada", "slept"), ("O",))
    with pytest.raises(LengthMismatchError, match="2 words but 1 spans"):
        Sentence(("Ada", "slept"), None, "Ada slept", ((0, 3),))


@pytest.mark.parametrize("spans", [((0, 3), (2, 9)), ((0, 0), (4, 9)), ((0, 3), (4, 10))])
def test_spans_neither_overlap_nor_leave_the_text(spans):
    with pytest.raises(SpanError):
        Sentence(("Ada", "slept"), None, "Ada slept", spans)


def test_entities_are_slices_of_the_source():
    sentence = Sentence(("Ada", "Lovelace"), ("B-PER", "I-PER"), "Ada  Lovelace", ((0, 3), (5, 13)))
    assert sentence.entities == (Entity("Ada  Lovelace", "PER", 0, 13),)
    tokens = Sentence(("北京", "人"), ("B-LOC", "O"), ("北", "京", "人"), ((0, 2), (2, 3)))
    assert tokens.entities == (Entity("北 京", "LOC", 0, 2),)


def test_spans_of_numpy_are_ints_and_others_are_refused():
    sentence = Sentence(("Ada",), ("O",), "Ada x", ((np.int64(0), np.int32(3)),))
    assert sentence.spans == ((0, 3),) and all(type(edge) is int for edge in sentence.spans[0])
    with pytest.raises(DataError, match="source=None"):
        Sentence(("Ada",), ("O",), None)
    for wrong in ([1], [(0, 1.5)], [(0, 1, 2)], 5, [("0", "3")]):
        with pytest.raises(SpanError, match="pairs of whole numbers"):
            Sentence(("Ada",), ("O",), "Ada x", wrong)
