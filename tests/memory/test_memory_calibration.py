"""The note of the settings that suit a memory: it goes with what it was found for."""

from __future__ import annotations

from pathlib import Path

import pytest
from memory_fakes import FakeEncoder, edit, numbered

from pymetaner.errors import MemoryFileError
from pymetaner.memory import Memory


@pytest.fixture
def calibrated(memory: Memory) -> Memory:
    """Two sentences and a calibration."""
    memory.add([numbered(1), numbered(2)])
    with memory._mirror.changing() as store:
        store.write_note("calibration", '{"k": 2}')
    assert memory.calibration == {"k": 2}
    return memory


def test_a_rebuild_drops_it(calibrated: Memory) -> None:
    calibrated.rebuild(FakeEncoder("fake-2"))
    assert calibrated.calibration is None


@pytest.mark.parametrize("opened", [Memory, Memory.load])
def test_so_does_a_rebuild_while_opening(calibrated: Memory, tmp_path: Path, opened) -> None:
    calibrated.save(tmp_path / "copy.sqlite")
    with opened(FakeEncoder(), tmp_path / "copy.sqlite", rebuild=True) as memory:
        assert memory.calibration == {"k": 2}, "nothing was to be rebuilt"
    with opened(FakeEncoder("fake-2"), tmp_path / "copy.sqlite", rebuild=True) as memory:
        assert memory.calibration is None


def test_it_goes_with_the_last_sentence(calibrated: Memory) -> None:
    calibrated.remove(1)
    assert calibrated.calibration == {"k": 2}
    calibrated.remove(2)
    assert calibrated.calibration is None


@pytest.mark.parametrize("note", ["{", "5", "null", "[1]", "[]", '"k"', "[" * 100_000])
def test_a_damaged_one(encoder: FakeEncoder, path: Path, note: str) -> None:
    Memory(encoder, path).add(numbered(1))
    edit(path, "INSERT INTO meta VALUES ('calibration', ?)", parameters=[note])
    with Memory(encoder, path) as memory, pytest.raises(MemoryFileError, match=r"damaged.*call calibrate\(\) again"):
        _ = memory.calibration
