"""Tasks of every kind, engines run on them, and how far two answers are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tiny import CORPUS

from pymetaner.engine import Computation, InnerStep, Task, Work, batched_logits, reference_logits
from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence

LONG = Sentence(
    tuple(word for s in CORPUS[:4] for word in s.words), tuple(tag for s in CORPUS[:4] for tag in s.tags or ())
)
TASKS = [
    Task(CORPUS[0], (CORPUS[1],)),
    Task(CORPUS[6], (CORPUS[7], CORPUS[2])),
    Task(CORPUS[14], ()),
    Task(LONG, (CORPUS[1], CORPUS[13], CORPUS[4], CORPUS[14])),
    Task(CORPUS[3], (LONG, CORPUS[5])),
    Task(CORPUS[8], (CORPUS[9], CORPUS[14], CORPUS[9])),
    Task(Sentence(()), (CORPUS[0],)),
    Task(CORPUS[10], (CORPUS[10],)),
]


def batched(model: MetaNER, tasks: Sequence[Task], inner: InnerStep, **computation: Any) -> list[np.ndarray]:
    """The batched engine's logits."""
    return batched_logits(model, tasks, inner, Computation(**{"batch_size": 4, **computation}), Work())


def reference(model: MetaNER, tasks: Sequence[Task], inner: InnerStep, **computation: Any) -> list[np.ndarray]:
    """The reference engine's logits."""
    return reference_logits(model, tasks, inner, Computation(**{"batch_size": 4, **computation}), Work())


def largest_difference(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Between any two numbers."""
    assert [len(a) for a in one] == [len(b) for b in other]
    return max(float(np.abs(a - b).max(initial=0)) for a, b in zip(one, other, strict=True))
