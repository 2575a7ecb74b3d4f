"""What text without labels teaches: the model's own tags, for a memory, or to train itself with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pymetaner.checks import check_model, number
from pymetaner.engine import Computation, FineTuning, Precision, fine_tuned_model
from pymetaner.errors import EmptyDataError
from pymetaner.inputs import as_sentences
from pymetaner.learning import step_size
from pymetaner.network import check_trainable
from pymetaner.sampling import spread
from pymetaner.tagger import tag

if TYPE_CHECKING:
    from pymetaner.inputs import Taggable
    from pymetaner.model import MetaNER
    from pymetaner.sentence import Sentence

__all__ = ["pseudo_labelled", "self_train"]

_OF_THE_WAY = 0.6  # to what its own labels taught, however many they are: they are not as sure as given ones
_PASSES = 2  # over its texts, where no number of steps is given


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

    A sentence is kept if it has an entity, the probability of no word's tag is below `confidence`, and no token is
    empty, which a memory would not take.

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
    confidence = number("confidence", confidence, most=1)
    computation = Computation(batch_size=batch_size, precision=precision, progress=progress)
    sentences = [sentence for sentence in as_sentences(x).sentences if all((*sentence.words, *sentence.source))]
    own = _own_labels(model, sentences, computation)
    return [sentence for sentence, least in own if sentence.entities and least >= confidence]


def self_train(
    model: MetaNER,
    texts: Taggable,
    *,
    steps: int | None = None,
    lr: float | Sequence[float] = 2e-4,
    mask_probability: float = 0.2,
    seed: int = 0,
    precision: Precision = "fp32",
    progress: bool = False,
) -> MetaNER:
    """A new model that is better at a language or domain, from text of it alone: self-training (Xie et al. 2020).

    The model tags the texts. A copy of it then learns these tags while it sees less than the model saw: entity words
    masked (Wu et al. 2020, section 3.3) and dropout on, so that it has to read entities off their context. About 1,000
    sentences of the kind that will be tagged are a good number; of more than the steps can take, some spread over all
    are used. What it is worth: docs/results.md.

    The new model has a copy of the memory, in RAM. Frozen weights are shared with the old model, all others are copies.

    Args:
        model: the model; nothing of it is changed.
        texts: what `pymetaner.adapt` takes; labels that sentences have are not looked at.
        steps: of 32 sentences each; by default two passes over the texts, but at least 24 steps or eight passes,
            whichever is less, and at most 320 steps.
        lr: step size of AdamW, above 0, or one for each unfrozen layer and one for the head.
        mask_probability: of masking an entity word, 0 to 1.
        seed: fixes batches, masks and dropout.
        precision: of products: ``"fp32"``, ``"tf32"`` (CUDA) or ``"bf16"``.
        progress: show progress bars.

    Raises:
        InputError: if `texts` holds something that is not text.
        EmptyDataError: if no text has a word.
        EncoderMismatchError: if the model's memory was made for another model.
        SettingError: if a setting is out of range.

    Example:
        >>> italian = pymetaner.self_train(model, lines, progress=True)  # doctest: +SKIP
        >>> italian.save_pretrained("italian")  # doctest: +SKIP
    """
    check_model(model)
    check_trainable(model.network, model.settings.freeze_layers)
    if len(model.memory):
        model.memory.check(model)  # before the work, since the new model gets a copy
    rate = step_size(model, lr, "adamw")
    how = FineTuning(
        rate, steps, mask_probability=mask_probability, interpolation=_OF_THE_WAY, seed=seed, passes=_PASSES
    )
    computation = Computation(precision=precision, progress=progress)
    sentences = [sentence for sentence in as_sentences(texts).sentences if len(sentence)]
    if not sentences:
        raise EmptyDataError("no text has a word to learn from: expected sentences of the language to be tagged")
    most = how.steps_on(len(sentences)) * how.batch_size
    labelled = [sentence for sentence, _ in _own_labels(model, spread(sentences, most), computation)]
    trained = fine_tuned_model(model, labelled, how, computation)
    trained.source = model.source  # labels of its own are nothing that it was taught
    if len(model.memory):
        trained.memory = model.memory.copy_for(trained)
    return trained


def _own_labels(
    model: MetaNER, sentences: Sequence[Sentence], computation: Computation
) -> list[tuple[Sentence, float]]:
    """Each sentence with the model's own tags, and the least probability of any of them; 1 without words."""
    blind = [sentence.with_tags(None) for sentence in sentences]
    tagged, _ = tag(model, blind, None, computation)
    return [
        (sentence.with_tags(item.base_tags), float(item.base_scores.min(initial=1.0)))
        for sentence, item in zip(blind, tagged, strict=True)
    ]
