"""Engines: word logits of each query from a model that took steps on the query's own supports.

`reference` is the plain loop, the oracle for every other engine; `batched` gives the same logits for whole batches
without touching a weight, at little more than the cost of plain prediction; `fine_tuning` is for queries that all
have the same supports, such as a whole memory.
"""

from pymetaner.engine.batched import MetaLearner, batched_logits
from pymetaner.engine.fine_tuning import FineTuning, fine_tuned_logits, fine_tuned_model
from pymetaner.engine.precision import Precision, computing_in
from pymetaner.engine.reference import reference_logits
from pymetaner.engine.sequential import SequentialMetaLearner
from pymetaner.engine.task import Computation, Dropout, Engine, InnerOptimizer, InnerStep, Task, Work

__all__ = [
    "Computation",
    "Dropout",
    "Engine",
    "FineTuning",
    "InnerOptimizer",
    "InnerStep",
    "MetaLearner",
    "Precision",
    "SequentialMetaLearner",
    "Task",
    "Work",
    "batched_logits",
    "computing_in",
    "fine_tuned_logits",
    "fine_tuned_model",
    "reference_logits",
]
