"""Scores against hand-checked cases and against seqeval's own report."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from pymetaner.errors import LengthMismatchError, SettingError, TagError
from pymetaner.scoring import Score, drop_types, score

TAG = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-art-music", "I-art-music"])
PAIRS = st.lists(st.lists(st.tuples(TAG, TAG), min_size=1, max_size=8), min_size=1, max_size=6)


def rows(*sentences: str) -> list[list[str]]:
    return [sentence.split() for sentence in sentences]


@settings(deadline=None)
@given(PAIRS)
def test_strict_is_what_seqeval_reports(pairs: list[list[tuple[str, str]]]) -> None:
    gold = [[tag for tag, _ in sentence] for sentence in pairs]
    predicted = [[tag for _, tag in sentence] for sentence in pairs]
    ours = score(gold, predicted)
    if not ours.per_type:
        return  # seqeval cannot report on no entity at all
    report = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    for name, one in {**ours.per_type, "micro avg": ours}.items():
        expected = report[name]
        assert (one.precision, one.recall, one.support) == pytest.approx(
            (expected["precision"], expected["recall"], expected["support"])
        )
        assert one.f1 == pytest.approx(expected["f1-score"])
    assert list(ours.per_type) == [name for name in report if not name.endswith(" avg")]


def test_a_hand_counted_case() -> None:
    gold = rows("B-PER I-PER O B-LOC", "B-ORG O O", "O O")
    predicted = rows("B-PER I-PER O B-ORG", "B-ORG I-ORG O", "B-LOC O")
    found = score(gold, predicted)
    assert (found.correct, found.predicted, found.support) == (1, 4, 3)
    assert found.precision == 1 / 4
    assert found.recall == 1 / 3
    assert found.f1 == pytest.approx(2 / 7)
    assert found.per_type == {"LOC": Score(0, 1, 1), "ORG": Score(0, 2, 1), "PER": Score(1, 1, 1)}


@pytest.mark.parametrize(
    ("gold", "predicted", "strict", "conlleval"),
    [
        # A stray I- is no entity for seqeval, and opens one for conlleval.
        ("B-PER I-PER", "I-PER I-PER", (0, 0, 1), (1, 1, 1)),
        ("B-PER O", "I-PER O", (0, 0, 1), (1, 1, 1)),
        # I- of another type ends one chunk and opens the next.
        ("B-PER B-LOC", "B-PER I-LOC", (1, 1, 2), (2, 2, 2)),
        ("B-PER B-PER", "B-PER I-PER", (0, 1, 2), (0, 1, 2)),
    ],
)
def test_where_the_two_differ(gold: str, predicted: str, strict: object, conlleval: object) -> None:
    for scoring, expected in (("strict", strict), ("conlleval", conlleval)):
        found = score(rows(gold), rows(predicted), scoring=scoring)  # type: ignore[arg-type]
        assert (found.correct, found.predicted, found.support) == expected


def test_conlleval_has_no_sentence_ends() -> None:
    """What the official script counts when no blank line parts the sentences: the chunk goes on."""
    gold, predicted = rows("O B-PER", "O O", "B-LOC"), rows("O B-PER", "I-PER O", "B-LOC")
    found = score(gold, predicted, scoring="conlleval")
    assert (found.correct, found.predicted, found.support) == (1, 2, 2)
    assert score(gold, predicted).correct == 2
    # Two labelled neighbours stay two: the second begins with B-.
    assert score(rows("B-PER", "B-PER"), rows("B-PER", "B-PER"), scoring="conlleval").correct == 2


def test_nothing_to_find_and_nothing_found_scores_zero() -> None:
    for scoring in ("strict", "conlleval"):
        empty = score(rows("O O"), rows("O O"), scoring=scoring)  # type: ignore[arg-type]
        assert (empty.precision, empty.recall, empty.f1, empty.per_type) == (0, 0, 0, {})
    assert score([], []).f1 == 0
    assert score([[]], [[]]).f1 == 0


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(LengthMismatchError, match="2 labelled sentences but 1"):
        score(rows("O", "O"), rows("O"))
    with pytest.raises(LengthMismatchError, match="sentence 1: 2 labelled tags but 1"):
        score(rows("O", "O O"), rows("O", "O"))
    with pytest.raises(TagError, match="'S-PER' is not an IOB2 tag"):
        score(rows("S-PER"), rows("O"))
    with pytest.raises(SettingError, match="strict, conlleval"):
        score([], [], scoring="loose")  # type: ignore[arg-type]


def test_types_that_a_file_lacks_are_dropped() -> None:
    tags = ["B-MISC", "I-MISC", "B-PER", "I-PER", "O", "B-art-music"]
    assert drop_types(tags, {"PER", "LOC"}) == ("O", "O", "B-PER", "I-PER", "O", "O")
    assert drop_types(tags, {"art-music"})[-1] == "B-art-music"
    assert drop_types(tags, ()) == ("O",) * 6


def test_tags_that_are_no_strings_are_refused():
    with pytest.raises(TagError, match="0 is not an IOB2 tag"):
        score([[0]], [[0]])
