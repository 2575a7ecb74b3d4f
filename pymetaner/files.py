"""The names of files that several parts share, writing one so that it is there whole or not at all, and telling a
database, which nobody but SQLite may open."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import stat
from pathlib import Path

from pymetaner.errors import SaveError
from pymetaner.forks import unforked

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "MEMORY",
    "PACKED",
    "PLAIN",
    "REPORT",
    "SETTINGS",
    "SETTINGS_FORMAT",
    "SOURCE",
    "STAGE",
    "WEIGHTS",
    "database_uri",
    "forget_run",
    "holds_model_of_no_run",
    "is_database",
    "is_readable_database",
    "sync",
    "unfinished",
    "write_atomically",
]

CONFIG, SETTINGS, MEMORY = "config.json", "pymetaner.json", "memory.sqlite"  # in a model's folder
WEIGHTS, PACKED = "model.safetensors", "model.packed.safetensors"  # one of them, there too
SOURCE = "source.safetensors"  # there too, if it is known what the model learned from
CHECKPOINT, REPORT = "checkpoint.safetensors", "training.json"  # in the folder of a training run
PLAIN = ".plain"  # in the folder of a run while it lasts: that of the plain run that it is averaged with

SETTINGS_FORMAT = 1
"""The version of what `SETTINGS` holds."""

STAGE = ".saving-"
"""How the name of the folder begins in which a model is put together."""


def unfinished(path: Path) -> str:
    """How the name of a file begins that is to take the place of another."""
    return f".{path.name}-"


def holds_model_of_no_run(folder: Path) -> bool:
    """Whether a folder holds a model, and neither the report nor the checkpoint of a run that made it or will."""
    kept = [place / name for place in (folder, folder / PLAIN) for name in (REPORT, CHECKPOINT)]
    return (folder / CONFIG).exists() and not any(path.exists() for path in kept)


def forget_run(folder: Path) -> None:
    """Removes what a folder says of a training run.

    Raises:
        SaveError: if it cannot.
    """
    try:
        for name in (REPORT, CHECKPOINT):
            (folder / name).unlink(missing_ok=True)
        if (folder / PLAIN).exists():
            shutil.rmtree(folder / PLAIN)
    except OSError as error:
        raise SaveError(f"the run in {folder} cannot be removed ({error}): give another folder") from error


def database_uri(path: Path, mode: str) -> str:
    """What SQLite calls a file, to be opened as ``"ro"``, ``"rw"`` or ``"rwc"`` (made if it is missing)."""
    return f"{path.absolute().as_uri()}?mode={mode}"


def is_database(path: Path) -> bool:
    """Whether there is a file that SQLite made; called within `unforked`, or with a memory locked.

    To find out by opening it otherwise could harm a memory that this process has open: closing a file drops every lock
    that the process holds on it (POSIX), whatever it was opened for.
    """
    if not path.is_file() or path.stat().st_size == 0:  # which SQLite would take for an empty one
        return False
    try:
        connection = sqlite3.connect(database_uri(path, "ro"), uri=True, timeout=0)
    except sqlite3.Error:  # a path that is too long for SQLite, say: no memory is open there
        return False
    with contextlib.closing(connection):
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.Error as error:
            return "not a database" not in str(error)
    return True


def is_readable_database(path: Path) -> bool:
    """Whether a file that may be read is a database; called before it is read as something else."""
    with unforked():
        return os.access(path, os.R_OK) and is_database(path)


def sync(path: Path) -> None:
    """Forces a file or a folder's list of files to disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call for folders
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place, then rename it there; the old file survives a failure, its mode a success.

    What a symbolic link leads to is replaced, not the link. A pipe or device is written to as it is.

    Raises:
        SaveError: if it cannot be written.
    """
    try:
        before = path.stat().st_mode if path.exists() else None
        if before is not None and not stat.S_ISREG(before):  # first: what /dev/stdout leads to has no path
            path.write_bytes(data)
            return
        path = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise SaveError(f"{path} could not be written ({error})") from error
    try:
        temporary = path.with_name(unfinished(path) + secrets.token_hex(4))
    except ValueError as error:
        raise SaveError(f"{path} is no name of a file ({error})") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            if before is not None:
                temporary.chmod(stat.S_IMODE(before))  # before there is anything to be read
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise SaveError(f"{path} could not be written ({error}); what was there before is kept") from error
