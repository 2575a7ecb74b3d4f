"""Token-level nearest neighbours: the votes are those of a loop, follow the memory, and are mixed as written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import CORPUS, model_of

from pymetaner import Memory, Sentence, adapt, calibrate, knn, predict
from pymetaner.errors import MemoryFileError, SettingError
from pymetaner.knn import NEIGHBOURS, TEMPERATURE, TokenBank, fused
from pymetaner.ops import CosineBank


def hidden_of(model, sentences):
    readings = model.read([s.with_tags(None) for s in sentences], keep_hidden=True)
    return [reading.hidden for reading in readings]


def votes_of_a_loop(model, bank, queries, left_out):
    """Every cosine in float64, the nearest words one by one."""
    states = hidden_of(model, bank)
    words = [(s, tag, i) for i, (rows, s) in enumerate(zip(states, bank, strict=True)) for tag in range(len(s))]
    vectors = np.concatenate(states).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    result = []
    for rows, out in zip(hidden_of(model, queries), left_out, strict=True):
        shares = np.zeros((len(rows), len(model.labels.tags)))
        for w, row in enumerate(rows.astype(np.float64)):
            cosines = vectors @ (row / np.linalg.norm(row))
            order = [j for j in np.argsort(-cosines, kind="stable") if words[j][2] not in out][:NEIGHBOURS]
            for j in order:
                sentence, place, _ = words[j]
                shares[w, model.labels.encode(sentence.tags)[place]] += np.exp(cosines[j] / TEMPERATURE)
            shares[w] /= shares[w].sum()
        result.append(shares)
    return result


def spans(result):
    return [(e.start, e.end, e.label) for e in result.entities]


@pytest.mark.parametrize("alone", [False, True])
def test_votes_are_those_of_a_loop(model, alone):
    memory = Memory(model)
    ids = memory.add(CORPUS[:9])
    queries = CORPUS[:4]
    out = [frozenset(ids[i : i + 1]) if alone else frozenset() for i in range(4)]
    found = TokenBank(model, memory).probabilities(hidden_of(model, queries), out)
    places = [frozenset({i}) if alone else frozenset() for i in range(4)]
    for ours, loop in zip(found, votes_of_a_loop(model, CORPUS[:9], queries, places), strict=True):
        np.testing.assert_allclose(ours, loop, atol=1e-5)


def test_the_bank_follows_the_memory_and_the_weights():
    model = model_of("bert")
    memory = Memory(model)
    first = memory.add(CORPUS[:3])
    bank = TokenBank(model, memory)
    queries = hidden_of(model, CORPUS[5:6])
    bank.probabilities(queries)
    assert len(bank) == sum(map(len, CORPUS[:3]))
    memory.add(CORPUS[3])
    memory.remove(first[1])
    left = [CORPUS[0], CORPUS[2], CORPUS[3]]
    (found,) = bank.probabilities(queries)
    assert len(bank) == sum(map(len, left))
    np.testing.assert_allclose(found, votes_of_a_loop(model, left, CORPUS[5:6], [frozenset()])[0], atol=1e-5)
    with torch.no_grad():
        next(reversed(list(model.network.bert.encoder.parameters()))).add_(0.5)
    (moved,) = bank.probabilities(hidden_of(model, CORPUS[5:6]))
    np.testing.assert_allclose(moved, votes_of_a_loop(model, left, CORPUS[5:6], [frozenset()])[0], atol=1e-5)


def test_neighbours_are_searched_in_groups_that_need_as_many(model, monkeypatch):
    """One long sentence of the memory among the queries does not make every other word look for as many neighbours."""
    monkeypatch.setattr(knn, "_FOUND", 100)
    memory = Memory(model)
    long = Sentence(tuple(w for s in CORPUS for w in s.words), tuple(t for s in CORPUS for t in s.tags))
    ids = memory.add([*CORPUS[:4], long])
    queries, left_out = [*CORPUS, long], [frozenset()] * len(CORPUS) + [frozenset(ids[-1:])]
    left_out[1] = frozenset(ids[1:2])
    bank, asked = TokenBank(model, memory), []
    search = CosineBank.search

    def noted(self, rows, k):
        asked.append((len(rows), k))
        return search(self, rows, k)

    monkeypatch.setattr(CosineBank, "search", noted)
    found = bank.probabilities(hidden_of(model, queries), left_out)
    expected = votes_of_a_loop(model, [*CORPUS[:4], long], queries, [{ids.index(i) for i in out} for out in left_out])
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert sum(rows for rows, _ in asked) == sum(map(len, queries))
    assert all(rows == 1 or rows * k <= 100 for rows, k in asked)
    assert sum(rows for rows, k in asked if k == NEIGHBOURS) == sum(map(len, queries)) - len(long) - len(CORPUS[1])


def test_mixing():
    logits = [np.log(np.array([[0.8, 0.2], [0.5, 0.5]])), np.zeros((0, 2))]
    votes = [np.array([[0.0, 1.0], [0.0, 0.0]]), np.zeros((0, 2))]
    mixed = fused(logits, votes, 0.5)
    np.testing.assert_allclose(np.exp(mixed[0]), [[0.4, 0.6], [0.5, 0.5]])  # where nobody votes, the own stays
    assert mixed[1].shape == (0, 2)


def test_labelled_words_decide_alone_if_they_are_given_all_the_weight(model):
    memory = Memory(model)
    words = CORPUS[0].words
    memory.add(Sentence(words, ("B-LOC",) * len(words)))
    (result,) = adapt(model, [list(words)], memory=memory, k=0, knn=1.0)
    assert spans(result) == [(i, i + 1, "LOC") for i in range(len(words))]
    assert result.supports == () and all(e.score > 0.99 for e in result.entities)
    (alone,) = adapt(model, [list(words)], memory=memory, k=0, knn=1.0, exclude_self=True)
    assert spans(alone) == spans(predict(model, [list(words)])[0])


def test_no_weight_and_an_empty_memory_change_nothing(model):
    texts = [s.text for s in CORPUS[:3]]
    plain = [spans(r) for r in predict(model, texts)]
    assert [spans(r) for r in adapt(model, texts, k=0, knn=0.0)] == plain
    with pytest.warns(UserWarning, match="memory is empty"):
        assert [spans(r) for r in adapt(model, texts, memory=Memory(model), k=0, knn=0.5)] == plain
    assert adapt(model, "", knn=0.5).entities == ()
    for wrong in (-0.1, 1.1, True, "much"):
        with pytest.raises(SettingError, match="knn"):
            adapt(model, texts, knn=wrong)


def test_a_calibrated_memory_is_adapted_to_as_calibrated(model, tmp_path):
    memory = Memory(model, tmp_path / "memory.sqlite")
    memory.add(CORPUS)
    assert memory.calibration is None
    found = memory.calibrate(ks=(1,), lrs=(0.1,), knns=(1.0,))
    assert {trial.knn for trial in found.trials} == {0.0, 1.0}
    tokens = [list(s.words) for s in CORPUS[:4]]
    memory.close()
    with Memory(model, tmp_path / "memory.sqlite") as memory:
        assert memory.calibration == found.arguments
        assert memory.copy_for(model).calibration is None  # which is for a model with other weights
        assert memory.copy_for(model, calibration=True).calibration == found.arguments
        by_itself = adapt(model, tokens, memory=memory)
        assert [r.entities for r in by_itself] == [
            r.entities for r in adapt(model, tokens, memory=memory, **found.arguments)
        ]
        given = adapt(model, tokens, memory=memory, k=1)  # what is given counts, and the defaults beside it
        assert all(len(r.supports) == 1 for r in given)
        with memory._mirror.changing() as store:
            store.write_note("calibration", "{")
        with pytest.raises(MemoryFileError, match="calibrate"):
            adapt(model, tokens, memory=memory)
        memory.clear()
        assert memory.calibration is None


def test_what_votes_is_scored_with_the_sentence_left_out(model):
    found = calibrate(model, ks=(1,), lrs=(0.1,), knns=(1.0,))
    trial = next(t for t in found.trials if t.knn and t.inner is None)
    memory = model.memory
    place = {key: i for i, (key, _) in enumerate(memory)}
    left_out = [frozenset(place[i] for i in memory.find(s)) for s in CORPUS]
    loop = votes_of_a_loop(model, [s for _, s in memory], CORPUS, left_out)
    tags = [model.labels.decode(rows.argmax(1).tolist()) for rows in loop]
    assert trial.score.support == sum(len(s.entities) for s in CORPUS)
    assert all(len(t) == len(s) for t, s in zip(tags, CORPUS, strict=True))
