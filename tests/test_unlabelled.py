"""Pseudo-labels: the model's own tags, where it is sure."""

from __future__ import annotations

import pytest
from tiny import CORPUS

from pymetaner import Memory, predict
from pymetaner.errors import SettingError
from pymetaner.unlabelled import pseudo_labelled


def test_labels_are_the_models_own_where_it_is_sure(model):
    tokens = [list(s.words) for s in CORPUS]
    every = pseudo_labelled(model, tokens, confidence=0.0)
    results = predict(model, tokens)
    expected = [r for r in results if r.entities]
    assert [s.words for s in every] == [r.sentence.words for r in expected]
    assert [[(e.start, e.end, e.label) for e in s.entities] for s in every] == [
        [(e.start, e.end, e.label) for e in r.entities] for r in expected
    ]
    assert len(every) > 0
    assert len(pseudo_labelled(model, tokens, confidence=1.0)) == 0
    with pytest.raises(SettingError, match="confidence"):
        pseudo_labelled(model, tokens, confidence=2)


def test_a_memory_takes_them(model):
    memory = Memory(model)
    texts = [s.text for s in CORPUS]
    ids = memory.add_unlabelled(texts, confidence=0.0, source="web")
    assert len(memory) == len(set(ids)) > 0
    assert memory.sources() == {"web": sorted(set(ids))}
    assert memory.add_unlabelled(texts, confidence=1.0) == []
