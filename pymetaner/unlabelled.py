"""Labels of the model's own for text that has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymetaner.engine import Computation, Precision
from pymetaner.errors import SettingError
from pymetaner.inputs import as_sentences
from pymetaner.tagger import tag

if TYPE_CHECKING:
    from pymetaner.inputs import Taggable
    from pymetaner.model import MetaNER
    from pymetaner.sentence import Sentence

__all__ = ["pseudo_labelled"]


def pseudo_labelled(
    model: MetaNER,
    x: Taggable,
    *,
    confidence: float = 0.7,
    batch_size: int = 16,
    precision: Precision = "fp32",
    progress: bool = False,
) -> list[Sentence]:
    """The sentences that the model is sure of, with its own tags for labels (pseudo-labels, Lee 2013).

    A sentence is kept if it has an entity and the probability of no word's tag is below `confidence`.

    Args:
        model: the model; it tags as it stands.
        x: what `pymetaner.adapt` takes; labels that sentences have are not looked at.
        confidence: 0 to 1; 0 keeps every sentence with an entity.
        batch_size: the most sentences in a batch.
        precision: of products.
        progress: show a progress bar.

    Raises:
        InputError: if `x` holds something that is not text.
        SettingError: if the confidence is not 0 to 1.
    """
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 1:
        raise SettingError(f"confidence={confidence!r}: expected 0 to 1")
    blind = [sentence.with_tags(None) for sentence in as_sentences(x)[0]]
    tagged, _ = tag(model, blind, None, Computation(batch_size=batch_size, precision=precision, progress=progress))
    return [
        sentence.with_tags(item.base_tags)
        for sentence, item in zip(blind, tagged, strict=True)
        if any(name != "O" for name in item.base_tags) and item.base_scores.min() >= confidence
    ]
