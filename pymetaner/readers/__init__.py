"""Labelled data in and out: column files, JSONL, Hugging Face datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pymetaner.errors import DataError
from pymetaner.readers.columns import read_columns
from pymetaner.readers.corpus import Corpus
from pymetaner.tagging import Notation

__all__ = ["Corpus", "read"]


def read(
    path: str | os.PathLike[str],
    *,
    format: Literal["columns", "jsonl"] | None = None,
    delimiter: str | None = None,
    word_column: int = 0,
    tag_column: int = -1,
    notation: Notation | None = None,
    encoding: str = "utf-8",
    progress: bool = False,
) -> Corpus:
    """The labelled sentences of a file."""
    path = Path(path)
    text = path.read_bytes().decode(encoding).removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if format == "jsonl":
        raise DataError(f"{path}: only column files are read yet")
    return read_columns(
        path, lines, delimiter=delimiter, word_column=word_column, tag_column=tag_column, notation=notation
    )
