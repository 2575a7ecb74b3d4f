"""Making and opening the SQLite file of a memory, and the errors that can happen on the way; `copies.py` copies it.

A file that another connection of this process may have open is never opened by other means than SQLite: closing a
second file descriptor would drop the locks of the first (POSIX), and with them the safety of the file.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pymetaner.errors import MemoryFileError, MemoryReadOnlyError, SaveError
from pymetaner.files import database_uri, sync

__all__ = [
    "begin_reading",
    "beside",
    "companions",
    "connect",
    "create_file",
    "create_in_ram",
    "log_files",
    "open_file",
    "translated",
    "write_ahead",
    "write_back",
]

APPLICATION_ID = 0x4D4E4552
"""Marks the file as a pymetaner memory ("MNER"); `file` and every SQLite tool show it."""

FORMAT_VERSION = 1

PAGE_SIZE = 8192
"""Four sentences with 384-dimensional vectors per page; at SQLite's 4096 a long one would waste half a page."""

BUSY_SECONDS = 30.0
"""How long to wait for another process that is writing."""

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "CREATE TABLE sentences (id INTEGER PRIMARY KEY AUTOINCREMENT, words TEXT NOT NULL, tags TEXT NOT NULL, "
    "source TEXT, spans TEXT, types TEXT NOT NULL, words_digest BLOB NOT NULL, tags_digest BLOB NOT NULL, "
    "origin TEXT NOT NULL, vector BLOB NOT NULL, UNIQUE (words_digest, tags_digest))",
)


@contextmanager
def translated(place: str, *, writing: bool = False) -> Iterator[None]:
    """Turns the errors of SQLite into those of pymetaner."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # a damaged name in the message of an error is no UTF-8
        text = str(error)
        if "locked" in text:
            raise MemoryFileError(
                f"{place} is in use elsewhere and stayed locked for {BUSY_SECONDS:g} seconds: "
                "let the other process finish, then try again"
            ) from error
        if "readonly" in text:
            raise MemoryReadOnlyError(
                f"{place} cannot be written: open it with read_only=True, or copy it where you may write"
            ) from error
        if writing and any(cause in text for cause in ("full", "I/O", "unable to open")):
            raise SaveError(
                f"{place} could not be written ({text}); nothing was changed: see to space and permissions"
            ) from error
        if "unable to open" in text:
            raise MemoryFileError(
                f"{place} cannot be opened ({text}): see to its permissions, and its folder's"
            ) from error
        raise MemoryFileError(f"{place} is damaged or not a memory ({text}): restore it from a copy") from error


def create_in_ram(facts: Mapping[str, str | int]) -> sqlite3.Connection:
    """A new memory in RAM.

    Args:
        facts: the first content of the table `meta`.
    """
    connection = connect(":memory:")
    _make(connection, facts)
    return connection


def create_file(path: Path, facts: Mapping[str, str | int]) -> None:
    """Makes a new memory file, whole or not at all; leaves it alone if another process was faster.

    Raises:
        MemoryFileError: if its folder is missing, or the write-ahead log of a deleted memory is in the way.
        SaveError: if it cannot be written.
    """
    if not path.parent.is_dir():
        raise MemoryFileError(f"the folder {path.parent} does not exist: make it first")
    left = [str(p) for p in companions(path) if p.exists()]
    if path.exists():  # asked after the companions: a file that another process just made may have some
        return
    if left:
        raise MemoryFileError(f"{path} is missing, but {' and '.join(left)} is left of it: restore it, or delete these")
    with beside(path) as temporary:
        with translated(str(path), writing=True), closing(connect(database_uri(temporary, "rwc"))) as connection:
            _make(connection, facts)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
        sync(path.parent)


def open_file(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection to an existing memory file, checked: ours, of this format, whole.

    Args:
        path: the file.
        read_only: if true, neither the file nor its folder need be writable.

    Raises:
        MemoryFileError: if it is missing, damaged, truncated, of another format, or not a memory.
        MemoryReadOnlyError: if it cannot be opened for writing.
    """
    place = str(path)
    if not path.is_file():
        raise MemoryFileError(f"{place} is not a file: give the path of a memory's file")
    if not path.stat().st_size:
        raise MemoryFileError(f"{place} is empty, a memory never is: restore it from a copy, or delete it")
    with translated(place):
        if not read_only:
            if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
                raise sqlite3.OperationalError("attempt to write a readonly database")
            return _opened(path, "rw")
        try:
            return _opened(path, "ro")
        except sqlite3.OperationalError:
            # In a folder that cannot be written, or a file system without locks. Without a log beside it the file is
            # complete, and nobody can change it.
            if any(p.exists() and p.stat().st_size for p in companions(path)):
                raise
            return _opened(path, "ro&immutable=1")


def write_back(connection: sqlite3.Connection, *, lost: bool) -> None:
    """Called before a connection is closed; the last writer makes the memory one plain file again.

    Args:
        connection: the connection.
        lost: its path no longer leads to its file. To leave WAL mode would delete, by name, the log of the next one.
    """
    for statement in ("busy_timeout=0", "wal_checkpoint(TRUNCATE)", *([] if lost else ["journal_mode=DELETE"])):
        with suppress(sqlite3.Error):  # others have it open: the last one will do it
            connection.execute(f"PRAGMA {statement}").fetchall()


def log_files(path: Path) -> list[Path]:
    """Where the write-ahead log of a database is, and what goes with it."""
    return _logs(path, "-wal", "-shm")


def begin_reading(connection: sqlite3.Connection) -> None:
    """Begins a transaction that sees one state of the file: that of now.

    BEGIN alone takes none yet; and a backup would wait for ever, deaf to interrupts, for who keeps others from reading.
    """
    connection.execute("BEGIN")
    connection.execute("PRAGMA data_version").fetchone()


def connect(database: str) -> sqlite3.Connection:
    """A connection to what SQLite calls by this name, with the settings of all that are made here."""
    connection = sqlite3.connect(
        database, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=32
    )
    # FULL: a commit is on disk before it returns. secure_delete: removed sentences leave no text behind.
    for setting in ("synchronous=FULL", "fullfsync=ON", "secure_delete=ON", "trusted_schema=OFF", "cell_size_check=ON"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    return connection


def _make(connection: sqlite3.Connection, facts: Mapping[str, str | int]) -> None:
    connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
    connection.execute("BEGIN")
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={FORMAT_VERSION}")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
    connection.execute("COMMIT")


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    connection = connect(database_uri(path, mode))
    try:
        _check(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, place: str) -> None:
    def pragma(name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    if pragma("application_id") != APPLICATION_ID:
        raise MemoryFileError(f"{place} is an SQLite database, but not a pymetaner memory: give another file")
    version = pragma("user_version")
    if version != FORMAT_VERSION:
        raise MemoryFileError(
            f"{place} is a memory of format {version}, this pymetaner reads format {FORMAT_VERSION}: "
            "upgrade pymetaner, or export the memory with the version that wrote it"
        )
    found = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}
    problem = pragma("quick_check(1)") if found == set(SCHEMA) else "its tables are not those of a memory"
    if problem != "ok":
        raise MemoryFileError(f"{place} is damaged ({problem}): restore it from a copy")


def write_ahead(connection: sqlite3.Connection) -> None:
    """Goes to WAL mode, before the first change: a memory that is only read stays as it is, byte for byte.

    Where this meets another connection that leaves WAL mode, SQLite does not wait by itself.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def companions(path: Path) -> list[Path]:
    """Where a database has changes that are not in its file yet, if there is something."""
    return _logs(path, "-wal", "-journal")


def _logs(path: Path, *endings: str) -> list[Path]:
    real = Path(os.path.realpath(path))  # as SQLite names them where the path is a link
    return [real.with_name(real.name + ending) for ending in endings]


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """The name of a new file in the same folder, so that it can take the place of `path`; gone afterwards."""
    temporary = path.with_name(f"pymetaner-{secrets.token_hex(8)}.tmp")  # as short, however long the other is
    try:
        yield temporary
    finally:
        for leftover in (temporary, *companions(temporary)):
            leftover.unlink(missing_ok=True)
