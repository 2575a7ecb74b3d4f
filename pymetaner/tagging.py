"""Tag notations: find out which one a file uses, turn it into IOB2, turn IOB2 into another.

====== ===================================================================================
IOB2   ``B-`` opens every entity, ``I-`` goes on (what pymetaner uses inside)
IOB1   ``I-`` everywhere; ``B-`` only where an entity follows another of the same type
BIOES  ``B- I- E-``, and ``S-`` for an entity of one word (``M-`` and ``W-`` read as ``I-`` and ``S-``)
BILOU  ``B- I- L-``, and ``U-`` for an entity of one word
IO     ``I-`` only (or the bare type, where the notation is named): neighbours of one type merge
====== ===================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from pymetaner.errors import SettingError, SpanError, TagError
from pymetaner.sentence import tag_spans

__all__ = ["Notation", "detect_notation", "from_iob2", "split_tags", "tags_from_spans", "to_iob2"]

Notation = Literal["IOB1", "IOB2", "BIOES", "BILOU", "IO"]

_LETTERS = {"IOB1": "BI", "IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU", "IO": "I"}
_KNOWN = dict(zip("BIESLUMW", "BIESLUIS", strict=True))
_OUTSIDE = ("O", "")


def split_tags(tags: Iterable[str]) -> dict[str, tuple[str, str] | None]:
    """(letter, type) of every distinct tag, ``("O", "")`` outside an entity, None where a tag is not understood.

    The separator is ``-`` or ``_``, the letter may be lower-case. The letter comes first; if that reading fails
    for some tag while letter-last (``PER-B``) fits all of them, or letter-first none and letter-last two of a type,
    letter-last is taken.

    Example:
        >>> split_tags(["O", "B-PER", "PER"])
        {'O': ('O', ''), 'B-PER': ('B', 'PER'), 'PER': None}
    """
    distinct = list(dict.fromkeys(tags))
    letter_first = {tag: _split(tag, tag[:1], tag[1:2], tag[2:]) for tag in distinct}
    if None in letter_first.values():
        letter_last = {tag: _split(tag, tag[-1:], tag[-2:-1], tag[:-2]) for tag in distinct}
        if None not in letter_last.values():
            return letter_last
        if not any(part not in (None, _OUTSIDE) for part in letter_first.values()):
            # A name may end in a letter by chance, but not with two letters.
            names = [part[1] for part in letter_last.values() if part and part != _OUTSIDE]
            if len(set(names)) < len(names):
                return letter_last
    return letter_first


def _split(tag: str, letter: str, separator: str, name: str) -> tuple[str, str] | None:
    if tag in ("O", "o"):
        return _OUTSIDE
    known = _KNOWN.get(letter.upper())
    return (known, name) if known and name and separator in ("-", "_") else None


def detect_notation(sequences: Iterable[Sequence[str]]) -> Notation:
    """The notation that explains all these tag sequences with the fewest broken rules.

    Sequences without any ``B-`` are IO (IOB1 without neighbours of one type reads the same); without any entity, IOB2.

    Raises:
        TagError: for a tag that is of no notation, or if ``E-``/``S-`` and ``L-``/``U-`` are mixed.

    Example:
        >>> detect_notation([["I-PER", "B-PER", "O"], ["O", "I-LOC"]])
        'IOB1'
    """
    sequences = list(sequences)
    table = _understood(split_tags(tag for tags in sequences for tag in tags))
    letters = {letter for letter, _ in table.values()}
    if letters & set("ES"):
        if letters & set("LU"):
            raise TagError("the tags mix E-/S- (BIOES) with L-/U- (BILOU): give data in one notation")
        return "BIOES"
    if letters & set("LU"):
        return "BILOU"
    if "B" not in letters:
        return "IO" if "I" in letters else "IOB2"
    against_iob2 = against_iob1 = 0
    for tags in sequences:
        before = _OUTSIDE
        for tag in tags:
            letter, name = table[tag]
            if letter != "O" and name != before[1]:
                against_iob2 += letter == "I"
                against_iob1 += letter == "B"
            before = letter, name
    return "IOB1" if against_iob1 < against_iob2 else "IOB2"


def to_iob2(tags: Sequence[str], notation: Notation) -> tuple[tuple[str, ...], int]:
    """IOB2 tags, and how many of the given tags broke the rules of their notation and were repaired.

    No entity is dropped: a tag that goes on with an entity that is not there opens one, and an entity that is not
    closed ends where it ends.

    Args:
        tags: one tag per word.
        notation: the notation they are written in; bare types (``PER``) are understood with ``"IO"`` only.

    Raises:
        TagError: for a tag that is not of the notation.
        SettingError: for an unknown notation.

    Example:
        >>> to_iob2(["I-PER", "E-PER", "O", "S-LOC"], "BIOES")
        (('B-PER', 'I-PER', 'O', 'B-LOC'), 1)
    """
    allowed = _LETTERS.get(notation)
    if allowed is None:
        raise SettingError(f"notation {notation!r} is unknown: give one of {', '.join(get_args(Notation))}")
    split = split_tags(tags)
    table = (
        {tag: ("I", tag) if part is None and tag else part for tag, part in split.items()} if allowed == "I" else split
    )
    known = _understood(table)
    for tag, (letter, _) in known.items():
        if letter not in allowed and letter != "O":
            raise TagError(f"the tag {tag!r} is not of the notation {notation}, which has {', '.join(allowed)} and O")
    converted: list[str] = []
    repairs = 0
    open_name = ""  # the type of the entity that a next I-, E- or L- would go on with
    last = _OUTSIDE
    for tag in tags:
        letter, name = known[tag]
        goes_on = letter in "IEL" and name == open_name
        match notation:
            case "IOB2":
                repairs += letter == "I" and not goes_on
            case "IOB1":
                repairs += letter == "B" and name != last[1]
            case "BIOES" | "BILOU":
                repairs += (letter in "IEL" and not goes_on) or (last[0] in "BI" and not goes_on)
        converted.append("O" if letter == "O" else f"{'I' if goes_on else 'B'}-{name}")
        open_name = name if letter in "BI" else ""
        last = letter, name
    if notation in ("BIOES", "BILOU"):
        repairs += last[0] in "BI"
    return tuple(converted), repairs


def from_iob2(tags: Sequence[str], notation: Notation) -> tuple[str, ...]:
    """The same entities written in `notation`; ``"IO"`` cannot keep two neighbours of one type apart.

    Raises:
        SettingError: for an unknown notation.

    Example:
        >>> from_iob2(["B-PER", "I-PER", "B-LOC", "O"], "BILOU")
        ('B-PER', 'L-PER', 'U-LOC', 'O')
    """
    allowed = _LETTERS.get(notation)
    if allowed is None:
        raise SettingError(f"notation {notation!r} is unknown: give one of {', '.join(get_args(Notation))}")
    converted = ["O"] * len(tags)
    before = (0, 0, "")
    for first, last, name in tag_spans(tags):
        letters = ["B"] + ["I"] * (last - first - 1)
        if notation == "IO" or (notation == "IOB1" and before[1:] != (first, name)):
            letters[0] = "I"
        elif notation in ("BIOES", "BILOU"):
            ending, single = allowed[2], allowed[3]
            letters[-1] = single if len(letters) == 1 else ending
        converted[first:last] = [f"{letter}-{name}" for letter in letters]
        before = (first, last, name)
    return tuple(converted)


def tags_from_spans(spans: Iterable[tuple[int, int, str]], n: int) -> tuple[str, ...]:
    """IOB2 tags of a sentence of `n` words with these entities, each (first word, last word exclusive, type).

    Raises:
        SpanError: for a span that is empty, outside the sentence, without a type, or overlaps another.

    Example:
        >>> tags_from_spans([(1, 3, "PER")], 4)
        ('O', 'B-PER', 'I-PER', 'O')
    """
    tags = ["O"] * n
    for first, last, name in spans:
        if not 0 <= first < last <= n:
            raise SpanError(f"the span ({first}, {last}) is empty or outside a sentence of {n} words")
        if not name:
            raise SpanError(f"the span ({first}, {last}) has no entity type")
        if any(tag != "O" for tag in tags[first:last]):
            raise SpanError(f"the span ({first}, {last}, {name!r}) overlaps another: a word has one entity at most")
        tags[first:last] = [f"B-{name}"] + [f"I-{name}"] * (last - first - 1)
    return tuple(tags)


def _understood(table: dict[str, tuple[str, str] | None]) -> dict[str, tuple[str, str]]:
    known: dict[str, tuple[str, str]] = {}
    for tag, part in table.items():
        if part is None:
            raise TagError(
                f"{tag!r} is not a tag of any known notation: give O, or B-, I-, E-, S-, L- or U- and a type "
                "(bare types are read with notation='IO')"
            )
        known[tag] = part
    return known
