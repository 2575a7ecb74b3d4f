"""The files that a memory was read from or saved to, so that saving it there again undoes nothing that others did."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

from pymetaner.errors import MemoryFileError, SaveError
from pymetaner.memory.copies import settle
from pymetaner.memory.file import open_file, translated

__all__ = ["Places"]


class Places:
    """The states that files were in when a memory was read from them or saved to them."""

    def __init__(self) -> None:
        self._states: dict[Path, bytes] = {}

    def remember(self, path: Path, connection: sqlite3.Connection) -> None:
        """Notes down that a file holds what a database does now."""
        self._states[path.resolve()] = _state(connection)

    def copy(self) -> Places:
        """One that remembers the same."""
        places = Places()
        places._states = dict(self._states)
        return places

    def check(self, path: Path) -> None:
        """Checks that a file is in the state that is remembered, or gone; one that is not remembered passes.

        Raises:
            SaveError: if it is not, or can no longer be read, or is open elsewhere.
        """
        before = self._states.get(path.resolve())
        if before is None or not path.exists():
            return
        settle(path)
        try:
            with translated(str(path)), closing(open_file(path, read_only=True)) as connection:
                now = _state(connection)
        except MemoryFileError as error:
            raise SaveError(f"{path} has changed, and can no longer be read ({error}); it was left as it is") from error
        if now != before:
            raise SaveError(
                f"{path} was changed by others since this memory was read from it or saved to it, and they would lose "
                "that; it was left as it is: save under another name, or load the file again and add to that memory "
                "what this one has more"
            )


def _state(connection: sqlite3.Connection) -> bytes:
    """A digest of every sentence with its id, and of `meta`, which counts the other changes."""
    digest = blake2b(digest_size=16)
    # The second reads an index only, not the vectors: those depend on the encoder, which is in `meta`.
    for query in (
        "SELECT key, value FROM meta ORDER BY key",
        "SELECT id, words_digest, tags_digest FROM sentences ORDER BY words_digest, tags_digest",
    ):
        cursor = connection.execute(query)
        while rows := cursor.fetchmany(1024):
            digest.update(repr(rows).encode())
    return digest.digest()
