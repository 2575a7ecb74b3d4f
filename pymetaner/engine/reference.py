"""The sequential loop of Wu et al. (2020): for each query, step on its supports, tag it, take the step back.

Plain autograd, one task at a time: slow, and the oracle that every other engine is held to. It works on a copy of the
weights that move, so the model itself is never written to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pymetaner.engine.moving import MovingWeights
from pymetaner.engine.precision import computing_in
from pymetaner.engine.task import Computation, InnerStep, Task, Work
from pymetaner.model import MetaNER
from pymetaner.network import forward
from pymetaner.progress import track
from pymetaner.reading import word_logits
from pymetaner.windows import Window, make_batch

__all__ = ["reference_logits"]


@torch.inference_mode(False)  # a caller's own would leave no gradients
def reference_logits(
    model: MetaNER, tasks: Sequence[Task], inner: InnerStep, computation: Computation, work: Work
) -> list[NDArray[np.floating[Any]]]:
    """Word logits (W, C) of each query, its weights adapted on its own supports.

    Args:
        model: the model; nothing of it is changed.
        tasks: the queries with their supports.
        inner: the inner step.
        computation: batch size (of one query's windows) and precision.
        work: what was done is added to it.

    Raises:
        SettingError: if there are not as many step sizes as layers, or the precision does not fit the model.
    """
    moving = MovingWeights(model, inner)

    def run(windows: list[Window]) -> Tensor:
        batch = make_batch(windows, model.pad_id).to(model.device)
        work.batches += 1
        work.pieces += sum(len(window.ids) for window in windows)
        work.padded += batch.input_ids.numel()
        return forward(moving.network, batch.input_ids, batch.attention_mask)[0]

    results: list[NDArray[np.floating[Any]]] = []
    with computing_in(computation.precision, moving.network):
        for task in track(tasks, "adapting", computation.progress):
            moving.reset()
            if task.supports:
                work.supports += len(task.supports)
                for _ in range(inner.steps):
                    moving.step(task)
            with torch.inference_mode():
                results += word_logits(model, [task.query], run, batch_size=computation.batch_size)
    return results
