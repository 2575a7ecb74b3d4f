"""What a training run does, as JSON has it, so that one on disk can be told from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pymetaner.model import MetaNER
from pymetaner.network import fingerprint_of, standing_tensors
from pymetaner.sentence import Sentence
from pymetaner.training.settings import MetaSettings, TrainSettings
from pymetaner.windows import Window

__all__ = ["described", "run_of"]


def run_of(
    model: MetaNER,
    sentences: Sequence[Sentence],
    dev: Sequence[Sentence] | None,
    settings: TrainSettings,
    meta: MetaSettings | None,
) -> dict[str, Any]:
    """What a run does: its settings, and hashes of what it starts from and learns from.

    Arguments and errors as for `train`. Weights that the run moves are not part of it.
    """
    labelled = [sentence for sentence in sentences if sentence.tags]
    tag_ids = [model.labels.encode(sentence.tags or ()) for sentence in labelled]
    return described(model, model.words.windows(labelled), tag_ids, dev, settings, meta)


def described(
    model: MetaNER,
    windows: Sequence[Window],
    tag_ids: Sequence[Sequence[int]],
    dev: Sequence[Sentence] | None,
    settings: TrainSettings,
    meta: MetaSettings | None,
) -> dict[str, Any]:
    """The same, of labelled sentences that were cut into windows already."""
    run = {
        **asdict(settings),
        "meta": None if meta is None else asdict(meta),
        "model": asdict(model.settings),
        "labels": model.labels.tags,
        "windows": len(windows),
        "data": _digest(windows, tag_ids, dev),
        "frozen weights": fingerprint_of(standing_tensors(model.network, model.settings.freeze_layers)),
    }
    found: dict[str, Any] = json.loads(json.dumps(run))
    return found


def _digest(windows: Sequence[Window], tag_ids: Sequence[Sequence[int]], dev: Sequence[Sentence] | None) -> str:
    """A hash of what a run is trained and measured on."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(repr((window, tag_ids[window.sentence])).encode())
    for sentence in dev or ():
        digest.update(repr((sentence.words, sentence.tags)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
