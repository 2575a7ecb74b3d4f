"""Models, memories and texts, from what the command line names."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pymetaner.checks import present_device
from pymetaner.cli.output import spinner
from pymetaner.errors import EncoderMismatchError, InputError, MemoryFileError, SaveError, SettingError
from pymetaner.files import CONFIG, MEMORY, forget_run, is_readable_database

if TYPE_CHECKING:
    from pymetaner.memory import Memory
    from pymetaner.model import MetaNER

__all__ = [
    "check_apart",
    "check_memory",
    "check_new",
    "load_model",
    "memory_file",
    "opened_memory",
    "prepare",
    "save_new",
    "text_lines",
]


def prepare(device: str = "cpu", threads: int | None = None) -> str:
    """The device, checked; sets the number of threads and keeps the libraries below from writing of their own accord.

    Raises:
        SettingError: if there is no such device.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with spinner("starting"):
        import torch
        from transformers.utils.logging import set_verbosity

    set_verbosity(logging.ERROR)
    if threads is not None:
        try:
            torch.set_num_threads(threads)
        except (RuntimeError, ValueError, OverflowError):
            raise SettingError(f"--threads {threads}: that is too many; as many as there are cores is best") from None
    present_device("--device", device)
    return device


def load_model(name: str | None, device: str = "cpu", threads: int | None = None) -> MetaNER:
    """The model of a folder or hub id, by default the one that comes with the package."""
    device = prepare(device, threads)
    with spinner("loading the model"):
        from pymetaner.default import default_model
        from pymetaner.model import MetaNER

        try:
            return default_model(device) if name is None else MetaNER.from_pretrained(name, device=device)
        except EncoderMismatchError as error:
            raise EncoderMismatchError(
                f"the model {name or 'that comes with pymetaner'} and the memory in its folder do not belong together "
                f"({error}). On the command line: move its memory.sqlite elsewhere, make it fit with `pymetaner memory "
                "rebuild FILE --model MODEL`, and move it back"
            ) from None


def check_apart(model: str | None, out: Path) -> None:
    """Checks that the folder of a new model is not the one that it is made from.

    Args:
        model: that folder, or a hub id; None for the model that comes with pymetaner.
        out: the folder of the new model.

    Raises:
        SettingError: if it is.
    """
    if model is None:
        from pymetaner.default import default_folder  # which imports torch

        start = default_folder()
    else:
        start = Path(model)
    if out.exists() and start.exists() and out.samefile(start):
        raise SettingError(f"--out {out} is the model itself, which stays as it is: give another folder")


def check_new(model: str | None, out: Path, overwrite: bool) -> None:
    """Checks that a new model would take the place of nothing, unless that is wanted; arguments as `check_apart`.

    Raises:
        SettingError: if it would.
        SaveError: if nothing can be written there: better told before the work than after it.
    """
    check_apart(model, out)
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise SaveError(f"--out {out}: {there} is no folder that can be written to: give another")
    for name, what in ((CONFIG, "model"), (MEMORY, "memory")):
        if not overwrite and (out / name).exists():
            raise SettingError(f"{out} holds a {what} already: give another folder, or --overwrite to replace it")


def save_new(model: MetaNER, out: Path) -> None:
    """Writes a new model; what belonged to a training run of the one before is gone then."""
    with spinner("saving"):
        model.save_pretrained(out)
    forget_run(out)


def memory_file(path: Path) -> Path:
    """The file of a memory, which may be named by the folder of its model."""
    return path / MEMORY if path.is_dir() else path


def check_memory(path: Path) -> None:
    """Checks that a memory, named by its file or its model's folder, is there.

    Raises:
        MemoryFileError: if it is not.
    """
    file = memory_file(path)
    if not file.exists():
        raise MemoryFileError(f"{file} does not exist: give a memory's file, or make one with `pymetaner memory add`")


@contextmanager
def opened_memory(model: MetaNER, path: Path, *, read_only: bool) -> Iterator[Memory]:
    """A memory on disk, closed at the end of the block; one that was made for a block that fails is gone again."""
    from pymetaner.memory import Memory

    file = memory_file(path)
    is_new = not file.exists()
    if read_only:
        check_memory(file)
    try:
        memory = Memory(model, file, read_only=read_only)
    except EncoderMismatchError as error:
        raise EncoderMismatchError(
            f"{error}. On the command line: --model with the model that made it, or `pymetaner memory rebuild {file}`"
        ) from None
    with memory:
        try:
            yield memory
        except BaseException:
            if is_new and not len(memory):
                memory.close()
                file.unlink(missing_ok=True)
            raise


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: ``"1 sentence"``, ``"1,200 sentences"``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def text_lines(file: str) -> Iterator[str]:
    """The lines of a UTF-8 file or of standard input, however they end, without a byte order mark."""
    name = "standard input" if file == "-" else file
    if file != "-" and is_readable_database(Path(file)):
        raise InputError(f"{file} is a database, a memory perhaps: give a text file, one sentence per line")
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as stream:
            for number, data in enumerate(stream, 1):
                try:
                    line = data.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(f"{name}:{number}: not UTF-8 ({error.reason}): convert it to UTF-8") from None
                yield from line.rstrip("\r\n").split("\r")
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}): give a text file, one sentence per line") from None
