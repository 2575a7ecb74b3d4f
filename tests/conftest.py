"""Fixtures for every test. What they are made of is in `tiny`; nothing is ever downloaded."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny import ARCHITECTURES, CORPUS, model_of, network_of, tokenizer_of

from pymetaner.model import MetaNER

# In CI the same examples are drawn every time, so that a change is judged by what it changed.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks are fastest on one thread, and a test machine has other things to do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> MetaNER:
    """A tiny BERT whose memory is the corpus."""
    tiny = model_of()
    tiny.memory.add(CORPUS)
    return tiny


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of an architecture's checkpoint as transformers writes it; not to be changed."""

    @functools.cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        network_of(name).save_pretrained(folder)
        tokenizer_of(ARCHITECTURES[name][1]).save_pretrained(folder)
        return folder

    return make
