"""Chinese in simplified and traditional characters."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable

__all__ = ["HAN", "has_han", "other_scripts", "simplified"]

HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_han = re.compile(f"[{HAN}]")


def has_han(text: str) -> bool:
    """Whether a text has a Chinese character."""
    return _han.search(text) is not None


def simplified(text: str) -> str:
    """A Chinese text in simplified characters, one for each of its own."""
    return _same_length(text, _load_opencc("t2s")(text))


def other_scripts(word: str) -> list[str]:
    """A Chinese word in traditional and in simplified characters, as far as that differs from the word itself.

    Example:
        >>> other_scripts("中国"), other_scripts("中國"), other_scripts("北京")
        (['中國'], ['中国'], [])
    """
    written = [_same_length(word, _load_opencc(way)(word)) for way in ("s2t", "t2s")]
    return [variant for variant in dict.fromkeys(written) if variant != word]


def _same_length(text: str, converted: str) -> str:
    return converted if len(converted) == len(text) else text


def _load_opencc(way: str) -> Callable[[str], str]:
    converter = _converters().get(way)
    return str if converter is None else converter


@functools.cache
def _converters() -> dict[str, Callable[[str], str]]:
    try:
        from opencc import OpenCC
    except ImportError as error:
        warnings.warn(
            f"opencc cannot be imported ({error}): traditional Chinese is cut as if it were simplified, and no word is "
            "read in the script that a tokenizer knows better; pip install opencc for better words",
            stacklevel=5,
        )
        return {}
    return {way: OpenCC(way).convert for way in ("s2t", "t2s")}
