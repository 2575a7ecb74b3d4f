"""The memory: labelled sentences with their vectors, from which a model adapts itself to what it tags."""

from __future__ import annotations

from pymetaner.memory.encoder import SentenceEncoder
from pymetaner.memory.memory import Memory
from pymetaner.memory.search import Hit

__all__ = ["Hit", "Memory", "SentenceEncoder"]
