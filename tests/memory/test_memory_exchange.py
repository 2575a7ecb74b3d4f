"""Import and export of labelled files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from memory_fakes import FakeEncoder, labelled

from pymetaner.cli.loading import text_lines
from pymetaner.errors import DataError, InputError, LabelMismatchError, SaveError
from pymetaner.memory import Memory
from pymetaner.sentence import Sentence
from pymetaner.words import regroup

SENTENCES = [
    labelled("Ada Lovelace slept", Ada="PER"),
    Sentence(("Ada", "slept"), ("B-PER", "O"), "Ada  slept.", ((0, 3), (5, 10))),
    regroup(Sentence(tuple("北京很大"), ("B-LOC", "I-LOC", "O", "O"))),
]


def test_jsonl_keeps_every_sentence(memory: Memory, encoder: FakeEncoder, tmp_path: Path) -> None:
    file = tmp_path / "memory.jsonl"
    memory.add(SENTENCES)
    assert memory.export(file) == 3
    with Memory(encoder) as other:
        assert other.import_file(file) == [1, 2, 3]
        assert [sentence for _, sentence in other] == SENTENCES
        assert other.sources() == {"memory.jsonl": [1, 2, 3]}
        assert memory.import_file(file) == [1, 2, 3], "and finds what it has already"


def test_columns_keep_the_words(memory: Memory, tmp_path: Path) -> None:
    file = tmp_path / "memory.conll"
    memory.add(SENTENCES)
    memory.export(file, format="columns")
    memory.clear()
    memory.import_file(file, source="exported", regroup=False)
    assert [sentence.words for _, sentence in memory] == [
        ("Ada", "Lovelace", "slept"),
        ("Ada", "slept"),
        ("北", "京", "很", "大"),
    ]
    assert list(memory.sources()) == ["exported"]


def test_options_go_to_the_reader(memory: Memory, tmp_path: Path) -> None:
    file = tmp_path / "old.conll"
    file.write_text("Ada;x;I-PER\nLovelace;x;I-PER\n\nOslo;x;I-LOC\n")
    memory.import_file(file, delimiter=";", tag_column=2)
    assert [sentence.tags for _, sentence in memory] == [("B-PER", "I-PER"), ("B-LOC",)]


def test_a_bad_file_changes_nothing(memory: Memory, tmp_path: Path) -> None:
    memory.add(SENTENCES)
    for content, error in (("Ada B-PER\nslept\n", DataError), ("Ada B-PER\n\nMay B-DATE\n", LabelMismatchError)):
        (tmp_path / "bad.conll").write_text(content)
        with pytest.raises(error):
            memory.import_file(tmp_path / "bad.conll")
    assert len(memory) == 3


def test_a_memory_is_not_read_as_text(encoder: FakeEncoder, path: Path) -> None:
    """To open and close its file would drop the process's locks on it: to others nobody would seem to use it."""
    leave_wal = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1], 0).execute('PRAGMA journal_mode=DELETE'))"
    with Memory(encoder, path) as memory:
        memory.add(SENTENCES)
        with pytest.raises(DataError, match="is a database"):
            memory.import_file(path)
        with pytest.raises(InputError, match="is a database"):
            list(text_lines(str(path)))
        other = subprocess.run([sys.executable, "-c", leave_wal, path], capture_output=True, text=True)
        assert "database is locked" in other.stderr
        assert len(memory) == len(SENTENCES)


def test_export_where_nothing_can_be_written(memory: Memory, tmp_path: Path) -> None:
    memory.add(SENTENCES)
    with pytest.raises(SaveError):
        memory.export(tmp_path)


def test_export_over_another_memory(memory: Memory, encoder: FakeEncoder, tmp_path: Path) -> None:
    memory.add(SENTENCES)
    for name in ("other.sqlite", "open.sqlite"):
        with Memory(encoder, tmp_path / name) as other:
            other.add(SENTENCES[:1])
            if name == "open.sqlite":
                with pytest.raises(SaveError, match="another memory"):
                    memory.export(tmp_path / name)
        with pytest.raises(SaveError, match="another memory"):
            memory.export(tmp_path / name)
        with Memory(encoder, tmp_path / name) as other:
            assert len(other) == 1
    (tmp_path / "empty").touch()
    assert memory.export(tmp_path / "empty") == memory.export(tmp_path / "empty") == len(memory)


def test_export_over_the_memory_itself(encoder: FakeEncoder, path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    for read_only in (False, True):
        with Memory(encoder, path) as memory:
            memory.add(SENTENCES)
        before = path.read_bytes()
        with Memory(encoder, path, read_only=read_only) as memory:
            for place in (path, str(tmp_path / "link")):
                with pytest.raises(SaveError, match=r"is the memory itself.*another file"):
                    memory.export(place)
            assert memory.export(tmp_path / "memory.jsonl") == 3
        assert path.read_bytes() == before
