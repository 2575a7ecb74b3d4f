"""Bad input: an error class of its own, a message that says what to do, and nothing changed."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from memory_fakes import DIM, FakeEncoder, labelled, numbered

from pymetaner.errors import (
    DataError,
    EmptyDataError,
    EncoderError,
    EncoderMismatchError,
    InputError,
    LabelMismatchError,
    MemoryFileError,
    MemoryReadOnlyError,
    SettingError,
)
from pymetaner.memory import Memory
from pymetaner.sentence import Sentence

ADA = labelled("Ada slept", Ada="PER")


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (Sentence(("Ada", "slept")), DataError, r"sentence 1 \('Ada slept'\) is not labelled"),
        ("Ada slept", DataError, "item 1 is a str"),
        (Sentence((), ()), EmptyDataError, "sentence 1 has no word"),
        (labelled("Ada MISC", MISC="MISC"), LabelMismatchError, "MISC are not in .*LOC, ORG, PER.*sentence 1"),
        (Sentence(("Ada", "\ud800"), ("O", "O")), DataError, "surrogate"),
        (Sentence(("Ada", ""), ("O", "O")), DataError, "empty word"),
        (Sentence(("Ada",), ("O",), "Ada \ud800", ((0, 3),)), DataError, "surrogate"),
        (Sentence(("Ada",), ("O",), (5,), ((0, 1),)), DataError, r"sentence 1 .* not strings"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_bad_sentences_before_anything_is_written(memory: Memory, encoder, bad, error, says) -> None:
    memory.add(ADA)
    with pytest.raises(error, match=says):
        memory.add([numbered(1), bad, numbered(2)])
    assert list(memory) == [(1, ADA)]
    assert encoder.embedded == 1, "refused before the slow part"
    assert memory.add(numbered(1)) == [2], "and the next add works"


@pytest.mark.parametrize("source", [None, Path("a"), b"a", 5, "a\ud800"], ids=repr)
def test_a_source_that_is_no_text(memory: Memory, encoder: FakeEncoder, source: object) -> None:
    with pytest.raises(SettingError, match=r"source is .*expected a string"):
        memory.add(ADA, source=source)
    assert len(memory) == encoder.embedded == 0


def test_a_file_whose_name_is_no_text(memory: Memory, tmp_path: Path) -> None:
    file = tmp_path / b"\xff.conll".decode(errors="surrogateescape")
    file.write_text("Ada B-PER\n")
    memory.import_file(file)
    assert memory.sources() == {"\ufffd.conll": [1]}


@pytest.mark.parametrize("nothing", [None, 5])
def test_what_is_no_sentence_at_all(memory: Memory, nothing: object) -> None:
    with pytest.raises(DataError, match=r"expected pymetaner\.Sentence"):
        memory.add(nothing)
    for wrong in ("Ada slept", nothing):
        with pytest.raises(InputError, match=r"expected a pymetaner\.Sentence"):
            memory.find(wrong)


def test_an_id_is_any_integer(memory: Memory) -> None:
    memory.add([ADA, numbered(1), numbered(2)])
    assert memory[memory.ids[0]] == memory[np.uint8(1)] == ADA
    assert memory.ids[0] in memory and 2**70 not in memory and -1 not in memory and "1" not in memory
    for missing in (4, 0, -1, 2**70):
        with pytest.raises(KeyError, match=f"no sentence {missing}"):
            memory[missing]
    assert memory.remove([2**70, 0]) == 0
    assert memory.remove(memory.ids[:2]) == 2 and memory.ids.tolist() == [3]
    assert memory.remove(np.int32(3)) == 1


@pytest.mark.parametrize("wrong", [1.7, "2", None, b"\x01", np.float32(1)], ids=repr)
def test_what_is_no_id(memory: Memory, encoder: FakeEncoder, wrong: object) -> None:
    memory.add([ADA, numbered(1)])
    for use in (
        lambda: memory.remove(wrong),
        lambda: memory.remove([2, wrong]),
        lambda: memory[wrong],
        lambda: memory.search(encoder.embed([ADA]), 1, exclude_self=[wrong if wrong is not None else "2"]),
    ):
        with pytest.raises(InputError, match="is not an id: expected a whole number"):
            use()
    assert len(memory) == 2


def test_what_is_no_encoder(memory: Memory, encoder: FakeEncoder, path: Path) -> None:
    for use in (
        lambda: Memory("memory.sqlite"),
        lambda: Memory(None),
        lambda: Memory(FakeEncoder, path),
        lambda: Memory.load(path, path),
        lambda: memory.rebuild("model"),
        lambda: memory.check("model"),
    ):
        with pytest.raises(SettingError, match="the model comes first"):
            use()
    for wrong in (5, b"memory.sqlite", "a\0b"):
        for use in (
            lambda wrong=wrong: Memory(encoder, wrong),
            lambda wrong=wrong: Memory.load(encoder, wrong),
            lambda wrong=wrong: memory.save(wrong),
            lambda wrong=wrong: memory.export(wrong),
        ):
            with pytest.raises(SettingError, match="is not a path"):
                use()


def test_copies_are_called_by_what_they_are_copies_of(encoder: FakeEncoder, path: Path) -> None:
    other, fewer = FakeEncoder("fake-2"), FakeEncoder(types=())
    with Memory(encoder, path) as opened:
        opened.add(ADA)  # its log is beside the file now
        loaded = Memory.load(encoder, path)
        for copied in (opened.copy_for(encoder), loaded.copy_for(encoder), loaded.copy_for(encoder).copy_for(encoder)):
            assert list(copied) == list(opened)
            with pytest.raises(EncoderMismatchError, match=f"vectors of the memory in RAM from {path} were made"):
                copied.check(other)
            with pytest.raises(LabelMismatchError, match=f"the memory in RAM from {path} has sentences"):
                copied.copy_for(fewer)
    with Memory(encoder) as unsaved, pytest.raises(EncoderMismatchError, match="vectors of the memory in RAM were"):
        unsaved.add(ADA)
        unsaved.copy_for(encoder).check(other)


def test_every_unknown_type_is_named(memory: Memory) -> None:
    with pytest.raises(LabelMismatchError, match="DATE, MISC are not"):
        memory.add([labelled("a b", b="MISC"), labelled("c", c="DATE"), ADA])


def test_nothing_to_add(memory: Memory) -> None:
    with pytest.raises(EmptyDataError, match="at least one"):
        memory.add([])
    with pytest.raises(EmptyDataError):
        memory.add(iter(()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows * 2,
        lambda rows: np.where(np.arange(len(rows))[:, None] == 1, np.nan, rows),
        lambda rows: np.where(np.arange(len(rows))[:, None] == 1, np.inf, rows),
        lambda rows: rows * 0,
        lambda rows: rows[:, :-1],
        lambda rows: rows[:-1],
    ],
    ids=["too long", "NaN", "infinite", "zero", "narrow", "one too few"],
)
def test_bad_vectors(memory: Memory, encoder: FakeEncoder, spoil) -> None:
    embed = encoder.embed
    encoder.embed = lambda sentences, progress=False: spoil(embed(sentences))  # type: ignore[method-assign]
    with pytest.raises(EncoderError, match=r"Ada saw sentence|expected \(3, 16\)"):
        memory.add([numbered(i) for i in range(3)])
    assert len(memory) == 0


def test_an_encoder_that_was_trained_since(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add(ADA)
    encoder.fingerprint = "fake-1, trained"
    with pytest.raises(EncoderMismatchError, match=r"made by the encoder fake-1 .*memory\.rebuild\(model\)"):
        memory.add(numbered(1))
    with pytest.raises(EncoderMismatchError):
        memory.check()
    assert list(memory) == [(1, ADA)]


def test_check_with_another_model(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add(ADA)
    memory.check()
    memory.check(FakeEncoder())
    with pytest.raises(EncoderMismatchError, match="fake-2"):
        memory.check(FakeEncoder("fake-2"))
    with pytest.raises(LabelMismatchError, match=r"the entity types PER, which are not in .*LOC"):
        memory.check(FakeEncoder(types=["LOC"]))


def test_rebuild_for_a_model_that_lacks_a_type(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add(ADA)
    before = memory.vectors.copy()
    with pytest.raises(LabelMismatchError, match="PER"):
        memory.rebuild(FakeEncoder("fake-2", types=["LOC"]))
    assert memory.encoder is encoder
    np.testing.assert_array_equal(memory.vectors, before)


def test_searches(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add(ADA)
    query = encoder.embed([ADA])
    with pytest.raises(SettingError, match="k is 0"):
        memory.search(query, 0)
    with pytest.raises(InputError, match=r"shape \(16,\)"):
        memory.search(query[0], 1)
    with pytest.raises(EncoderMismatchError, match="8 dimensions for a memory of 16"):
        memory.search(query[:, :8], 1)
    with pytest.raises(InputError, match="NaN"):
        memory.search(query * np.float32(np.nan), 1)
    with pytest.raises(SettingError, match="2 items to exclude for 1 queries"):
        memory.search(query, 1, exclude_self=[None, None])
    for k in ("a", None, 1.5, -3):
        with pytest.raises(SettingError, match="expected a whole number"):
            memory.search(query, k)
    for vectors in ("a", [[1.0], [1.0, 2.0]], [["a"]], {}):
        with pytest.raises(InputError, match="queries"):
            memory.search(vectors, 1)
    for wrong in (ADA, "1", 1, iter([1])):
        with pytest.raises(SettingError, match=r"exclude_self is a .* give a list"):
            memory.search(query, 1, exclude_self=wrong)
    assert memory.search(query, np.int64(1), exclude_self=np.array([1])) == [[]]


def test_a_closed_memory(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add(ADA)
    memory.close()
    memory.close()
    for use in (
        lambda: memory.add(ADA),
        lambda: memory.remove(1),
        lambda: len(memory),
        lambda: memory[1],
        lambda: memory.search(np.ones((1, DIM)) / 4, 1),
        lambda: memory.save("elsewhere.sqlite"),
    ):
        with pytest.raises(MemoryFileError, match=r"closed: open it again with Memory\(encoder, path\)"):
            use()


def test_pickling_says_how_to_pass_a_memory_on(memory: Memory) -> None:
    for attempt in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match=r"memory\.path"):
            attempt(memory)


def test_read_only(encoder: FakeEncoder, path, tmp_path) -> None:
    with Memory(encoder, path) as memory:
        memory.add(ADA)
    with Memory(encoder, path, read_only=True) as memory:
        assert memory.read_only and "read only" in repr(memory)
        for change in (
            lambda: memory.add(ADA),
            lambda: memory.add(numbered(1)),
            lambda: memory.remove(1),
            memory.clear,
            memory.rebuild,
        ):
            with pytest.raises(MemoryReadOnlyError, match=r"memory\.save\(path\).*Memory\(encoder, path\)"):
                change()
        memory.save(tmp_path / "copy.sqlite")
    with Memory(encoder, tmp_path / "copy.sqlite") as copied:
        assert copied.add(numbered(1)) == [2]


def test_settings_that_do_not_go_together(encoder: FakeEncoder, path) -> None:
    with pytest.raises(SettingError, match="read_only"):
        Memory(encoder, read_only=True)
    with pytest.raises(SettingError, match="read_only"):
        Memory(encoder, path, read_only=True, rebuild=True)
