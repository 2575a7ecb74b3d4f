"""JSONL: one object per line, either tokens with tags or a text with labelled character spans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pymetaner.errors import DataError, EmptyDataError, LengthMismatchError, PymetanerError, SpanError
from pymetaner.readers.corpus import Corpus, check_tokens, convert_tags, tokens_and_tags
from pymetaner.sentence import Sentence, is_text
from pymetaner.tagging import Notation, tags_from_spans
from pymetaner.words import sentence_from_text

__all__ = ["read_jsonl", "sentence_to_json"]

_TAG_KEYS = ("tags", "ner_tags")
_SPAN_KEYS = ("spans", "entities")
_EXPECTED = (
    'expected {"tokens": ["Ada", "slept"], "tags": ["B-PER", "O"]} or {"text": "Ada slept", "spans": [[0, 3, "PER"]]}'
)


def read_jsonl(path: str, lines: Iterable[str], *, notation: Notation | None = None) -> Corpus:
    """The labelled sentences of the lines of a JSONL file; see `pymetaner.readers.read`."""
    sentences: list[Sentence] = []
    untagged: list[int] = []  # sentences of tokens, whose tags are converted together at the end
    tag_rows: list[tuple[str, ...]] = []
    first_seen: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        record = _parse(line, place)
        try:
            if _is_tagged(record):
                words, tags = _tokens_of(record)
                for tag in tags:
                    first_seen.setdefault(tag, place)
                untagged.append(len(sentences))
                tag_rows.append(tags)
                sentences.append(Sentence(words))
            else:
                sentences.append(_spanned_sentence(record))
        except PymetanerError as error:
            raise type(error)(f"{place}: {error}") from None
    if not sentences:
        raise EmptyDataError(f"{path}: there is no sentence in it: {_EXPECTED} on every line")
    converted, found, repairs = convert_tags(tag_rows, first_seen, notation, path)
    for i, tags in zip(untagged, converted, strict=True):
        sentences[i] = sentences[i].with_tags(tags)
    return Corpus(sentences, found, repairs, path)


def sentence_to_json(sentence: Sentence, place: str) -> str:
    """The line of a labelled sentence; reading it gives the same source, entities and, for raw text, words.

    Raises:
        DataError: where it would not.
    """
    try:
        record = _record(sentence)
        if not isinstance(sentence.source, str):
            check_tokens(record["tokens"])
        elif sentence.words != tuple(sentence.source[start:end] for start, end in sentence.spans):
            raise DataError("its words are not those that stand in the text at their spans")
        elif "words" in record:  # others than those that reading would cut
            _spanned_sentence(json.loads(json.dumps(record)))
    except PymetanerError as error:
        raise DataError(f"{place} ({sentence.text[:60]!r}) could not be read again: {error}") from None
    return json.dumps(record, ensure_ascii=False) + "\n"


def _record(sentence: Sentence) -> dict[str, Any]:
    if not isinstance(sentence.source, str):
        tokens, tags = tokens_and_tags(sentence)
        return {"tokens": tokens, "tags": tags}
    spans = [(entity.start, entity.end, entity.label) for entity in sentence.entities]
    record: dict[str, Any] = {"text": sentence.source, "spans": spans}
    if sentence_from_text(sentence.source, spans).spans != sentence.spans:
        record["words"] = sentence.spans
    return record


def _parse(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: this is not JSON ({error}): {_EXPECTED}, one object per line") from None
    if "\\ud" in line.lower() and not is_text(json.dumps(record, ensure_ascii=False)):
        raise DataError(f"{place}: a lone surrogate stands for no character: decode the bytes again, or remove it")
    if not isinstance(record, dict):
        raise DataError(f"{place}: a JSON object is expected, not {type(record).__name__}: {_EXPECTED}, one per line")
    return record


def _is_tagged(record: Mapping[str, Any]) -> bool:
    """True for tokens with tags, False for a text with spans."""
    tagged = "tokens" in record and any(key in record for key in _TAG_KEYS)
    spanned = "text" in record and any(key in record for key in _SPAN_KEYS)
    if tagged == spanned:
        reason = "holds tokens with tags and a text with spans: leave one" if tagged else f"has {', '.join(record)}"
        raise DataError(f"the object {reason or 'is empty'}; {_EXPECTED}")
    return tagged


def _only(record: Mapping[str, Any], keys: tuple[str, ...]) -> list[Any]:
    """The list under the one of these keys that is there."""
    present = [key for key in keys if key in record]
    if len(present) > 1:
        raise DataError(f"both {' and '.join(present)} are given: leave one")
    value = record[present[0]]
    if not isinstance(value, list):
        raise DataError(f"{present[0]} is {type(value).__name__}, a list is expected: {_EXPECTED}")
    return value


def _tokens_of(record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    words, tags = check_tokens(_only(record, ("tokens",))), _only(record, _TAG_KEYS)
    if not all(isinstance(tag, str) for tag in tags):
        raise DataError(f"the tags must be strings, not {tags[:5]}: {_EXPECTED}")
    if len(words) != len(tags):
        raise LengthMismatchError(f"{len(words)} tokens but {len(tags)} tags: give one tag per token")
    return words, tuple(tags)


def _spanned_sentence(record: Mapping[str, Any]) -> Sentence:
    text = record["text"]
    if not isinstance(text, str):
        raise DataError(f"text is {type(text).__name__}, a string is expected: {_EXPECTED}")
    given = _only(record, _SPAN_KEYS)
    spans = [_span(span) for span in given]
    tokens = record.get("tokens")
    if isinstance(tokens, list) and _count_tokens(given, spans, tokens, text):
        return Sentence(check_tokens(tokens), tags_from_spans(spans, len(tokens)))
    for span, (start, end, _) in zip(given, spans, strict=True):
        if _text_of(span) not in (None, text[start:end]):
            raise SpanError(f"the span {span} covers {text[start:end]!r}: start and end count the characters of text")
    sentence = sentence_from_text(text, spans)
    if "words" in record:
        sentence = _with_words(sentence, spans, _only(record, ("words",)))
    if not sentence.words:
        raise EmptyDataError("the text is blank: remove the line")
    return sentence


def _span(span: Any) -> tuple[int, int, str]:
    if isinstance(span, Mapping):
        span = [span.get("start"), span.get("end"), span.get("label")]
    if not isinstance(span, list) or [type(value) for value in span] != [int, int, str]:
        raise SpanError(f'{span!r} is not a span: give [start, end, label] or {{"start": 0, "end": 3, "label": "PER"}}')
    return span[0], span[1], span[2]


def _count_tokens(given: Iterable[Any], spans: Iterable[tuple[int, int, str]], tokens: list[Any], text: str) -> bool:
    """Whether spans count tokens, as those of `Result.to_dict` do; others count characters, whatever is beside them."""
    if not all(isinstance(token, str) for token in tokens) or " ".join(tokens) != text:
        return False
    return all(_text_of(span) == " ".join(tokens[at[0] : at[1]]) for span, at in zip(given, spans, strict=True))


def _text_of(span: Any) -> str | None:
    """What a span says it covers, if it says so."""
    text = span.get("text") if isinstance(span, Mapping) else None
    return text if isinstance(text, str) else None


def _with_words(sentence: Sentence, spans: Iterable[tuple[int, int, str]], words: list[Any]) -> Sentence:
    """The same text and entities over words that are given by their place."""
    if not all(isinstance(word, list) and [type(value) for value in word] == [int, int] for word in words):
        raise SpanError("words must be a list of [start, end]")
    places = tuple((start, end) for start, end in words)
    text = sentence.text
    inside = {i for start, end in places for i in range(max(start, 0), min(end, len(text)))}
    if any(character.isalnum() and i not in inside for i, character in enumerate(text)):
        raise SpanError("words leave out letters or digits of the text: give [start, end] of every word")
    if not all(text[start:end].strip() for start, end in places if 0 <= start < end):
        raise SpanError("a word is white space alone: give [start, end] of words")
    first_at = {start: i for i, (start, _) in enumerate(places)}
    last_at = {end: i for i, (_, end) in enumerate(places)}
    try:
        entities = [(first_at[start], last_at[end] + 1, label) for start, end, label in spans]
    except KeyError as error:
        raise SpanError(f"a span begins or ends at character {error}, which is no edge of `words`") from None
    return Sentence(
        tuple(text[start:end] for start, end in places), tags_from_spans(entities, len(places)), text, places
    )
