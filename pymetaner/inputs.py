"""What a caller may give to tag, as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from pymetaner.blinding import blinded
from pymetaner.errors import InputError
from pymetaner.sentence import Sentence, is_text
from pymetaner.words import regroup, sentence_from_text

__all__ = ["Inputs", "Taggable", "as_sentences"]

Taggable: TypeAlias = "str | Sentence | Iterable[str | Sentence | Sequence[str]]"


class Inputs(NamedTuple):
    """What was given to tag.

    Attributes:
        sentences: what is read, without labels that could show where words end.
        single: whether a single one was given, not a list.
    """

    sentences: list[Sentence]
    single: bool


def as_sentences(x: Taggable) -> Inputs:
    """The sentences of an input.

    A string is one sentence, segmented into words; an item of a list is a string, a list of tokens, or a Sentence. Runs
    of one-character Chinese tokens are regrouped into words.

    Raises:
        InputError: for anything else, naming the item.
    """
    if isinstance(x, (str, Sentence)):
        return Inputs([_sentence(x, "the input")], True)
    if isinstance(x, (bytes, dict)) or not isinstance(x, Iterable):
        raise InputError(_expected("the input", x))
    return Inputs([_sentence(item, f"item {i}") for i, item in enumerate(x)], False)


def _sentence(item: object, where: str) -> Sentence:
    if isinstance(item, str):
        try:
            return sentence_from_text(item)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    tokens = item.words if isinstance(item, Sentence) else item
    if not isinstance(tokens, Sequence) or isinstance(tokens, (bytes, bytearray)):
        raise InputError(_expected(where, item))
    for i, token in enumerate(tokens):
        if not isinstance(token, str):
            raise InputError(f"{where}, token {i}: {token!r} is a {type(token).__name__}, expected a string")
        if not is_text(token):
            raise InputError(
                f"{where}, token {i}: {token!r} has a lone surrogate, which is not text: decode it properly"
            )
    if not isinstance(item, Sentence):
        return regroup(Sentence(tuple(tokens)))
    blind = blinded(item)
    return item if blind.words == item.words else blind


def _expected(where: str, given: object) -> str:
    return (
        f"{where} is of type {type(given).__name__}: expected a string, a list of strings, a list of token lists, "
        "or Sentence objects"
    )
