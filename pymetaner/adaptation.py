"""`adapt` and `predict`: sentences in, entities out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

from pymetaner.cache import FactorCache
from pymetaner.checks import check_model
from pymetaner.engine import Computation, InnerOptimizer, Precision
from pymetaner.inputs import Taggable, as_sentences
from pymetaner.learning import EngineName, SupportCount, learning_of
from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.result import Result
from pymetaner.sentence import Sentence
from pymetaner.tagger import tag

__all__ = ["adapt", "predict"]


@overload
def adapt(  # type: ignore[overload-overlap]  # a string is a list of strings too, but not for us
    model: MetaNER,
    x: str | Sentence,
    *,
    memory: Memory | None = None,
    k: SupportCount | None = None,
    steps: int | None = None,
    lr: float | Sequence[float] | None = None,
    inner_optimizer: InnerOptimizer | None = None,
    lambda_max: float | None = None,
    knn: float | None = None,
    engine: EngineName = "auto",
    exclude_self: bool = False,
    batch_size: int = 16,
    precision: Precision = "fp32",
    cache: FactorCache | None = None,
    memory_bytes: int | None = None,
    progress: bool = False,
) -> Result: ...


@overload
def adapt(
    model: MetaNER,
    x: Iterable[str | Sentence | Sequence[str]],
    *,
    memory: Memory | None = None,
    k: SupportCount | None = None,
    steps: int | None = None,
    lr: float | Sequence[float] | None = None,
    inner_optimizer: InnerOptimizer | None = None,
    lambda_max: float | None = None,
    knn: float | None = None,
    engine: EngineName = "auto",
    exclude_self: bool = False,
    batch_size: int = 16,
    precision: Precision = "fp32",
    cache: FactorCache | None = None,
    memory_bytes: int | None = None,
    progress: bool = False,
) -> list[Result]: ...


def adapt(
    model: MetaNER,
    x: Taggable,
    *,
    memory: Memory | None = None,
    k: SupportCount | None = None,
    steps: int | None = None,
    lr: float | Sequence[float] | None = None,
    inner_optimizer: InnerOptimizer | None = None,
    lambda_max: float | None = None,
    knn: float | None = None,
    engine: EngineName = "auto",
    exclude_self: bool = False,
    batch_size: int = 16,
    precision: Precision = "fp32",
    cache: FactorCache | None = None,
    memory_bytes: int | None = None,
    progress: bool = False,
) -> Result | list[Result]:
    """The entities of each sentence, found by a model that first took a step on the sentence's own supports.

    For each sentence, the `k` most similar labelled sentences of the memory are fetched, the model's unfrozen weights
    take `steps` gradient steps on them, and the sentence is tagged (Wu et al. 2020, section 3.4). The model itself is
    never written to, so threads may share it.

    Args:
        model: the model.
        x: a text, a list of texts, or a list of token lists. A text is one sentence however long; blank ones have no
            entities.
        memory: labelled sentences to learn from; `model.memory` by default.
        k: how many supports a sentence gets, 2 by default; all there are if the memory has fewer; 0 to take no step.
            ``"all"``: a copy of the model is fine-tuned on the whole memory, once, and kept until it changes; a call
            then costs less than twice what `predict` does.
            Where none of `k` to `knn` is given, what ``memory.calibrate()`` found is used, if it was called.
        steps: inner steps, 1 or more; 1 by default. With ``k="all"`` steps of 32 sentences each: by default six passes
            over the memory, but at least 24 steps or eight passes, whichever is less, and at most 320 steps.
        lr: inner step size, above 0, or one for each unfrozen layer and one for the head; by default the one in
            ``model.settings.lr`` for the optimiser.
        inner_optimizer: ``"sgd"``, the default, or ``"bertadam"`` as in the official code; ``k="all"`` has AdamW.
        lambda_max: weight of the largest token loss of each support in the inner loss, 0 or more; 0 by default.
        knn: weight, 0 to 1, of the votes of the memory's words that are most like a word (`pymetaner.knn`); 0 by
            default. The first call reads the memory's sentences for it.
        engine: ``"reference"``, the sequential loop; ``"batched"``, the same logits for whole batches at once;
            ``"auto"``, the batched one where the network and the memory allow it. Nothing to choose with ``k="all"``.
        exclude_self: leave the sentences of the memory out that have the same text, wherever words are cut there.
        batch_size: the most sentences in a batch.
        precision: of products: ``"fp32"``, ``"tf32"`` (CUDA) or ``"bf16"``.
        cache: where factors of supports are kept between calls; `model.cache` by default.
        memory_bytes: what a batch may take, about, before it is split: by default a quarter of the machine's memory, or
            half of what is free on the GPU.
        progress: show a progress bar.

    Returns:
        One `Result` for a text, a list of them for a list. `start` and `end` of an entity count characters of a text,
        and then ``text[start:end] == entity.text``; for a token list they count tokens.

    Raises:
        InputError: if `x` holds something that is not text.
        SettingError: if a setting is out of range, or the model is no `MetaNER`.
        NumericsError: if the model's logits are not finite, e.g. after a step that was far too large.
        MemoryLimitError: if a single sentence with its supports does not fit into memory.
        EncoderMismatchError, LabelMismatchError: if the memory was made for another model.

    Example:
        >>> result = pymetaner.adapt(model, "Marie Curie nació en Varsovia.")  # doctest: +SKIP
        >>> [(e.text, e.label) for e in result.entities]  # doctest: +SKIP
        [('Marie Curie', 'PER'), ('Varsovia', 'LOC')]
    """
    check_model(model)
    inputs = as_sentences(x)
    learning = learning_of(
        model,
        memory,
        k=k,
        lr=lr,
        steps=steps,
        inner_optimizer=inner_optimizer,
        lambda_max=lambda_max,
        knn=knn,
        engine=engine,
        exclude_self=exclude_self,
    )
    computation = Computation(
        batch_size=batch_size,
        precision=precision,
        cache=model.cache if cache is None else cache,
        memory_bytes=memory_bytes,
        progress=progress,
    )
    tagged, profile = tag(model, inputs.sentences, learning, computation)
    results = [item.result(profile) for item in tagged]
    return results[0] if inputs.single else results


@overload
def predict(  # type: ignore[overload-overlap]  # as for adapt
    model: MetaNER,
    x: str | Sentence,
    *,
    batch_size: int = 16,
    precision: Precision = "fp32",
    progress: bool = False,
) -> Result: ...


@overload
def predict(
    model: MetaNER,
    x: Iterable[str | Sentence | Sequence[str]],
    *,
    batch_size: int = 16,
    precision: Precision = "fp32",
    progress: bool = False,
) -> list[Result]: ...


def predict(
    model: MetaNER, x: Taggable, *, batch_size: int = 16, precision: Precision = "fp32", progress: bool = False
) -> Result | list[Result]:
    """The entities of each sentence as the model stands; arguments and result as for `adapt`."""
    check_model(model)
    inputs = as_sentences(x)
    computation = Computation(batch_size=batch_size, precision=precision, progress=progress)
    tagged, profile = tag(model, inputs.sentences, None, computation)
    results = [item.result(profile) for item in tagged]
    return results[0] if inputs.single else results
