"""Which file a path led to when it was opened, and whether it still does: others may put a new one in its place."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pymetaner.memory.file import log_files

__all__ = ["Identity"]


class Identity:
    """The file behind a path.

    Args:
        path: where it is; None for a database in RAM, which is never replaced.

    Attributes:
        id: device and inode of the file that was opened last; None if there is none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.id: tuple[int, int] | None = None
        self._closed: os.stat_result | None = None
        self._log: dict[Path, tuple[int, int] | None] = {}

    def opening(self) -> bool:
        """Called before the file is opened, so that one that comes between is noticed later.

        Returns:
            Whether it is the one that was closed, as it was then. A new file may have got the number of a deleted one
            that nobody held open meanwhile, but not the time of its last change.
        """
        before, now = self._closed, _stat(self._path)
        self._closed, self.id, self._log = None, _id(now), {}
        if before is None or now is None or _id(before) != self.id:
            return False
        return (before.st_ctime_ns, before.st_size) == (now.st_ctime_ns, now.st_size)

    def closed(self) -> None:
        """Called after the file was closed."""
        found = _stat(self._path)
        self._closed = found if _id(found) == self.id else None

    @property
    def replaced(self) -> bool:
        """Whether the path leads to another file now."""
        now = _id(_stat(self._path))
        return now is not None and now != self.id

    @property
    def lost(self) -> bool:
        """Whether the path leads to another file now, or to none: what lies beside it need not be this one's."""
        return _id(_stat(self._path)) != self.id

    def logging(self) -> None:
        """Called when the file has its write-ahead log beside it."""
        if self._path is not None:
            self._log = {file: _id(_stat(file)) for file in log_files(self._path)}

    def drop_log(self) -> None:
        """Deletes the log of a file that is lost, which SQLite would play into the next one; not that one's own."""
        for file, its in self._log.items():
            if its is not None and its == _id(_stat(file)):
                with suppress(OSError):
                    file.unlink()


def _stat(path: Path | None) -> os.stat_result | None:
    try:
        return None if path is None else path.stat()
    except OSError:
        return None


def _id(found: os.stat_result | None) -> tuple[int, int] | None:
    return None if found is None else (found.st_dev, found.st_ino)
