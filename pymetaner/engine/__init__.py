"""Engines: word logits of each query from a model that took a step on the query's own supports.

`reference` is the plain loop, the oracle for every other engine; `batched` gives the same logits for a whole batch in
two passes without touching a weight.
"""

from pymetaner.engine.batched import batched_logits, can_batch
from pymetaner.engine.reference import reference_logits
from pymetaner.engine.task import Engine, InnerOptimizer, InnerStep, Task

__all__ = [
    "Engine",
    "InnerOptimizer",
    "InnerStep",
    "Task",
    "batched_logits",
    "can_batch",
    "reference_logits",
]
