from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from memory_fakes import FakeEncoder

from pymetaner.memory import Memory


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.sqlite"


@pytest.fixture(params=["in RAM", "in a file"])
def memory(request: pytest.FixtureRequest, encoder: FakeEncoder, path: Path) -> Iterator[Memory]:
    """An empty memory of either kind; both must behave the same."""
    with Memory(encoder, None if request.param == "in RAM" else path) as memory:
        yield memory
