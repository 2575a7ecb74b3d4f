"""A result as text for a terminal, as HTML for a notebook, and as plain data for JSON."""

from __future__ import annotations

import html
import io
import re
import shutil
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pymetaner.result import Result
from pymetaner.sentence import Entity, Sentence

__all__ = ["as_dict", "as_html", "as_text", "cleaned", "marked", "sentence_dict"]

TEXT_LIMIT = 2000
"""Characters of a text that a terminal is shown; its entities are always listed in full."""

SUPPORT_LIMIT = 240
"""Characters of a support that are shown."""

CONTEXT = 40
"""Characters kept beside an entity where a text is shortened."""

_STYLES = {"PER": "green", "ORG": "magenta", "LOC": "cyan", "MISC": "yellow"}
_OTHER_STYLES = ("blue", "red", "green", "magenta", "cyan", "yellow")
_HUES = {"PER": 140, "ORG": 290, "LOC": 200, "MISC": 45}

_LINE_BREAKS = re.compile("[\t\n\v\f\r\x85\u2028\u2029]")
# Controls could move the cursor or recolour the terminal; lone surrogates cannot be written to any stream.
_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")


class Piece(NamedTuple):
    """A stretch of a text: an entity with its label, or what stands between entities (label None)."""

    text: str
    label: str | None = None
    score: float | None = None


def as_text(result: Result, *, width: int | None = None, color: bool = False) -> str:
    """The result to be read in a terminal: the text with its entities, their scores, and what was learned from.

    Where the model was adapted, each entity has its score before and after; one that adapting lost is marked with
    ``-``, one that it found with ``+``.

    Args:
        result: what `pymetaner.adapt` or `pymetaner.predict` returned.
        width: columns of the terminal; asked from it by default.
        color: colour the labels with ANSI codes.

    Example:
        >>> sentence = Sentence(("Ada", "slept"))
        >>> found = sentence.entities_of(("B-PER", "O"), (0.97, 1.0))
        >>> print(as_text(Result(sentence, found, found), width=40))
        [PER Ada] slept
        <BLANKLINE>
           type  entity  score
           PER   Ada      0.97
    """
    if width is None:
        width = min(shutil.get_terminal_size((100, 24)).columns, 140)
    file = io.StringIO()
    console = Console(
        file=file,
        width=max(width, 40),
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )
    if result.text.strip():
        console.print(_bracketed(shortened(_pieces(result.sentence, result.entities), TEXT_LIMIT)), overflow="fold")
    else:
        console.print("(blank text)")
    if len(result.text) > TEXT_LIMIT:
        console.print(f"(a part of {len(result.text):,} characters)")
    console.print()
    if result.entities or result.base_entities:
        console.print(_entity_table(result))
    else:
        console.print("  no entities")
    if result.supports:
        console.print()
        console.print("  adapted on", style="bold")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for support in result.supports:
            table.add_row(f"  {support.similarity:.3f}", marked(support.sentence, SUPPORT_LIMIT))
        console.print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _entity_table(result: Result) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("entity", overflow="fold")
    before, after = ({_place(e): e for e in found} for found in (result.base_entities, result.entities))
    if not result.supports and result.base_entities == result.entities:
        table.add_column("score", justify="right", no_wrap=True)
        for entity in result.entities:
            table.add_row(" ", _label(entity.label), cleaned(entity.text), f"{entity.score:.2f}")
        return table
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    for place in sorted(before | after, key=lambda place: (*place[:2], place in after)):
        entity = after.get(place) or before[place]
        sign = "-" if place not in after else "+" if place not in before else " "
        scores = (f"{found[place].score:.2f}" if place in found else "" for found in (before, after))
        table.add_row(sign, _label(entity.label), cleaned(entity.text), *scores)
    return table


def marked(sentence: Sentence, limit: int | None = None) -> Text:
    """A labelled sentence on one line, each entity as ``[PER Ada Lovelace]``; shortened to about `limit` characters."""
    pieces = _pieces(sentence, sentence.entities)
    return _bracketed(pieces if limit is None else shortened(pieces, limit))


def _bracketed(pieces: Iterable[Piece]) -> Text:
    text = Text()
    for piece in pieces:
        if piece.label is None:
            text.append(cleaned(piece.text))
        else:
            text.append("[")
            text.append(_label(piece.label))
            text.append(f" {cleaned(piece.text)}]")
    return text


def _label(label: str) -> Text:
    other = _OTHER_STYLES[zlib.crc32(label.encode(errors="replace")) % len(_OTHER_STYLES)]
    return Text(cleaned(label), style=_STYLES.get(label, other))


def as_html(result: Result) -> str:
    """The result as an HTML fragment for a notebook; needs no style sheet, and everything in it is escaped.

    It holds the text with the entities found, before and after adapting, and the supports with their similarity.
    """
    rows = []
    if result.supports or result.base_entities != result.entities:
        rows.append(("before", _highlighted(_pieces(result.sentence, result.base_entities), scores=True)))
        title = "after" if result.changed else "after (no entity changed)"
        rows.append((title, _highlighted(_pieces(result.sentence, result.entities), scores=True)))
    else:
        rows.append(("entities", _highlighted(_pieces(result.sentence, result.entities), scores=True)))
    body = "".join(_row(title, content) for title, content in rows)
    if result.supports:
        body += _row("adapted on", "similarity, labelled sentence", muted=True)
    for support in result.supports:
        pieces = shortened(_pieces(support.sentence, support.entities), SUPPORT_LIMIT)
        body += _row(f"{support.similarity:.3f}", _highlighted(pieces, scores=False))
    return (
        '<table style="border-collapse:collapse;border:none;max-width:64em;text-align:left;line-height:1.8">'
        f"<tbody>{body}</tbody></table>"
    )


def _row(title: str, content: str, muted: bool = False) -> str:
    title = html.escape(title)
    cell = "border:none;background:transparent;padding:.2em .8em .2em 0;vertical-align:top;text-align:left"
    faint = ";opacity:.7" if muted else ""
    return (
        f'<tr style="background:none"><th scope="row" style="{cell};white-space:nowrap;font-weight:600">{title}</th>'
        f'<td style="{cell}{faint};width:100%">{content}</td></tr>'
    )


def _highlighted(pieces: Iterable[Piece], *, scores: bool) -> str:
    parts: list[str] = []
    blank = True
    for piece in pieces:
        blank = blank and not piece.text.strip()
        text = html.escape(_UNPRINTABLE.sub("\ufffd", piece.text))
        if piece.label is None:
            parts.append(text)
            continue
        hue = _HUES.get(piece.label, zlib.crc32(piece.label.encode(errors="replace")) % 360)
        label = html.escape(cleaned(piece.label))
        score = f" {piece.score:.2f}" if scores and piece.score is not None else ""
        # An entity is an island of its own in a line that may run the other way.
        parts.append(
            f'<mark style="background:hsl({hue},70%,85%);color:#111;padding:.1em .3em;border-radius:.3em;'
            f'unicode-bidi:isolate" dir="auto">{text} <small dir="ltr" style="font-weight:600;opacity:.75">'
            f"{label}{score}</small></mark>"
        )
    inner = '<span style="opacity:.7">(blank text)</span>' if blank else "".join(parts)
    style = "white-space:pre-wrap;overflow-wrap:anywhere;text-align:start;max-height:30em;overflow-y:auto"
    return f'<div dir="auto" style="{style}">{inner}</div>'


def as_dict(result: Result) -> dict[str, Any]:
    """The result as data that `json.dumps` takes: text, entities, base_entities, changed, supports."""
    return {
        **sentence_dict(result.sentence, result.entities),
        "base_entities": [_entity_dict(entity) for entity in result.base_entities],
        "changed": result.changed,
        "supports": [
            {**sentence_dict(support.sentence, support.entities), "similarity": support.similarity}
            for support in result.supports
        ],
    }


def sentence_dict(sentence: Sentence, entities: Iterable[Entity]) -> dict[str, Any]:
    """A sentence as data that `json.dumps` takes and `pymetaner.read` reads.

    The entities' places count characters of the text or, if it was given as tokens, those, which are there then.
    """
    found: dict[str, Any] = {"text": sentence.text}
    if not isinstance(sentence.source, str):
        found["tokens"] = list(sentence.source)
    return {**found, "entities": [_entity_dict(entity) for entity in entities]}


def _entity_dict(entity: Entity) -> dict[str, Any]:
    return {
        "text": entity.text,
        "label": entity.label,
        "start": entity.start,
        "end": entity.end,
        "score": entity.score,
    }


def cleaned(text: str) -> str:
    """The text on one line and without characters that would act on a terminal, each replaced by one other."""
    return _UNPRINTABLE.sub("\ufffd", _LINE_BREAKS.sub(" ", text))


def _place(entity: Entity) -> tuple[int, int, str]:
    return entity.start, entity.end, entity.label


def _pieces(sentence: Sentence, entities: Iterable[Entity]) -> list[Piece]:
    """The whole text of a sentence, cut at the edges of its entities."""
    source = sentence.source

    def between(start: int, end: int) -> str:
        if isinstance(source, str):
            return source[start:end]
        joined = " ".join(source[start:end])
        # The spaces between tokens are no one's, so they belong to what is no entity.
        return f"{' ' if start and joined else ''}{joined}{' ' if end < len(source) and end > 0 else ''}"

    pieces: list[Piece] = []
    position = 0
    for entity in sorted(entities, key=_place):
        if entity.start < position:
            continue  # made by hand: the model's entities never overlap
        pieces.append(Piece(between(position, entity.start)))
        pieces.append(Piece(entity.text, entity.label, entity.score))
        position = entity.end
    pieces.append(Piece(between(position, len(source))))
    return [piece for piece in pieces if piece.text]


def shortened(pieces: list[Piece], limit: int) -> list[Piece]:
    """The pieces with what lies far from any entity left out, then cut at about `limit` characters; "…" marks a gap."""
    if sum(len(piece.text) for piece in pieces) <= limit:
        return pieces
    kept: list[Piece] = []
    room = limit
    for i, piece in enumerate(pieces):
        if piece.label is None:
            head = 0 if i == 0 and len(pieces) > 1 else CONTEXT
            tail = 0 if i == len(pieces) - 1 else CONTEXT
            if len(pieces) == 1:
                head, tail = limit, 0
            piece = Piece(_elided(piece.text, head, tail))
        if len(piece.text) > room:
            if piece.label is None:
                kept.append(Piece(_elided(piece.text, room, 0)))
            else:
                kept.append(Piece("…"))
            left = sum(later.label is not None for later in pieces[i:])
            if left:
                kept.append(Piece(f" ({left} more {'entity' if left == 1 else 'entities'})"))
            break
        kept.append(piece)
        room -= len(piece.text)
    return kept


def _elided(text: str, head: int, tail: int) -> str:
    """The first and the last characters of a text, cut at a space if one is near, with "…" for what is left out."""
    if len(text) <= head + tail + 1:
        return text
    first, last = text[:head], text[len(text) - tail :] if tail else ""
    near = 12
    if (at := first.rfind(" ", max(0, head - near))) > 0:
        first = first[:at]
    if (at := last.find(" ", 0, near)) >= 0:
        last = last[at + 1 :]
    return f"{first}…{last}"
