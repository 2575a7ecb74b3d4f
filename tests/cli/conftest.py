"""A saved tiny model, labelled files, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import CORPUS, model_of
from typer.testing import CliRunner

from pymetaner.cli import app
from pymetaner.readers import write

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model whose memory is the corpus; not to be changed."""
    model = model_of()
    model.memory.add(CORPUS, source="corpus")
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def labelled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as a column file."""
    path = tmp_path_factory.mktemp("data") / "corpus.conll"
    write(path, CORPUS, "columns")
    return path


@pytest.fixture
def run() -> Run:
    """Runs the command line; fails unless it ends with the code `exits`."""

    def call(*arguments: object, exits: int = 0, input: str | bytes | None = None) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
        assert result.exit_code == exits, (result.output, result.exception)
        return result

    return call
