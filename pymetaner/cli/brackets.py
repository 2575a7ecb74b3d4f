"""A labelled sentence as one types it: ``[PER Ada Lovelace] lived in [LOC London].``"""

from __future__ import annotations

import re
from collections.abc import Collection

from pymetaner.errors import LabelMismatchError, SpanError
from pymetaner.sentence import Sentence

__all__ = ["labelled"]

# An escaped character; an entity; or a bracket that is neither.
_ESCAPED = r"\\([\[\]\\])"
_NAME = r"(?!\s)(?:\\[\[\]\\]|[^\[\]\\]|\\(?![\[\]\\]))+?"
_PARTS = re.compile(rf"{_ESCAPED}|\[([^\s\[\]]+)\s+({_NAME})\s*\]|([\[\]])")


def labelled(text: str, types: Collection[str]) -> Sentence:
    r"""The sentence with its entities; ``\[``, ``\]`` and ``\\`` stand for what the text itself has of these.

    Args:
        text: the sentence with each entity in brackets behind its type.
        types: the entity types there are.

    Raises:
        SpanError: for a bracket that neither opens nor closes an entity.
        LabelMismatchError: for a type that there is not.

    Example:
        >>> labelled("[PER Ada Lovelace] wrote \\[sic].", {"PER"}).text
        Traceback (most recent call last):
        pymetaner.errors.SpanError: ...
        >>> labelled("[PER Ada Lovelace] wrote \\[sic\\].", {"PER"}).entities[0].text
        'Ada Lovelace'
    """
    from pymetaner.words import sentence_from_text

    plain = ""
    spans: list[tuple[int, int, str]] = []
    position = 0
    for match in _PARTS.finditer(text):
        plain += text[position : match.start()]
        position = match.end()
        escaped, label, name, stray = match.groups()
        if stray:
            raise SpanError(
                f"{text[:200]!r}: the {stray!r} at character {match.start()} neither opens nor closes an entity: "
                rf"write entities as [TYPE words], and a bracket of the text itself as \{stray}"
            )
        if label and label not in types:
            raise LabelMismatchError(
                f"{text[:200]!r}: {label!r} is not an entity type of the model ({', '.join(sorted(types))}): give one "
                r"of these, or write a bracket of the text itself as \["
            )
        if label:
            name = re.sub(_ESCAPED, r"\1", name)
            spans.append((len(plain), len(plain) + len(name), label))
        plain += escaped or name
    return sentence_from_text(plain + text[position:], spans)
