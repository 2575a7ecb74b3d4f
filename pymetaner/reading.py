"""Sentences in batches through a model: word logits, sentence vectors, hidden states after the frozen layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pymetaner.checks import truth, whole
from pymetaner.pooling import Pool
from pymetaner.progress import track
from pymetaner.sentence import Sentence, check_sentences
from pymetaner.view import borrowed_view
from pymetaner.windows import Window, WordRows, make_batch, pack

if TYPE_CHECKING:
    from pymetaner.model import MetaNER

__all__ = ["Reading", "batches", "embed", "empty_logits", "read", "word_logits"]


@dataclass(frozen=True)
class Reading:
    """What the encoder makes of one sentence.

    Attributes:
        logits: (W, C), a row per word: float64 if the model is, else float32.
        vector: (d,) float32, the unit sentence vector; zero for a sentence without words.
        lower: hidden states (T, d) after the frozen layers, of each window, if they were asked for.
        hidden: (W, d) float32, last hidden state of each word's labelled piece, if they were asked for.
    """

    logits: NDArray[np.floating[Any]]
    vector: NDArray[np.float32]
    lower: tuple[Tensor, ...] = ()
    hidden: NDArray[np.floating[Any]] = field(default_factory=lambda: np.empty((0, 0), np.float32))


def batches(model: MetaNER, sentences: Sequence[Sentence], batch_size: int) -> list[list[Window]]:
    """The windows of some sentences in groups of like length, at most `batch_size` in each."""
    windows = model.words.windows(sentences)
    groups = pack([len(window.ids) for window in windows], batch_size, overhead=model.pass_overhead)
    return [[windows[i] for i in group] for group in groups]


def empty_logits(model: MetaNER, sentences: Sequence[Sentence]) -> WordRows:
    """Zeros for the logits of each word: float64 if the model is, else float32."""
    dtype = np.float64 if model.network.dtype == torch.float64 else np.float32
    return WordRows([len(sentence) for sentence in sentences], len(model.labels.tags), dtype)


def word_logits(
    model: MetaNER,
    sentences: Sequence[Sentence],
    run: Callable[[list[Window]], Tensor],
    *,
    batch_size: int,
    progress: bool = False,
    title: str = "tagging",
) -> list[NDArray[np.floating[Any]]]:
    """(W, C) logits of each sentence, put together from windows: float64 if the model is, else float32.

    Args:
        model: the model.
        sentences: the sentences to read.
        run: gives the logits (B, T, C) of a list of B windows.
        batch_size: the most windows in a batch.
        progress: show a progress bar.
        title: what the bar says.
    """
    gathered = empty_logits(model, sentences)
    for windows in track(batches(model, sentences, batch_size), title, progress):
        gathered.add(windows, run(windows))
    return gathered.rows


def embed(model: MetaNER, sentences: Iterable[Sentence], *, batch_size: int, progress: bool) -> NDArray[np.float32]:
    """`MetaNER.embed`."""
    sentences, batch_size = check_sentences(sentences), whole("batch_size", batch_size, 1)
    truth("progress", progress)
    pool = Pool(len(sentences), model.dim, model.settings.pooling)
    with (
        borrowed_view(model.network, model.settings.freeze_layers) as view,
        torch.inference_mode(),
        torch.autocast(model.device.type, enabled=False),  # a caller's own would round vectors that are kept
    ):
        for windows in track(batches(model, sentences, batch_size), "embedding", progress):
            batch = make_batch(windows, model.pad_id).to(model.device)
            hidden = view.lower(batch.input_ids, batch.attention_mask)
            if hidden is None:
                view.upper(batch.input_ids, batch.attention_mask, None)
                hidden = view.tapped
            assert hidden is not None
            pool.add(batch, hidden)
    return pool.unit()


def read(
    model: MetaNER,
    sentences: Iterable[Sentence],
    *,
    batch_size: int,
    progress: bool,
    keep_lower: bool,
    keep_hidden: bool,
) -> list[Reading]:
    """`MetaNER.read`."""
    sentences, batch_size = check_sentences(sentences), whole("batch_size", batch_size, 1)
    truth("progress", progress)
    last = WordRows([len(sentence) for sentence in sentences], model.dim if keep_hidden else 0, np.float32)
    pool = Pool(len(sentences), model.dim, model.settings.pooling)
    lowers: list[dict[int, Tensor]] = [{} for _ in sentences]
    with borrowed_view(model.network, model.settings.freeze_layers) as view, torch.inference_mode():

        def run(windows: list[Window]) -> Tensor:
            batch = make_batch(windows, model.pad_id).to(model.device)
            lower = view.lower(batch.input_ids, batch.attention_mask)
            logits = view.upper(batch.input_ids, batch.attention_mask, lower)
            assert view.tapped is not None and view.last is not None
            if keep_hidden:
                last.add(windows, view.last)
            pool.add(batch, view.tapped)
            if keep_lower and lower is not None:
                for window, hidden in zip(windows, lower, strict=True):
                    lowers[window.sentence][window.words[0]] = hidden[: len(window.ids)]
            return logits

        logits = word_logits(model, sentences, run, batch_size=batch_size, progress=progress, title="reading")
    return [
        Reading(rows, vector, tuple(known[first] for first in sorted(known)), hidden)
        for rows, vector, known, hidden in zip(logits, pool.unit(), lowers, last.rows, strict=True)
    ]
