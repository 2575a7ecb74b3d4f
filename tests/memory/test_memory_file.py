"""The file: foreign and damaged ones are refused, changes survive kills, copies are whole or not made."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from memory_fakes import FakeEncoder, edit, forked, joined, kill, labelled, numbered

from pymetaner.errors import (
    EncoderMismatchError,
    LabelMismatchError,
    MemoryFileError,
    MemoryReadOnlyError,
    SaveError,
)
from pymetaner.memory import Memory
from pymetaner.memory.file import APPLICATION_ID
from pymetaner.sentence import Sentence

ADA = labelled("Ada slept", Ada="PER")


@pytest.fixture
def filled(encoder: FakeEncoder, path: Path) -> Path:
    with Memory(encoder, path) as memory:
        memory.add([numbered(i) for i in range(100)])
    return path


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def test_a_closed_memory_is_one_plain_file(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add(ADA)
        assert path.name + "-wal" in names(path)
        assert memory.path == path
    assert names(path) == [path.name]
    header = path.read_bytes()[:100]
    assert header[18:20] == b"\x01\x01", "no write-ahead log is needed to read it"
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID
    with Memory(encoder, path) as memory:
        assert list(memory) == [(1, ADA)]


def test_a_forgotten_memory_is_closed_when_it_goes(encoder: FakeEncoder, path: Path) -> None:
    Memory(encoder, path).add(ADA)
    assert names(path) == [path.name]


def test_every_commit_is_synced(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add(ADA)
        with memory._mirror.locked() as store:
            pragmas = [store._connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("synchronous", "journal_mode")]
    assert pragmas == [2, "wal"]


def test_a_memory_that_is_only_read_stays_as_it_is(encoder: FakeEncoder, filled: Path) -> None:
    before, modified = filled.read_bytes(), filled.stat().st_mtime_ns
    for read_only in (False, True):
        with Memory(encoder, filled, read_only=read_only) as memory:
            memory.search(memory.vectors[:3], 2)
            assert names(filled) == [filled.name]
    assert filled.read_bytes() == before and filled.stat().st_mtime_ns == modified
    assert names(filled) == [filled.name]


def test_odd_names(encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b?mode=memory#x%20.sqlite", "память", b"\xff.sqlite".decode(errors="surrogateescape")):
        with Memory(encoder, name) as memory:
            memory.add(ADA)
        with Memory(encoder, name, read_only=True) as memory:
            assert list(memory) == [(1, ADA)]
        assert (tmp_path / name).is_file()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("read_only", [False, True])
class TestRefused:
    def refused(self, path: Path, says: str, read_only: bool, error: type[Exception] = MemoryFileError) -> None:
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(error, match=says):
            Memory(FakeEncoder(), path, read_only=read_only)
        with pytest.raises(error, match=says):
            Memory.load(FakeEncoder(), path)
        if before is not None:
            assert path.read_bytes() == before

    def test_text(self, path: Path, read_only: bool) -> None:
        path.write_text("Ada B-PER\nslept O\n" * 1000)
        self.refused(path, "memory.sqlite is damaged or not a memory", read_only)

    def test_empty(self, path: Path, read_only: bool) -> None:
        path.touch()
        self.refused(path, "is empty", read_only)

    def test_folder(self, tmp_path: Path, read_only: bool) -> None:
        self.refused(tmp_path, "not a file", read_only)

    def test_another_sqlite_database(self, path: Path, read_only: bool) -> None:
        edit(path, "CREATE TABLE sentences (id INTEGER PRIMARY KEY)")
        self.refused(path, "not a pymetaner memory", read_only)

    def test_a_later_format(self, filled: Path, read_only: bool) -> None:
        edit(filled, "PRAGMA user_version = 2")
        self.refused(filled, "format 2.*upgrade", read_only)

    def test_tables_of_somebody_else(self, filled: Path, read_only: bool) -> None:
        edit(filled, "CREATE TRIGGER t AFTER INSERT ON sentences BEGIN DELETE FROM sentences; END")
        self.refused(filled, "damaged", read_only)

    def test_a_missing_fact(self, filled: Path, read_only: bool) -> None:
        edit(filled, "DELETE FROM meta WHERE key = 'removals'")
        self.refused(filled, "damaged", read_only)

    @pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.6, 0.9, 0.999])
    def test_truncated(self, filled: Path, read_only: bool, share: float) -> None:
        os.truncate(filled, int(filled.stat().st_size * share))
        self.refused(filled, "damaged", read_only)

    def test_overwritten_in_the_middle(self, filled: Path, read_only: bool) -> None:
        with open(filled, "r+b") as file:
            file.seek(filled.stat().st_size // 2)
            file.write(os.urandom(8192))
        self.refused(filled, "damaged", read_only)

    @pytest.mark.parametrize("vector", [np.full(16, 3, "<f4"), np.full(16, np.nan, "<f4"), np.full(15, 0.25, "<f4")])
    def test_a_vector_that_is_none(self, filled: Path, read_only: bool, vector: np.ndarray) -> None:
        edit(filled, "UPDATE sentences SET vector = ? WHERE id = 50", parameters=[vector.tobytes()])
        self.refused(filled, "damaged", read_only)

    @pytest.mark.parametrize(
        "change",
        [
            "vector = 5",
            "vector = 'text'",
            *(f"types = {types}" for types in ("5", "'\"PER\"'", "'[5]'", "'[[]]'", "'{\"PER\": 1}'", "'['", "x'ff'")),
        ],
    )
    def test_values_of_other_kinds(self, filled: Path, read_only: bool, change: str) -> None:
        edit(filled, f"UPDATE sentences SET {change} WHERE id = 50")
        self.refused(filled, r"memory\.sqlite is damaged .*restore it from a copy", read_only)

    @pytest.mark.parametrize("value", [b"\xff", float("inf"), "many"])
    def test_a_fact_of_another_kind(self, filled: Path, read_only: bool, value: object) -> None:
        edit(filled, "UPDATE meta SET value = ? WHERE key = 'removals'", parameters=[value])
        self.refused(filled, "damaged .*meta", read_only)

    def test_a_schema_that_is_no_text(self, filled: Path, read_only: bool) -> None:
        content = filled.read_bytes()
        assert content.count(b"CREATE TABLE meta (key") == 1
        filled.write_bytes(content.replace(b"CREATE TABLE meta (key", b"CREATE \xff\xfeBLE meta (key"))
        self.refused(filled, "damaged", read_only)

    def test_another_encoder(self, filled: Path, read_only: bool) -> None:
        edit(filled, "UPDATE meta SET value = 'other' WHERE key = 'fingerprint'")
        says = r"encoder other \(16 dimensions\).*fake-1 \(16\).*Memory\(model, path, rebuild=True\)"
        self.refused(filled, says, read_only, EncoderMismatchError)

    def test_another_width(self, filled: Path, read_only: bool) -> None:
        edit(filled, "UPDATE meta SET value = 8 WHERE key = 'dim'")
        self.refused(filled, "8 dimensions", read_only, EncoderMismatchError)

    def test_other_types(self, path: Path, read_only: bool) -> None:
        with Memory(FakeEncoder(types=["PER", "MISC", "DATE"]), path) as memory:
            memory.add([ADA, labelled("a b", a="MISC", b="DATE")])
        self.refused(path, "entity types DATE, MISC,.*LOC, ORG, PER", read_only, LabelMismatchError)


def test_a_missing_file_or_folder(encoder: FakeEncoder, path: Path, tmp_path: Path) -> None:
    with pytest.raises(MemoryFileError, match="not a file"):
        Memory(encoder, path, read_only=True)
    with pytest.raises(MemoryFileError, match="not a file"):
        Memory.load(encoder, path)
    with pytest.raises(MemoryFileError, match=r"folder .*missing does not exist"):
        Memory(encoder, tmp_path / "missing" / "memory.sqlite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        *(f"{column} = '[1'" for column in ("words", "tags", "source", "spans")),
        'words = \'["Eva","slept"]\'',
        'tags = \'["B-LOC","O"]\'',
        "spans = '[0,3,4]'",
        "spans = '[0,3,4,99]'",
        "spans = '{}'",
        "words = x'00'",
        "tags = x'00'",
        "source = '5'",
        "spans = CAST(x'ff' AS TEXT)",
    ],
)
def test_a_damaged_sentence_is_found_when_it_is_read(encoder: FakeEncoder, path: Path, change: str) -> None:
    with Memory(encoder, path) as memory:
        memory.add(Sentence(("Ada", "slept"), ("B-PER", "O"), "Ada slept", ((0, 3), (4, 9))))
    edit(path, f"UPDATE sentences SET {change}")
    with Memory(encoder, path) as memory, pytest.raises(MemoryFileError, match="damaged"):
        memory[1]


def test_a_source_that_is_no_text(encoder: FakeEncoder, filled: Path) -> None:
    edit(filled, "UPDATE sentences SET origin = x'ff' WHERE id = 50")
    with pytest.raises(MemoryFileError, match=r"damaged .*restore it from a copy"), Memory(encoder, filled) as memory:
        memory.sources()


def content_of(memory: Memory) -> list[tuple[Sentence, bytes, str]]:
    """Everything but the ids: a sentence, its vector and its source."""
    sources = {key: source for source, keys in memory.sources().items() for key in keys}
    vectors = dict(zip(memory.ids.tolist(), memory.vectors, strict=True))
    return sorted(((s, vectors[key].tobytes(), sources[key]) for key, s in memory), key=repr)


def raw(i: int) -> Sentence:
    """A sentence with a raw text, so that every column has something."""
    return Sentence(
        ("Ada", "saw", str(i)), ("B-PER", "O", "O"), f"Ada  saw {i}", ((0, 3), (5, 8), (9, 9 + len(str(i))))
    )


def test_a_flipped_bit_is_refused_or_changes_nothing(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add([raw(i) for i in range(60)], source="from a file")
        memory.rebuild()  # as after it, too
        memory.add([raw(i) for i in range(60, 100)], source="from a file")
        expected = content_of(memory)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for place, bit in zip(
        random.integers(0, len(whole), 500).tolist(), random.integers(0, 8, 500).tolist(), strict=True
    ):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            with Memory(encoder, path, read_only=True) as memory:
                found = content_of(memory)
        except (MemoryFileError, EncoderMismatchError, LabelMismatchError):
            refused += 1
        else:
            assert found == expected, (place, bit)
    assert refused > 100


@pytest.mark.parametrize("old", ["", "of the format before there were checksums"])
@pytest.mark.parametrize("column", ["vector", "words", "tags", "source", "spans", "types", "origin"])
def test_every_column_is_checked(encoder: FakeEncoder, path: Path, column: str, old: str) -> None:
    with Memory(encoder, path) as memory:
        memory.add(raw(1), source="here")
    if old:
        edit(path, "UPDATE sentences SET vector = substr(vector, 1, 64)")
        with Memory(encoder, path) as memory:
            assert list(memory) == [(1, raw(1))] and memory.sources() == {"here": [1]}
    changes = {
        "words": "replace(words, 'A', 'E')",
        "tags": "replace(tags, 'B', 'I')",
        "source": "replace(source, '  ', ' _')",
        "spans": "replace(spans, '3', '4')",
        "types": "'[]'",
        "origin": "'there'",
    }
    if column == "vector":
        turned = (np.float32([1, -1] * 8) / 4).tobytes()
        edit(path, "UPDATE sentences SET vector = CAST(? || substr(vector, 65) AS BLOB)", parameters=[turned])
    else:
        edit(path, f"UPDATE sentences SET {column} = {changes[column]}")

    def use() -> None:
        with Memory(encoder, path) as memory:
            list(memory)

    if old and column in ("vector", "source", "spans", "origin"):
        use()  # nothing to check it with
    else:
        with pytest.raises(MemoryFileError, match="damaged"):
            use()


def test_a_rebuild_checks_what_it_seals(encoder: FakeEncoder, path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add(raw(1), source="here")
    edit(path, "UPDATE sentences SET origin = 'there'")
    with pytest.raises(MemoryFileError, match="damaged"):
        Memory(FakeEncoder("fake-2", dim=32), path, rebuild=True)
    edit(path, "UPDATE sentences SET vector = substr(vector, 1, 64)")
    with Memory(FakeEncoder("fake-2", dim=32), path, rebuild=True) as memory:
        assert memory[1] == raw(1)
    edit(path, "UPDATE sentences SET origin = 'here'")
    with pytest.raises(MemoryFileError, match="damaged"), Memory(FakeEncoder("fake-2", dim=32), path) as memory:
        list(memory)


def test_rebuild_while_opening(filled: Path) -> None:
    other = FakeEncoder("fake-2")
    with Memory(other, filled, rebuild=True) as memory:
        np.testing.assert_array_equal(memory.vectors, other.embed([numbered(i) for i in range(100)]))
    assert other.embedded == 200
    with Memory(other, filled, rebuild=True) as memory:
        assert len(memory) == 100
    assert other.embedded == 200, "nothing to do the second time"
    with pytest.raises(EncoderMismatchError):
        Memory(FakeEncoder(), filled)


def test_a_removed_sentence_leaves_no_text_behind(encoder: FakeEncoder, path: Path, tmp_path: Path) -> None:
    with Memory(encoder, path) as memory:
        memory.add([labelled(f"secret{i} word{i}") for i in range(500)])
        memory.remove(range(1, 500))
        memory.save(tmp_path / "copy.sqlite")
    for file in (path, tmp_path / "copy.sqlite"):
        content = file.read_bytes()
        assert b"secret499" in content and b"secret1" not in content and b"secret250" not in content
    assert (tmp_path / "copy.sqlite").stat().st_size < path.stat().st_size / 2


# ---- kills and full disks ----


def test_what_was_acknowledged_survives_a_kill(encoder: FakeEncoder, path: Path) -> None:
    """Killed while adding one by one and in batches, three times over, each time on what the last one left."""
    acknowledged: dict[int, int] = {}
    for round_ in range(3):
        reader, writer = os.pipe()

        def work(first: int = 10_000 * round_, writer: int = writer) -> None:
            memory = Memory(encoder, path)
            for n in range(first, first + 10_000, 5):
                batch = [n] if n % 2 else list(range(n, n + 5))
                for i, key in zip(batch, memory.add([numbered(i) for i in batch]), strict=True):
                    os.write(writer, f"{i} {key}\n".encode())

        pid = forked(work)
        os.close(writer)
        with os.fdopen(reader) as lines:
            for _ in range(40 + 7 * round_):
                i, key = map(int, lines.readline().split())
                acknowledged[key] = i
            kill(pid)
            acknowledged |= {int(key): int(i) for i, key in map(str.split, lines)}
        with Memory(encoder, path) as memory:
            found = dict(memory)
            assert acknowledged.keys() <= found.keys()
            assert all(found[key] == numbered(i) for key, i in acknowledged.items())
            even = {int(s.words[3]) for s in found.values() if int(s.words[3]) // 5 * 5 % 2 == 0}
            assert all(set(range(i // 5 * 5, i // 5 * 5 + 5)) <= even for i in even), "a batch is there whole or not"
            np.testing.assert_array_equal(memory.vectors, encoder.embed(list(found.values())))
        assert names(path) == [path.name]


def test_killed_while_saving(encoder: FakeEncoder, filled: Path, tmp_path: Path) -> None:
    target = tmp_path / "folder" / "copy.sqlite"
    target.parent.mkdir()
    with Memory(encoder) as old:
        old.add(ADA)
        old.save(target)

    def work() -> None:
        with Memory(encoder, filled) as memory:
            memory.add([numbered(i) for i in range(5000)])
            while True:
                memory.save(target)

    pid = forked(work)
    time.sleep(0.5)
    kill(pid)
    with Memory(encoder, target) as memory:
        assert len(memory) in (1, 5000)


def test_a_full_disk_while_saving(encoder: FakeEncoder, filled: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.sqlite"
    with Memory(encoder) as old:
        old.add(ADA)
        old.save(target)
    before = target.read_bytes()

    def work() -> None:
        with Memory(encoder, filled, read_only=True) as memory:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            for place in (target, tmp_path / "new.sqlite"):
                with pytest.raises(SaveError, match=f"{place.name} could not be written"):
                    memory.save(place)
            assert len(memory) == 100

    assert joined(forked(work)) == 0
    assert target.read_bytes() == before
    assert names(target) == ["copy.sqlite", "memory.sqlite"]


def test_a_full_disk_while_adding(encoder: FakeEncoder, path: Path) -> None:
    def work() -> None:
        with Memory(encoder, path) as memory:
            memory.add(ADA)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
            with pytest.raises(SaveError, match="nothing was changed"):
                memory.add([numbered(i) for i in range(2000)])
            assert list(memory) == [(1, ADA)]
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            assert memory.add(numbered(1)) == [2]

    assert joined(forked(work)) == 0
    with Memory(encoder, path) as memory:
        assert list(memory) == [(1, ADA), (2, numbered(1))]


def test_a_full_disk_while_making_a_new_file(encoder: FakeEncoder, path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(SaveError):
            Memory(encoder, path)

    assert joined(forked(work)) == 0
    assert names(path) == []


# ---- saving ----


def test_a_copy_is_complete_and_replaces_what_was_there(memory: Memory, encoder: FakeEncoder, tmp_path: Path) -> None:
    memory.add([numbered(i) for i in range(300)], source="here")
    memory.remove([300])
    target = tmp_path / "copy.sqlite"
    target.write_text("something else")
    memory.save(target)
    assert target.read_bytes()[18:20] == b"\x01\x01"
    with Memory(encoder, target, read_only=True) as copied:
        assert list(copied) == list(memory)
        assert copied.sources() == memory.sources()
        np.testing.assert_array_equal(copied.vectors, memory.vectors)
    with Memory(encoder, target) as copied:
        assert copied.add(ADA) == [301], "a removed id does not come back in the copy either"


def test_saving_to_its_own_file_changes_nothing(encoder: FakeEncoder, filled: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(filled)
    with Memory(encoder, filled) as memory:
        memory.add(ADA)
        memory.save(filled)
        memory.save(tmp_path / "link")
        assert memory.add(labelled("one more")) == [102]
    with Memory(encoder, filled) as memory:
        assert len(memory) == 102


def test_saving_through_a_link_keeps_the_link_and_the_mode(
    memory: Memory, encoder: FakeEncoder, tmp_path: Path
) -> None:
    memory.add(ADA)
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "real.sqlite", tmp_path / "link.sqlite"
    link.symlink_to(target)
    memory.save(link)
    assert link.is_symlink() and target.is_file()
    target.chmod(0o640)
    memory.add(numbered(1))
    memory.save(link)
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o640
    with Memory(encoder, link) as other:
        assert list(other) == list(memory)


def test_a_log_beside_the_file_that_a_link_leads_to_is_seen(encoder: FakeEncoder, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "real.sqlite", tmp_path / "link.sqlite"
    Memory(encoder, target).close()
    link.symlink_to(target)
    target.with_name("real.sqlite-wal").write_bytes(b"of another file")
    target.unlink()
    with pytest.raises(MemoryFileError, match=r"is missing, but .*real\.sqlite-wal is left of it"):
        Memory(encoder, link)


def test_saving_over_a_memory_that_is_open(memory: Memory, encoder: FakeEncoder, tmp_path: Path) -> None:
    memory.add(ADA)
    target = tmp_path / "other.sqlite"
    with Memory(encoder, target) as other:
        other.add(numbered(1))
        with pytest.raises(SaveError, match="is open elsewhere"):
            memory.save(target)
        assert other.add(numbered(2)) == [2]
    memory.save(target)
    with Memory(encoder, target) as other:
        assert list(other) == [(1, ADA)]


def test_saving_over_a_memory_that_was_killed(memory: Memory, encoder: FakeEncoder, tmp_path: Path) -> None:
    """Its write-ahead log must not be played into the new file."""
    target = tmp_path / "other.sqlite"

    def work() -> None:
        killed = Memory(encoder, target)
        killed.add([numbered(i) for i in range(50)])
        os._exit(0)

    joined(forked(work))
    assert target.with_name("other.sqlite-wal").stat().st_size > 0
    memory.add(ADA)
    memory.save(target)
    with Memory(encoder, target) as other:
        assert list(other) == [(1, ADA)]


def test_saving_onto_a_file_that_others_have_changed(encoder: FakeEncoder, filled: Path, tmp_path: Path) -> None:
    """Of a memory that was loaded from it, or saved to it: what the others did would be lost."""
    memory = Memory.load(encoder, filled)
    copied = memory.copy_for(FakeEncoder())
    memory.save(tmp_path / "copy.sqlite")
    changes = (
        lambda other: other.add(ADA),
        lambda other: other.remove(1),
        lambda other: other.rebuild(),
        lambda other: (other.add(labelled("in and out")), other.remove(102)),
    )
    for i, change in enumerate(changes):
        with Memory(encoder, filled) as other:
            change(other)
        before = filled.read_bytes()
        for attempt in (memory.save, memory.check_unchanged, copied.save):
            with pytest.raises(SaveError, match=r"changed by others .*save under another name"):
                attempt(filled)
        assert filled.read_bytes() == before
        memory.check_unchanged(tmp_path / "copy.sqlite")
        memory.save(tmp_path / f"elsewhere{i}.sqlite")
        filled.unlink()
        memory.save(filled)  # nothing is there that could be lost
        copied = memory.copy_for(FakeEncoder())
    filled.write_text("no memory")
    with pytest.raises(SaveError, match="can no longer be read"):
        memory.save(filled)
    assert filled.read_text() == "no memory"


def test_saving_again_and_again_onto_the_file_it_was_loaded_from(encoder: FakeEncoder, filled: Path) -> None:
    memory = Memory.load(encoder, filled)
    for i in range(100, 103):
        memory.add(numbered(i))
        memory.save(filled)
    with Memory(encoder, filled) as other:
        assert other.remove(99999) == 0 and len(other) == 103
    memory.save(filled)  # opened, and nothing changed


def test_a_memory_whose_file_was_deleted(encoder: FakeEncoder, filled: Path, tmp_path: Path) -> None:
    with Memory(encoder, filled) as memory:
        filled.unlink()
        with pytest.raises(MemoryFileError, match=r"deleted or moved meanwhile: .*memory\.save\(path\)"):
            memory.add(ADA)
        memory.save(tmp_path / "saved.sqlite")
        memory.save(filled)
        assert memory.add(ADA) == [101]
    with Memory(encoder, tmp_path / "saved.sqlite") as saved:
        assert len(saved) == 100


def test_a_log_without_its_file(memory: Memory, encoder: FakeEncoder, tmp_path: Path) -> None:
    target = tmp_path / "deleted.sqlite"
    target.with_name("deleted.sqlite-wal").write_bytes(b"x" * 5000)
    memory.add(ADA)
    with pytest.raises(SaveError, match=r"deleted\.sqlite-wal"):
        memory.save(target)
    with pytest.raises(MemoryFileError, match=r"deleted\.sqlite-wal"):
        Memory(encoder, target)


def test_saving_where_nothing_can_be(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="is a folder"):
        memory.save(tmp_path)
    with pytest.raises(SaveError, match="does not exist"):
        memory.save(tmp_path / "missing" / "memory.sqlite")


# ---- folders that cannot be written ----


@pytest.fixture
def locked_folder(encoder: FakeEncoder) -> Iterator[Path]:
    """A folder with a memory that only its owner may write; tests go there as somebody else."""
    folder = Path(tempfile.mkdtemp())
    with Memory(encoder, folder / "memory.sqlite") as memory:
        memory.add([ADA, numbered(1)])
    (folder / "memory.sqlite").chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(work) -> None:
    def drop_and_work() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        work()

    assert joined(forked(drop_and_work)) == 0


def test_reading_in_a_folder_that_cannot_be_written(encoder: FakeEncoder, locked_folder: Path) -> None:
    path = locked_folder / "memory.sqlite"

    def work() -> None:
        with Memory(encoder, path, read_only=True) as memory:
            assert list(memory) == [(1, ADA), (2, numbered(1))]
            assert memory.search(encoder.embed([ADA]), 1)[0][0].id == 1
        with pytest.raises(MemoryReadOnlyError, match="read_only=True"):
            Memory(encoder, path)
        with pytest.raises(SaveError, match="could not be written"):
            Memory(encoder, locked_folder / "new.sqlite")
        with Memory.load(encoder, path) as memory:
            assert memory.add(numbered(2)) == [3]
            with pytest.raises(SaveError, match="could not be written"):
                memory.save(path)

    as_nobody(work)


def test_reading_in_wal_mode_in_a_folder_that_cannot_be_written(encoder: FakeEncoder, locked_folder: Path) -> None:
    """As a copy of only the main file of an open memory, or one closed by a kill, would be."""
    path = locked_folder / "memory.sqlite"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[18:20] = b"\x02\x02"
    path.write_bytes(content)

    def work() -> None:
        with Memory(encoder, path, read_only=True) as memory:
            assert list(memory) == [(1, ADA), (2, numbered(1))]

    as_nobody(work)


def test_a_log_that_cannot_be_read_is_not_ignored(encoder: FakeEncoder, locked_folder: Path) -> None:
    path = locked_folder / "memory.sqlite"
    locked_folder.chmod(0o755)
    path.chmod(0o644)

    def dies() -> None:
        killed = Memory(encoder, path)
        killed.add(numbered(2))
        os.kill(os.getpid(), 9)

    joined(forked(dies))
    path.with_name("memory.sqlite-shm").unlink()
    locked_folder.chmod(0o555)

    def work() -> None:
        with pytest.raises(MemoryFileError):
            Memory(encoder, path, read_only=True)

    as_nobody(work)
