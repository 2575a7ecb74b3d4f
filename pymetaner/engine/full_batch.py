"""One set of supports for every query: the weights take their steps once, on a copy, and tag all queries.

The loss of all supports is passed forward and backward in parts, so they need not fit into memory together, and each
step costs a pass over them, however many queries follow. What comes out is what the reference engine computes for
queries that all have these supports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pymetaner.engine.precision import computing_in
from pymetaner.engine.reference import moving_copy, take_step
from pymetaner.engine.task import Computation, InnerStep, Task, Work
from pymetaner.loss import batch_loss
from pymetaner.model import MetaNER
from pymetaner.progress import track
from pymetaner.sentence import Sentence
from pymetaner.view import View, borrowed_view
from pymetaner.windows import IGNORE, Batch, Window, make_batch, pack, pad_hidden

__all__ = ["full_batch_logits", "full_batch_model"]

_PIECES = 2048  # that pass together, padding included
_KEPT_BYTES = 1 << 29  # of hidden states after the frozen layers, which are the same in every step


def full_batch_model(
    model: MetaNER, supports: Sequence[Sentence], inner: InnerStep, computation: Computation
) -> MetaNER:
    """A model that took the inner steps on the loss of all supports together; it shares the frozen weights.

    Args:
        model: the model; nothing of it is changed.
        supports: labelled sentences, at least one.
        inner: the inner step.
        computation: precision and progress.

    Raises:
        SettingError: if there are not as many step sizes as layers, or the precision does not fit the model.
    """
    with torch.inference_mode(False):
        network, weights, rates = moving_copy(model, inner)
        view = View(network, model.settings.freeze_layers, trainable=True)
        tag_ids = [model.labels.encode(support.tags or ()) for support in supports]
        batches = list(_batches(model, model.words.windows(supports), 1 if view.one_by_one else len(supports)))
        labels = [batch.labels(tag_ids, model.words.others) for batch in batches]
        words = max(1, sum(int((rows != IGNORE).sum()) for rows in labels))
        windows = sum(map(len, labels))
        lower: list[Tensor | None] = [None] * len(batches)
        keep = sum(batch.input_ids.numel() for batch in batches) * model.dim * 4 <= _KEPT_BYTES
        state: dict[str, tuple[Tensor, Tensor]] = {}
        passes = [(step, i) for step in range(inner.steps) for i in range(len(batches))]
        for _, i in track(passes, "learning the memory", computation.progress):
            batch = batches[i]
            with torch.enable_grad(), computing_in(computation.precision, network):
                hidden = lower[i]
                if hidden is None:
                    hidden = view.lower(batch.input_ids, batch.attention_mask)
                if keep:
                    lower[i] = hidden
                logits = view.upper(batch.input_ids, batch.attention_mask, hidden)
                batch_loss(logits, labels[i], inner.lambda_max, pieces=words, sentences=windows).backward()
            if i + 1 == len(batches):
                take_step(weights, {name: weight.grad for name, weight in weights.items()}, inner, rates, state)
                for weight in weights.values():
                    weight.grad = None
        network.requires_grad_(False)
        return MetaNER(network, model.tokenizer, labels=model.labels, settings=model.settings)


def full_batch_logits(
    model: MetaNER, tasks: Sequence[Task], computation: Computation, work: Work
) -> list[NDArray[np.floating[Any]]]:
    """Word logits (W, C) of each query, by a model that `full_batch_model` gave.

    Args:
        model: that model.
        tasks: the queries; their supports are in the model already.
        computation: batch size and precision.
        work: what was done is added to it.
    """
    queries = [task.query for task in tasks]
    known: dict[tuple[int, int], Tensor] = {}  # by sentence and first word of a window
    lowers = [iter(task.lower) for task in tasks]
    for window in model.words.windows(queries):
        hidden = next(lowers[window.sentence], None)
        if hidden is not None:
            known[window.sentence, window.words[0]] = hidden
    with borrowed_view(model.network, model.settings.freeze_layers) as view:

        def run(windows: list[Window]) -> Tensor:
            batch = make_batch(windows, model.pad_id).to(model.device)
            work.batches += 1
            work.pieces += sum(len(window.ids) for window in windows)
            work.padded += batch.input_ids.numel()
            lower = pad_hidden([known.get((window.sentence, window.words[0])) for window in windows])
            if lower is None:
                lower = view.lower(batch.input_ids, batch.attention_mask)
            return view.upper(batch.input_ids, batch.attention_mask, lower)

        with torch.inference_mode(), computing_in(computation.precision, model.network):
            return model.word_logits(queries, run, batch_size=computation.batch_size)


def _batches(model: MetaNER, windows: Sequence[Window], most: int) -> Iterator[Batch]:
    lengths = [len(window.ids) for window in windows]
    for group in pack(lengths, most, pieces=_PIECES, overhead=model.pass_overhead):
        yield make_batch([windows[i] for i in group], model.pad_id).to(model.device)
