"""A handle of a memory's SQLite database: opened, closed while the process forks, and its transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymetaner.errors import MemoryFileError, MemoryReadOnlyError
from pymetaner.memory.file import begin_reading, open_file, translated, write_ahead, write_back
from pymetaner.memory.identity import Identity

__all__ = ["Handle"]


class Handle:
    """A connection to a database in RAM, or to that of a file. Not for two threads at once.

    Args:
        connection: the database; None for that of a file that is still to be opened, by `resume`.
        path: its file, None if it is in RAM.
        read_only: refuse to write.

    Attributes:
        place: where it is, for messages.
        identity: which file is open.
        changing: whether a change is under way, which may be taken back; who sees that is the handler of a signal.
    """

    def __init__(self, connection: sqlite3.Connection | None, path: Path | None, *, read_only: bool = False) -> None:
        self._connection = connection
        self.path = path
        self.read_only = read_only
        self.place = "the memory in RAM" if path is None else f"the memory {path}"
        self._logging = False
        self.identity = Identity(path)
        self.changing = False

    @property
    def _database(self) -> sqlite3.Connection:
        assert self._connection is not None, "the store is closed, or suspended"
        return self._connection

    def check_writable(self) -> None:
        """Raises MemoryReadOnlyError if it is for reading only, MemoryFileError if its file was deleted."""
        if self.read_only:
            raise MemoryReadOnlyError(
                f"{self.place} is open for reading only: make a copy with memory.save(path), "
                "then change that one, Memory(encoder, path)"
            )
        if self.path is not None and not self.path.exists():
            raise MemoryFileError(
                f"{self.place} was deleted or moved meanwhile: write what it held to a new file with "
                "memory.save(path), then change that one, Memory(encoder, path)"
            )

    def check_unchanging(self) -> None:
        """Raises MemoryFileError in the middle of a change, where it is this thread's own."""
        if self.changing:
            raise MemoryFileError(
                f"{self.place} is in the middle of a change by this thread, which a signal's handler may not "
                "copy or change again: do it after the handler"
            )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One consistent view of the file; inside `writing()` that of the change."""
        if self._database.in_transaction:
            yield
            return
        with translated(self.place):
            try:
                begin_reading(self._database)
                yield
            finally:
                if self._database.in_transaction:
                    self._database.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All or nothing: an error inside takes back every change; at the end the changes are on disk.

        Raises:
            MemoryFileError: if another file took the place of its own, or it was deleted, while this waited to write.
        """
        self.check_writable()
        self.check_unchanging()
        if self._database.in_transaction:
            raise MemoryFileError(
                f"{self.place} is being read by this thread, where a signal's handler may not change it: do it after "
                "the handler"
            )
        with translated(self.place, writing=True):
            try:
                self._begin_writing()
                self.changing = True
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            finally:
                self.changing = False

    def _begin_writing(self) -> None:
        try:
            if not self._logging:
                write_ahead(self._database)
                self._logging = True
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            self._check_not_replaced()  # which SQLite notices too, and refuses to write
            raise
        self._check_not_replaced()
        self.check_writable()  # deleted meanwhile, perhaps
        self.identity.logging()

    def _check_not_replaced(self) -> None:
        if self.identity.replaced:
            raise MemoryFileError(
                f"{self.place} was replaced by another file while this waited to write there; nothing was written: "
                "try again"
            )

    def version(self) -> int:
        """A number that changes when, and only when, another connection has changed the file."""
        return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to its own file."""
        return self.path is not None and path.exists() and self.path.exists() and path.samefile(self.path)

    def close(self) -> None:
        """Ends the connection."""
        connection, self._connection = self._connection, None  # first: an interrupt would leave a closed one here
        if connection is None:
            return
        try:
            lost = self.identity.lost
            write_back(connection, lost=lost)
            if lost:
                self.identity.drop_log()  # before it is closed: so long its log's number is no other file's
        finally:
            connection.close()

    @property
    def suspended(self) -> bool:
        """Whether the connection was closed by `suspend`."""
        return self._connection is None

    def suspend(self) -> None:
        """Closes the connection of a file until `resume`; not in the middle of a transaction."""
        if self.path is not None and self._connection is not None and not self._connection.in_transaction:
            self.close()
            self.identity.closed()

    def resume(self) -> bool:
        """Opens it; False if there may be another file now, so that nothing known of the old one holds."""
        assert self.path is not None
        same = self.identity.opening()
        self._connection = open_file(self.path, read_only=self.read_only)
        self._logging = False
        return same
