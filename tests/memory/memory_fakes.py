"""A deterministic encoder and small helpers for the tests of the memory."""

from __future__ import annotations

import os
import signal
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pymetaner.sentence import Sentence

DIM = 16


class FakeEncoder:
    """Sixteen times +-1/4, from a hash of the sorted words: of length exactly 1, with exact dot products.

    So similarities are exact in any order of addition, and ties are many.
    """

    def __init__(self, name: str = "fake-1", types: Sequence[str] = ("LOC", "ORG", "PER"), dim: int = DIM) -> None:
        self.fingerprint = name
        self.dim = dim
        self.types = frozenset(types)
        self.embedded = 0
        self.before_embed: Callable[[], None] = lambda: None

    def embed(self, sentences: Sequence[Sentence], *, progress: bool = False) -> NDArray[np.float32]:
        self.before_embed()
        self.embedded += len(sentences)
        rows = np.zeros((len(sentences), self.dim), np.float32)
        for row, sentence in zip(rows, sentences, strict=True):
            text = " ".join((self.fingerprint, *sorted(sentence.words)))
            bits = np.unpackbits(np.frombuffer(blake2b(text.encode(), digest_size=self.dim // 8).digest(), np.uint8))
            row[:] = np.where(bits, 1, -1) / np.float32(np.sqrt(self.dim))
        return rows


def labelled(text: str, **entities: str) -> Sentence:
    """The words of a text; `labelled("Ada slept", Ada="PER")` labels one-word entities."""
    words = tuple(text.split())
    return Sentence(words, tuple(f"B-{entities[word]}" if word in entities else "O" for word in words))


def numbered(i: int) -> Sentence:
    return labelled(f"Ada saw sentence {i}", Ada="PER")


def forked(work: Callable[[], None]) -> int:
    """Runs `work` in a forked child, which ends without any cleaning up; returns its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which is what is tested
        pid = os.fork()
    if pid:
        return pid
    status = 1
    signal.alarm(120)  # ends it, should it wait for a lock for ever
    try:
        work()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def joined(pid: int) -> int:
    """The exit status of a forked child, or minus the signal that ended it."""
    _, status = os.waitpid(pid, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert joined(pid) == -signal.SIGKILL


def edit(path: Path, *statements: str, parameters: Sequence[object] = ()) -> None:
    """Changes a memory's file behind its back."""
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement, parameters)
    connection.commit()
    connection.close()
