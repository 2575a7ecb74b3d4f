"""Decoding word logits, against the list of all sequences."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from pymetaner.decode import decode
from pymetaner.errors import NumericsError
from pymetaner.labels import LabelScheme

SCHEME = LabelScheme.from_types(["PER", "LOC"])


def is_valid(tags: tuple[str, ...]) -> bool:
    return all(
        not tag.startswith("I-") or before[2:] == tag[2:] for before, tag in zip(("O", *tags), tags, strict=False)
    )


@pytest.mark.parametrize("seed", range(20))
def test_viterbi_finds_the_best_valid_sequence(seed):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((1 + seed % 5, 5)) + 50 * rng.standard_normal()).astype(np.float32)
    ((tags, scores),) = decode([logits], SCHEME, "viterbi")
    logits = logits.astype(np.float64)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    best = max(
        (ids for ids in product(range(5), repeat=len(logits)) if is_valid(tuple(SCHEME.tags[i] for i in ids))),
        key=lambda ids: sum(np.log(probability[w, i]) for w, i in enumerate(ids)),
    )
    assert tags == tuple(SCHEME.tags[i] for i in best)
    assert scores == pytest.approx(probability[np.arange(len(best)), best], rel=1e-9)


def test_viterbi_is_not_argmax_with_repairs():
    # The first word is I-PER by itself; with the sentence in view, B-PER is better.
    logits = np.log(np.array([[0.3, 0.3, 0.4, 0, 0], [0.1, 0, 0.9, 0, 0]]) + 1e-9).astype(np.float32)
    assert decode([logits], SCHEME, "viterbi")[0][0] == ("B-PER", "I-PER")
    ((tags, scores),) = decode([logits], SCHEME, "argmax")
    assert tags == ("B-PER", "I-PER")
    assert scores[0] == pytest.approx(0.4, rel=1e-5)
    logits[0, 0] += 1.0  # O is likely now, and an entity may begin with the second word
    assert decode([logits], SCHEME, "argmax")[0][0] == ("O", "B-PER")
    assert is_valid(decode([logits], SCHEME, "viterbi")[0][0])


def test_ties_take_the_lower_id():
    assert decode([np.zeros((3, 5), dtype=np.float32)], SCHEME, "viterbi")[0][0] == ("O", "O", "O")


def test_sentences_of_any_length_and_large_logits():
    results = decode(
        [np.zeros((0, 5), np.float32), np.full((2, 5), 1e30, np.float32), np.full((1, 5), -1e30, np.float32)],
        SCHEME,
        "viterbi",
    )
    assert [len(tags) for tags, _ in results] == [0, 2, 1]
    assert results[1][1] == pytest.approx([0.2, 0.2])
    assert results[2][1] == pytest.approx([0.2])


def test_what_is_not_finite_is_named_by_the_callers_number():
    rows = [np.zeros((1, 5), np.float32), np.full((1, 5), np.nan, np.float32)]
    with pytest.raises(NumericsError, match="sentence 1 are"):
        decode(rows, SCHEME, "argmax")
    with pytest.raises(NumericsError, match="sentence 31 are"):
        decode(rows, SCHEME, "argmax", [17, 31])


@pytest.mark.parametrize("how", ["viterbi", "argmax"])
def test_other_notations_come_out_as_iob2(how):
    scheme = LabelScheme.from_tags(["O", "B-PER", "I-PER", "E-PER", "S-PER"])
    ids = [4, 0, 1, 2, 3, 3, 0]
    logits = np.eye(5, dtype=np.float32)[ids] * 9
    assert decode([logits], scheme, how)[0][0] == ("B-PER", "O", "B-PER", "I-PER", "I-PER", "B-PER", "O")
