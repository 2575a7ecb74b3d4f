"""Copies of a memory: into RAM, and over a file in one atomic step, however that is being used."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from pymetaner.errors import PymetanerError, SaveError
from pymetaner.files import database_uri, is_database, sync
from pymetaner.memory.file import begin_reading, beside, companions, connect, open_file, translated

__all__ = ["copy_file", "copy_in_ram", "held", "load_file", "settle"]


def copy_in_ram(connection: sqlite3.Connection) -> sqlite3.Connection:
    """A copy in RAM of a memory."""
    copy = connect(":memory:")
    try:
        connection.backup(copy)
    except BaseException:
        copy.close()
        raise
    return copy


def load_file(path: Path) -> sqlite3.Connection:
    """A copy in RAM of a memory file, which is only read. Raises as `open_file` does."""
    with translated(str(path)), closing(open_file(path, read_only=True)) as connection:
        begin_reading(connection)
        return copy_in_ram(connection)


def copy_file(connection: sqlite3.Connection, path: Path) -> None:
    """Writes a consistent copy of a memory in one atomic step; what was at `path` stays until the copy is on disk.

    What a link leads to is replaced, not the link, and the file's mode is kept.

    Raises:
        SaveError: if the copy cannot be written, or the file that it would replace is in use.
    """
    if not path.parent.is_dir():
        raise SaveError(f"the folder {path.parent} does not exist: make it first")
    if path.is_dir():
        raise SaveError(f"{path} is a folder: give the path of a file")
    path = Path(os.path.realpath(path))
    settle(path)
    try:
        with beside(path) as temporary:
            with translated(str(path), writing=True), closing(connect(database_uri(temporary, "rwc"))) as copy:
                copy.execute("PRAGMA synchronous=OFF")  # synced once, at the end
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE").fetchall()
                if copy.execute("PRAGMA freelist_count").fetchone()[0]:
                    copy.execute("VACUUM")
            sync(temporary)
            if path.exists():
                shutil.copymode(path, temporary)
            os.replace(temporary, path)
            sync(path.parent)
    except SaveError:
        raise
    except (PymetanerError, OSError) as error:
        raise SaveError(f"{path} could not be written ({error}); what was there is untouched") from error


def settle(path: Path) -> None:
    """Makes sure that no log is left beside a file to be replaced: SQLite would play it into the new one."""
    if not any(p.exists() for p in companions(path)):
        return
    with suppress(sqlite3.Error), closing(connect(database_uri(path, "rw"))) as connection:
        connection.execute("PRAGMA busy_timeout=0")
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()
    left = [str(p) for p in companions(path) if p.exists()]
    if left:
        raise SaveError(
            f"{path} is open elsewhere, or {' and '.join(left)} is left of another file; nothing was written: "
            "close it there, or delete what is left, or save under another name"
        )


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keeps others from writing to a file that is to be replaced, if it is a database: they would lose that.

    Not on Windows, where an open file cannot be replaced.

    Raises:
        SaveError: if it is open elsewhere, and written to.
    """
    settle(path)
    if os.name == "nt" or not is_database(path):
        yield
        return
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(closing(connect(database_uri(path, "rw"))))
            connection.execute("PRAGMA journal_mode=DELETE").fetchall()  # no log beside it
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise SaveError(f"{path} is in use elsewhere; nothing was written: close it there first") from error
            # Else it is damaged, or nobody may write to it.
        yield
