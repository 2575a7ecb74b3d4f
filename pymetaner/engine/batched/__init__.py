"""Whole batches of tasks adapted at once: exact, without touching a weight, close to the cost of plain prediction."""

from pymetaner.engine.batched.engine import BatchedEngine, batched_logits
from pymetaner.engine.batched.meta import MetaLearner

__all__ = ["BatchedEngine", "MetaLearner", "batched_logits"]
