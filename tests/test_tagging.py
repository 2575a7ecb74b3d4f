"""Tag notations: every notation holds the same entities, and broken tags are repaired, counted or refused."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from pymetaner.errors import SettingError, SpanError, TagError
from pymetaner.sentence import tag_spans
from pymetaner.tagging import Notation, detect_notation, from_iob2, split_tags, tags_from_spans, to_iob2

NOTATIONS: tuple[Notation, ...] = get_args(Notation)
TYPES = ["PER", "LOC", "art-music", "E", "B"]


@st.composite
def iob2(draw: st.DrawFn) -> list[str]:
    """Valid IOB2 tags."""
    tags: list[str] = []
    for name, length in draw(st.lists(st.tuples(st.sampled_from(["O", *TYPES]), st.integers(1, 4)), max_size=8)):
        tags += ["O"] * length if name == "O" else [f"B-{name}"] + [f"I-{name}"] * (length - 1)
    return tags


def has_neighbours(tags: list[str]) -> bool:
    return any(one[1] == two[0] and one[2] == two[2] for one, two in pairwise(tag_spans(tags)))


@settings(deadline=None)
@given(iob2(), st.sampled_from(NOTATIONS))
def test_every_notation_holds_the_same_entities(tags: list[str], notation: Notation) -> None:
    written = from_iob2(tags, notation)
    if notation == "IO" and has_neighbours(tags):
        return  # the one thing that a notation cannot say
    assert to_iob2(written, notation) == (tuple(tags), 0)


@settings(deadline=None)
@given(st.lists(iob2(), min_size=1, max_size=4), st.sampled_from(NOTATIONS))
def test_the_detected_notation_reads_the_same_entities_without_repair(
    sentences: list[list[str]], notation: Notation
) -> None:
    written = [from_iob2(tags, notation) for tags in sentences]
    found = detect_notation(written)
    expected = sentences if notation != "IO" else [to_iob2(tags, "IO")[0] for tags in written]
    converted = [to_iob2(tags, found) for tags in written]
    assert [list(tags) for tags, _ in converted] == [list(tags) for tags in expected]
    assert sum(repairs for _, repairs in converted) == 0


@settings(deadline=None)
@given(st.lists(st.sampled_from([f"{letter}-{name}" for letter in "BIES" for name in ("PER", "LOC")] + ["O"])))
def test_any_tags_become_valid_iob2_and_no_tagged_word_is_lost(tags: list[str]) -> None:
    converted, repairs = to_iob2(tags, "BIOES")
    assert [tag == "O" for tag in converted] == [tag == "O" for tag in tags]
    assert [tag[2:] for tag in converted] == [tag[2:] for tag in tags]
    assert to_iob2(converted, "IOB2") == (converted, 0)
    assert (repairs == 0) == (from_iob2(converted, "BIOES") == tuple(tags))


@settings(deadline=None)
@given(iob2())
def test_spans_agree_with_seqeval(tags: list[str]) -> None:
    assert [(name, first, last - 1) for first, last, name in tag_spans(tags)] == get_entities(tags)


@settings(deadline=None)
@given(iob2())
def test_spans_to_tags_and_back(tags: list[str]) -> None:
    assert tags_from_spans(tag_spans(tags), len(tags)) == tuple(tags)


@pytest.mark.parametrize(
    ("sequences", "notation"),
    [
        ([["B-PER", "I-PER", "O"]], "IOB2"),
        ([["O", "O"]], "IOB2"),
        ([], "IOB2"),
        ([["I-PER", "I-PER", "B-PER", "O", "I-LOC"]], "IOB1"),
        ([["I-PER", "O", "I-LOC"]], "IO"),
        ([["B-PER", "E-PER", "O", "S-LOC"]], "BIOES"),
        ([["B-PER", "M-PER", "E-PER", "O"]], "BIOES"),
        ([["B-PER", "L-PER", "O", "U-LOC"]], "BILOU"),
        # One stray I- among many B- is a slip, not another notation.
        ([["B-PER", "O", "B-LOC"], ["B-ORG", "O", "I-ORG"]], "IOB2"),
        # Decided over all sequences: the first one alone would be IOB2.
        ([["I-PER", "B-PER"], ["I-LOC", "O"]], "IOB1"),
    ],
)
def test_detection(sequences: list[list[str]], notation: Notation) -> None:
    assert detect_notation(sequences) == notation


@pytest.mark.parametrize(
    ("notation", "tags", "expected", "repairs"),
    [
        ("IOB2", "I-PER I-PER O", "B-PER I-PER O", 1),
        ("IOB2", "B-PER I-LOC", "B-PER B-LOC", 1),
        ("IOB1", "I-PER B-PER I-PER I-LOC", "B-PER B-PER I-PER B-LOC", 0),
        ("IOB1", "B-PER O", "B-PER O", 1),
        ("BIOES", "B-PER O", "B-PER O", 1),
        ("BIOES", "E-PER", "B-PER", 1),
        ("BIOES", "B-PER E-PER I-PER E-PER", "B-PER I-PER B-PER I-PER", 1),
        ("BILOU", "U-PER L-PER", "B-PER B-PER", 1),
        ("IO", "I-PER PER O LOC", "B-PER I-PER O B-LOC", 0),
    ],
)
def test_conversion_and_repairs(notation: Notation, tags: str, expected: str, repairs: int) -> None:
    assert to_iob2(tags.split(), notation) == (tuple(expected.split()), repairs)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("b-PER i_PER o", "B-PER I-PER O"),
        ("PER-B PER-I O LOC_B", "B-PER I-PER O B-LOC"),
        ("B-E I-E", "B-E I-E"),  # letter-first wins where both readings fit
        ("B-art-music I-art-music", "B-art-music I-art-music"),
    ],
)
def test_ways_to_write_a_tag(tags: str, expected: str) -> None:
    assert to_iob2(tags.split(), "IOB2")[0] == tuple(expected.split())


@pytest.mark.parametrize("tag", ["X-PER", "PER", "B", "B-", "-PER", "", "B PER", "BI-PER"])
def test_a_tag_of_no_notation_is_refused(tag: str) -> None:
    assert split_tags([tag, "B-LOC"])[tag] is None
    with pytest.raises(TagError, match="is not a tag of any known notation"):
        detect_notation([["B-LOC", tag]])
    with pytest.raises(TagError):
        to_iob2([tag, "B-LOC"], "IOB2")


def test_mixed_and_wrong_notations_are_refused() -> None:
    with pytest.raises(TagError, match="mix"):
        detect_notation([["S-PER"], ["U-PER"]])
    with pytest.raises(TagError, match="not of the notation IOB2"):
        to_iob2(["S-PER"], "IOB2")
    with pytest.raises(SettingError, match="IOB1, IOB2"):
        to_iob2(["O"], "IOB3")  # type: ignore[arg-type]
    with pytest.raises(SettingError):
        from_iob2(["O"], "BIO")  # type: ignore[arg-type]


@pytest.mark.parametrize("spans", [[(0, 0, "PER")], [(1, 4, "PER")], [(-1, 1, "PER")], [(0, 1, "")]])
def test_spans_that_do_not_fit_are_refused(spans: list[tuple[int, int, str]]) -> None:
    with pytest.raises(SpanError):
        tags_from_spans(spans, 3)


def test_overlapping_spans_are_refused() -> None:
    with pytest.raises(SpanError, match="overlaps"):
        tags_from_spans([(0, 2, "PER"), (1, 3, "LOC")], 3)
