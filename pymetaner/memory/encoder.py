"""What a memory asks of the model that makes its vectors, and the checks of what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pymetaner.errors import (
    DataError,
    EmptyDataError,
    EncoderError,
    EncoderMismatchError,
    LabelMismatchError,
    SettingError,
)
from pymetaner.memory.records import types_of
from pymetaner.sentence import Sentence, check_sentences, check_words

__all__ = ["SentenceEncoder", "are_unit", "check_encoder", "check_interface", "check_labelled", "check_types", "embed"]

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a vector may be: a hundred times the rounding of a float32 normalisation."""


class SentenceEncoder(Protocol):
    """Turns sentences into unit vectors; every `pymetaner.MetaNER` is one."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors do: with the weights, the tokenizer, the pooling."""

    @property
    def dim(self) -> int:
        """The length of a vector."""

    @property
    def types(self) -> frozenset[str]:
        """The entity types of the label scheme."""

    def embed(self, sentences: Sequence[Sentence], *, progress: bool = False) -> NDArray[np.float32]:
        """The vectors (len(sentences), dim), each of length 1."""


def check_interface(encoder: object) -> None:
    """Checks that something is an encoder.

    Raises:
        SettingError: if it is not.
    """
    if isinstance(encoder, type) or not callable(getattr(encoder, "embed", None)):
        raise SettingError(f"{encoder!r:.60} is not a model: the model comes first, as in Memory(model, path)")


def embed(encoder: SentenceEncoder, sentences: Sequence[Sentence], *, progress: bool = False) -> NDArray[np.float32]:
    """The encoder's vectors (n, dim), float32, contiguous, checked.

    Raises:
        EncoderError: if their shape is wrong, or one is not finite or not of length 1.
    """
    vectors = np.ascontiguousarray(encoder.embed(sentences, progress=progress), dtype=np.float32)
    if vectors.shape != (len(sentences), encoder.dim):
        raise EncoderError(
            f"the encoder gave vectors of shape {vectors.shape} for {len(sentences)} sentences, "
            f"expected {(len(sentences), encoder.dim)}: check its embed() and dim"
        )
    wrong = np.flatnonzero(~are_unit(vectors))
    if len(wrong):
        first = int(wrong[0])
        raise EncoderError(
            f"the encoder gave {len(wrong)} vectors that are not finite or not of length 1; the first is for "
            f"{sentences[first].text[:60]!r}, of length {np.linalg.norm(vectors[first].astype(np.float64)):g}: "
            "check its weights for NaN, and normalise what embed() returns"
        )
    return vectors


def are_unit(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """True for each row (n,) of vectors (n, d) that is finite and of length 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares: NDArray[np.float32] = np.einsum("nd,nd->n", vectors, vectors)
    return np.abs(squares - 1) <= 2 * UNIT_TOLERANCE  # false for NaN and infinity


def check_labelled(sentences: Iterable[Sentence], types: Set[str]) -> list[Sentence]:
    """The sentences as a list, each with words and tags of these entity types.

    Raises:
        DataError: if something is not a sentence, or is not labelled, or has words that are not text.
        EmptyDataError: if there is no sentence, or one has no word.
        LabelMismatchError: if an entity type is not among `types`.
    """
    found = check_sentences(sentences)
    if not found:
        raise EmptyDataError("there is no sentence to add: give at least one")
    unknown: dict[str, int] = {}
    for i, sentence in enumerate(found):
        check_words(sentence, f"sentence {i}")
        if sentence.tags is None:
            raise DataError(f"sentence {i} ({sentence.text[:60]!r}) is not labelled: give it one tag per word")
        for label in types_of(sentence) - types:
            unknown.setdefault(label, i)
    if unknown:
        first = min(unknown.values())
        raise LabelMismatchError(
            f"the entity types {', '.join(sorted(unknown))} are not in the model's label scheme "
            f"({', '.join(sorted(types))}); the first is in sentence {first} ({found[first].text[:60]!r}): "
            "rename them, tag them 'O', or use a model trained with them"
        )
    return found


def check_encoder(encoder: SentenceEncoder, fingerprint: str, dim: int, place: str) -> None:
    """Checks that this encoder made the vectors of a memory.

    Args:
        encoder: the encoder at hand.
        fingerprint: of the encoder that made the vectors.
        dim: their length.
        place: where the memory is, for the message.

    Raises:
        EncoderMismatchError: if another encoder made them.
    """
    if (fingerprint, dim) != (encoder.fingerprint, encoder.dim):
        raise EncoderMismatchError(
            f"the vectors of {place} were made by the encoder {fingerprint} ({dim} dimensions), but the model at hand "
            f"is {encoder.fingerprint} ({encoder.dim}): use the model that made them, or embed the sentences again "
            "with memory.rebuild(model), or Memory(model, path, rebuild=True) where it is not open yet"
        )


def check_types(encoder: SentenceEncoder, types: Set[str], place: str) -> None:
    """Checks that the entity types of a memory's sentences are in the encoder's label scheme.

    Raises:
        LabelMismatchError: if one is not.
    """
    unknown = types - encoder.types
    if unknown:
        raise LabelMismatchError(
            f"{place} has sentences with the entity types {', '.join(sorted(unknown))}, which are not in the model's "
            f"label scheme ({', '.join(sorted(encoder.types))}): use a model trained with them, or export the memory "
            "with its own model, rename or drop these types, and import it into a new one"
        )
