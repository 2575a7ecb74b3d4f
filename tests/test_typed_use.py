"""Ordinary code of a user under `mypy --strict`, which reads this file too (pyproject.toml), and at run time."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import CORPUS

import pymetaner
from pymetaner import Entity, Evaluation, Memory, MetaNER, Result, Sentence, TrainSettings
from pymetaner.calibration import Calibration, calibrate
from pymetaner.learning import learning_of
from pymetaner.readers import Corpus
from pymetaner.training import wu2020

DRUGS = [Sentence(["Aspirin", "helps"], ["B-DRUG", "O"]), Sentence(["It", "rained"], ["O", "O"])]


def once(sentences: list[Sentence]) -> Iterator[Sentence]:
    yield from sentences


def test_one_text_gives_one_result_and_a_list_gives_a_list(model: MetaNER) -> None:
    entities: tuple[Entity, ...] = model.predict("Ada slept").entities
    assert pymetaner.predict(model, "Ada slept").entities == entities
    assert pymetaner.predict(model, ["Ada slept"])[0].entities == entities
    assert model.predict(("Ada slept",))[0].entities == entities
    assert pymetaner.adapt(model, CORPUS[0], k=0).entities == model.predict(CORPUS[0]).entities
    results: list[Result] = model.predict([["Ada", "slept"], CORPUS[0], "Ada slept"])
    assert [r.entities for r in pymetaner.adapt(model, once(CORPUS[:2]), k=0)] == [
        r.entities for r in model.predict(Corpus(CORPUS[:2]))
    ]
    assert len(results) == 3


def test_sentences_are_made_of_lists_and_keep_tuples() -> None:
    words = ["Ada", "Lovelace"]
    sentence = Sentence(words, ["B-PER", "I-PER"], words, [[0, 1], [1, 2]])
    kept: tuple[str, ...] = sentence.words
    tags: tuple[str, ...] | None = sentence.tags
    spans: tuple[tuple[int, int], ...] = sentence.spans
    assert (kept, tags, spans) == (("Ada", "Lovelace"), ("B-PER", "I-PER"), ((0, 1), (1, 2)))
    assert sentence == pickle.loads(pickle.dumps(sentence)) == replace(sentence, tags=("B-PER", "I-PER"))
    assert {sentence: 1}[Sentence(("Ada", "Lovelace"), ("B-PER", "I-PER"))] == 1
    assert repr(sentence).startswith("Sentence(words=('Ada', 'Lovelace'), tags=('B-PER', 'I-PER'), source=")
    assert Sentence(words, source="Ada Lovelace", spans=[(0, 3), (4, 12)]).text == "Ada Lovelace"
    with pytest.raises(AttributeError):
        sentence.words = kept  # type: ignore[misc]  # frozen


def test_a_corpus_and_what_can_be_read_once_are_taken_for_sentences(model: MetaNER, tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    pymetaner.write(file, once(CORPUS))
    corpus = pymetaner.read(file)
    scores: Evaluation = pymetaner.evaluate(model, corpus, learning=learning_of(model, k=2))
    assert scores == pymetaner.evaluate(model, once(CORPUS), learning=learning_of(model, k=2))
    assert scores.sentences == len(CORPUS)
    drugs = pymetaner.extend(model, Corpus(DRUGS))
    assert drugs.predict("Aspirin helps") == pymetaner.extend(model, once(DRUGS)).predict("Aspirin helps")
    assert (model.embed(corpus) == model.embed(once(CORPUS))).all()
    assert [r.logits.shape for r in model.read(corpus)] == [r.logits.shape for r in model.read(once(CORPUS))]
    assert Memory(model).add(corpus) == Memory(model).add(once(CORPUS))
    tuned = [pymetaner.fine_tune(model, given, steps=1).predict(CORPUS) for given in (corpus, once(CORPUS))]
    assert tuned[0] == tuned[1]
    settings = TrainSettings(steps=2, batch_size=4, evaluate_every=1)
    run = pymetaner.train(model, once(CORPUS), tmp_path / "run", dev=once(CORPUS), settings=settings)
    assert [step for step, _ in run.history] == [1, 2]
    score = wu2020.adapted_score(model, model, corpus, once(CORPUS))
    assert score == wu2020.adapted_score(model, model, CORPUS, CORPUS)


def test_a_calibration_by_a_memory_takes_what_calibrate_takes(model: MetaNER) -> None:
    found: Calibration = model.memory.calibrate(ks=(2,), lrs=[0.02], knns=(), most=4)
    assert {trial.k for trial in found.trials} == {0, 2}
    own, library = (inspect.signature(function).parameters for function in (Memory.calibrate, calibrate))
    assert list(own.values())[1:] == list(library.values())[2:]
    with pytest.raises(pymetaner.PymetanerError, match="most"):
        model.memory.calibrate(most="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="moist"):
        model.memory.calibrate(moist=4)  # type: ignore[call-arg]
