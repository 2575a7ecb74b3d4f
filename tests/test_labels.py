"""The label scheme: what checkpoints call their logits, and tags to ids and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymetaner.errors import LabelMismatchError, LabelSchemeError
from pymetaner.labels import LabelScheme
from pymetaner.tagging import tags_from_spans

SENTENCE = ("B-PER", "I-PER", "O", "B-LOC", "B-PER", "B-PER", "I-PER", "I-PER")
HEADS = {
    "IOB2": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "BIOES": ("O", *(f"{letter}-{name}" for name in ("LOC", "PER") for letter in "SBIE")),
    "BILOU": ("B-LOC", "I-LOC", "L-LOC", "U-LOC", "O", "B-PER", "I-PER", "L-PER", "U-PER"),
}


@pytest.mark.parametrize("notation", HEADS)
def test_tags_survive_ids_of_every_full_notation(notation):
    scheme = LabelScheme.from_tags(HEADS[notation])
    assert scheme.notation == notation
    assert scheme.types == {"PER", "LOC"}
    assert scheme.decode(scheme.encode(SENTENCE)) == SENTENCE


def test_ids_are_those_of_the_head():
    bioes = LabelScheme.from_tags(HEADS["BIOES"])
    assert [bioes.tags[i] for i in bioes.encode(("B-PER", "I-PER", "O", "B-LOC"))] == ["B-PER", "E-PER", "O", "S-LOC"]
    assert bioes.decode([bioes.tags.index("S-LOC"), bioes.tags.index("S-LOC")]) == ("B-LOC", "B-LOC")


def test_an_inside_tag_without_its_begin_means_iob1():
    # The labels of a much used English checkpoint: trained on IOB1 data in which no two persons touch.
    scheme = LabelScheme.from_tags(["B-LOC", "B-MISC", "B-ORG", "I-LOC", "I-MISC", "I-ORG", "I-PER", "O"])
    assert scheme.notation == "IOB1"
    assert scheme.types == {"LOC", "MISC", "ORG", "PER"}
    tags = ("B-LOC", "I-LOC", "B-LOC", "O", "B-PER")
    assert [scheme.tags[i] for i in scheme.encode(tags)] == ["I-LOC", "I-LOC", "B-LOC", "O", "I-PER"]
    assert scheme.decode(scheme.encode(tags)) == tags
    # Two persons that touch cannot be written with this head; the nearest tag of the type is taken.
    assert [scheme.tags[i] for i in scheme.encode(("B-PER", "B-PER"))] == ["I-PER", "I-PER"]


@pytest.mark.parametrize("tags", [("O", "I-PER", "I-LOC"), ("O", "PER", "LOC"), ("LOC", "O", "PER", "E-MAIL")])
def test_heads_that_do_not_mark_beginnings(tags):
    scheme = LabelScheme.from_tags(tags)
    assert scheme.notation == "IO"
    assert {"PER", "LOC"} <= scheme.types
    assert ("E-MAIL" in scheme.types) == ("E-MAIL" in tags)
    assert scheme.decode(scheme.encode(("B-PER", "I-PER", "B-LOC", "O"))) == ("B-PER", "I-PER", "B-LOC", "O")
    assert scheme.decode(scheme.encode(("B-PER", "B-PER"))) == ("B-PER", "I-PER")


def test_labels_of_special_pieces_are_no_entities():
    scheme = LabelScheme.from_tags(["[PAD]", "O", "B-PER", "I-PER", "X", "[CLS]", "[SEP]"])
    assert scheme.notation == "IOB2"
    assert scheme.types == {"PER"}
    assert scheme.decode([5, 2, 3, 4, 6, 0]) == ("O", "B-PER", "I-PER", "O", "O", "O")
    assert scheme.encode(("O", "B-PER")) == [1, 2]


@pytest.mark.parametrize(
    ("tags", "notation"),
    [
        (("O", "B_PER", "I_PER"), "IOB2"),
        (("O", "b-PER", "i-PER"), "IOB2"),
        (("O", "PER-B", "PER-I"), "IOB2"),
        (("O", "B-PER", "M-PER", "E-PER", "S-PER"), "BIOES"),
    ],
)
def test_other_spellings_of_the_letters(tags, notation):
    scheme = LabelScheme.from_tags(tags)
    assert (scheme.notation, scheme.types) == (notation, {"PER"})
    sentence = ("B-PER", "I-PER", "I-PER", "O", "B-PER")
    assert scheme.decode(scheme.encode(sentence)) == sentence


def test_a_head_with_begin_tags_alone_still_takes_every_tag():
    scheme = LabelScheme.from_tags(["O", "B-PER"])
    assert scheme.encode(("B-PER", "I-PER", "O")) == [1, 1, 0]
    assert scheme.decode([1, 0]) == ("B-PER", "O")


def test_types_with_hyphens():
    scheme = LabelScheme.from_types(["event-award", "B-side"])
    sentence = ("B-event-award", "I-event-award", "B-B-side")
    assert LabelScheme.from_tags(scheme.tags).decode(scheme.encode(sentence)) == sentence


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        (["LABEL_0", "LABEL_1"], "no label is 'O'"),
        (["B-PER", "I-PER"], "no label is 'O'"),
        (["O"], "no label has an entity type"),
        (["O", "B", "I"], "no label has an entity type"),
        (["O", "B-PER", "B-PER"], "name a tag twice"),
        ([], "no label is 'O'"),
    ],
)
def test_labels_that_are_no_entity_tags_are_refused_with_advice(tags, says):
    with pytest.raises(LabelSchemeError, match=says) as error:
        LabelScheme.from_tags(tags)
    assert "labels=" in str(error.value)


@pytest.mark.parametrize("types", [[], [""], ["O"]])
def test_types_that_are_no_types(types):
    with pytest.raises(LabelSchemeError, match="expected one or more"):
        LabelScheme.from_types(types)


def test_a_type_outside_the_scheme_is_named():
    scheme = LabelScheme.from_types(["PER"])
    with pytest.raises(LabelMismatchError, match=r"\['GPE', 'MISC'\].*\['PER'\]"):
        scheme.encode(("B-MISC", "O", "I-GPE"))


def test_transitions_forbid_only_an_inside_tag_after_another_type():
    scheme = LabelScheme.from_tags(["B-LOC", "O", "I-PER", "I-LOC", "B-PER", "X"])
    expected = np.ones((7, 6), dtype=bool)
    for j, befores in ((2, (2, 4)), (3, (0, 3))):
        expected[:, j] = [i in befores for i in range(7)]
    assert (scheme.transitions == expected).all()
    assert LabelScheme.from_tags(["O", "I-PER", "I-LOC"]).transitions.all()


@st.composite
def entity_tags(draw):
    length = draw(st.integers(0, 12))
    spans, at = [], 0
    while at < length:
        end = draw(st.integers(at + 1, length))
        if draw(st.booleans()):
            spans.append((at, end, draw(st.sampled_from(["PER", "LOC"]))))
        at = end
    return tags_from_spans(spans, length)


@given(entity_tags(), st.sampled_from(sorted(HEADS)))
def test_any_entities_survive_ids(tags, notation):
    scheme = LabelScheme.from_tags(HEADS[notation])
    assert scheme.decode(scheme.encode(tags)) == tags


@given(st.lists(st.integers(0, 4), max_size=10), st.sampled_from(["IOB2", "IOB1", "IO"]))
def test_any_ids_decode_to_valid_tags(ids, notation):
    heads = {
        "IOB2": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
        "IOB1": ("O", "B-PER", "I-PER", "I-MISC", "I-LOC"),
        "IO": ("O", "I-PER", "I-LOC", "I-ORG", "I-MISC"),
    }
    tags = LabelScheme.from_tags(heads[notation]).decode(ids)
    assert len(tags) == len(ids)
    for before, tag in zip(("O", *tags), tags, strict=False):
        assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_names_of_no_entity_beside_letters_at_the_end():
    scheme = LabelScheme.from_tags(["O", "PER-B", "PER-I", "LOC-B", "LOC-I", "X", "[CLS]"])
    assert (scheme.notation, scheme.types) == ("IOB2", {"PER", "LOC"})
    assert scheme.decode([1, 2, 5, 3]) == ("B-PER", "I-PER", "O", "B-LOC")
    bare = LabelScheme.from_tags(["O", "PROTEIN", "TYPE_I", "GENE-B"])  # no type with two letters: bare names
    assert bare.types == {"PROTEIN", "TYPE_I", "GENE-B"}


@pytest.mark.parametrize("tags", [5, None, "OB", ["O", 1], ["O", None], ["O", "L-PER", "S-PER"]])
def test_labels_that_cannot_be(tags):
    with pytest.raises(LabelSchemeError):
        LabelScheme.from_tags(tags)


@pytest.mark.parametrize("types", [5, None, [None], []])
def test_types_that_cannot_be(types):
    with pytest.raises(LabelSchemeError):
        LabelScheme.from_types(types)


@pytest.mark.parametrize(("tags", "types"), [(["O", "PER", "QUANTITY"], ["I-x"]), (["O", "PER"], ["B-cell"])])
def test_new_types_that_would_be_read_as_others_are_refused(tags, types):
    scheme = LabelScheme.from_tags(tags)
    with pytest.raises(LabelSchemeError, match="give the new types other names"):
        scheme.with_types(types)
    assert scheme.with_types(["LOC", "x-y"]).types == {*tags[1:], "LOC", "x-y"}
