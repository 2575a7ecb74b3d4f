"""The names of files that several parts share, and writing one so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from pymetaner.errors import SaveError

__all__ = ["CHECKPOINT", "CONFIG", "MEMORY", "REPORT", "SETTINGS", "STAGE", "unfinished", "write_atomically"]

CONFIG, SETTINGS, MEMORY = "config.json", "pymetaner.json", "memory.sqlite"  # in a model's folder
CHECKPOINT, REPORT = "checkpoint.safetensors", "training.json"  # in the folder of a training run

STAGE = ".saving-"
"""How the name of the folder begins in which a model is put together."""


def unfinished(path: Path) -> str:
    """How the name of a file begins that is to take the place of another."""
    return f".{path.name}-"


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
