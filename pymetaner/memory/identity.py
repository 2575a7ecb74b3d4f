"""Which file a path led to when it was opened, and whether it still does: others may put a new one in its place."""

from __future__ import annotations

import os
from pathlib import Path

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

    def opening(self) -> bool:
        """Called before the file is opened, so that one that comes between is noticed later.

        Returns:
            Whether it is the one that was closed, as it was then. A new file may have got the number of a deleted one
            that nobody held open meanwhile, but not the time of its last change.
        """
        before, now = self._closed, self._stat()
        self._closed, self.id = None, _id(now)
        if before is None or now is None or _id(before) != self.id:
            return False
        return (before.st_ctime_ns, before.st_size) == (now.st_ctime_ns, now.st_size)

    def closed(self) -> None:
        """Called after the file was closed."""
        found = self._stat()
        self._closed = found if _id(found) == self.id else None

    @property
    def replaced(self) -> bool:
        """Whether the path leads to another file now."""
        now = _id(self._stat())
        return now is not None and now != self.id

    def _stat(self) -> os.stat_result | None:
        try:
            return None if self._path is None else self._path.stat()
        except OSError:
            return None


def _id(found: os.stat_result | None) -> tuple[int, int] | None:
    return None if found is None else (found.st_dev, found.st_ino)
