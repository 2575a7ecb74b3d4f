"""Whole batches of tasks adapted at once: exact, without touching a weight, close to the cost of plain prediction."""

from pymetaner.engine.batched.engine import BatchedEngine, batched_logits

__all__ = ["BatchedEngine", "batched_logits"]
