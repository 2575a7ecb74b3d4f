"""Words of raw text: Unicode's word rules, dictionaries for scripts without spaces, and a few rules for names.

- ICU (through icu4py) cuts every script by Unicode's word rules (UAX 29) and, with its dictionaries, Japanese, Thai,
  Khmer, Lao and Burmese.
- jieba (through rjieba) cuts Chinese, after OpenCC made it simplified, which its dictionary is written in. Han
  characters are Japanese on a line that holds kana as well, else Chinese.
- In Chinese, the parts of a foreign name with a dot between them are one word.
- A few rules then join what is one name and cut off what does not belong to it, the way CoNLL and Universal
  Dependencies data are tokenised: see `_JOINED`, `_APOSTROPHE` and `_is_inside`.

A missing library is replaced, with one warning: jieba by ICU, ICU by runs of letters and digits, a dictionary by one
character a word.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from operator import index

from pymetaner.errors import InputError, SpanError
from pymetaner.script import HAN, simplified
from pymetaner.sentence import Sentence, tag_spans
from pymetaner.tagging import tags_from_spans

__all__ = ["regroup", "segment", "sentence_from_text"]

_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_KANA = f"\u3041-\u309f{_KATAKANA}"
_SOUTH_EAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"
_MARKS = "\u0300-\u036f"

_han_run = re.compile(f"[{HAN}]+")
_kana = re.compile(f"[{_KANA}]")
_unspaced = re.compile(f"[{HAN}{_KANA}{_SOUTH_EAST_ASIAN}]")

# What is one word though Unicode's rules cut it.
_JOINED = re.compile(
    "|".join(
        (
            r"(?a:(?:https?|ftp)://[!-~]*[\w/])",  # an address on the web
            r"(?a:(?<![\w.+-])[\w.+-]{1,64}@\w[\w.-]*\w)",  # an e-mail address
            r"(?<!\w)(?:[^\W\d_]\.){2,}",  # an abbreviation keeps its last full stop: U.S.
            r"(?<!\w)[^\W\d_]\.(?=\s+\w)",  # so do an initial, J. Smith, and what goes with names: Dr., Inc.
            r"(?<!\w)(?:Dr|Mr|Mrs|Ms|Prof|St|Ste|Sr|Sra|Jr|Inc|Corp|Ltd|Co|Gen|Col|Lt|Capt|Sgt|Sen|Rep|Gov|Rev|Mt)\.",
            r"([-.!?*=~'`])\1+",  # a run of one sign: --, ..., ''
            f"[{_KATAKANA}]{{2,}}",  # a foreign name in Japanese, of which the dictionary knows parts only
        )
    )
)
# Where an apostrophe parts two words: after what French, Italian and Catalan elide (l'homme, dell'arte), and before
# what English (Ann's, do n't) and Turkish (Ankara'da) append. Any other is inside a word (O'Neil, Xi'an).
_APOSTROPHE = re.compile(
    rf"(?<![\w'’{_MARKS}])(?!n['’]t\b)"
    r"(?P<elided>[cdjlmnst]|\w{0,6}qu|\w{0,4}ll|\w{0,4}gl|un|quest|sant|anch)['’](?=[^\W\d_]|\s)"
    rf"|(?<=[^\W_]|[{_MARKS}\s])(?:['’](?:s|re|ve|ll|d|m|[dt][ae](?:n|ki)?|n?[ıiuü]n|y[aeıiuü])|n['’]t)(?![\w'’])",
    re.IGNORECASE,
)
_INNER = re.compile(r"[-\u2010\u2011&'’:/.,]")
# Chinese words that jieba cuts: the parts of a foreign name with a dot between them.
_DOTTED = re.compile(f"[{HAN}](?:[·•‧・][{HAN}])+")
# Digits and letters, full-width too: words in any script, but one character per token in data that are written so.
_LETTERS = "A-Za-z\uff21-\uff3a\uff41-\uff5a"
_DIGITS = "0-9\uff10-\uff19"
_SPELLED = re.compile(f"[{_DIGITS}{_LETTERS}]+(?:(?<=[{_DIGITS}])[.．,:：/](?=[{_DIGITS}])[{_DIGITS}]+)*")


def segment(text: str) -> list[tuple[int, int]]:
    """(start, end) of every word of a text, in characters.

    Every character that is not white space is in exactly one word and no word holds white space. Combining marks and
    invisible characters stay with the character before them, an emoji sequence is one word, punctuation is a word.

    Args:
        text: any text, of any length; blank text has no words.

    Raises:
        InputError: if it is not a string or holds a lone surrogate.

    Example:
        >>> text = "Ann's friend met J. Smith-Jones in the U.S."
        >>> [text[start:end] for start, end in segment(text)]
        ['Ann', "'s", 'friend', 'met', 'J.', 'Smith-Jones', 'in', 'the', 'U.S.']
    """
    return _words(text, ())


def sentence_from_text(text: str, spans: Iterable[tuple[int, int, str]] | None = None) -> Sentence:
    """The words of a raw text as a sentence, labelled if spans are given.

    Args:
        text: any text; blank text gives a sentence without words.
        spans: (start, end, label) of every entity, in characters; words break at their edges, and white space at an
            edge is left out. An empty list labels a text without entities.

    Raises:
        InputError: as `segment`.
        SpanError: for a span that is empty, blank, outside the text, without a label, or overlaps another.

    Example:
        >>> sentence_from_text("Ann saw Paris.", [(8, 13, "LOC")]).tags
        ('O', 'O', 'B-LOC', 'O')
    """
    if spans is None:
        places = _words(text, ())
        return Sentence(tuple(text[start:end] for start, end in places), None, text, tuple(places))
    labelled = _trimmed(text, spans)
    places = _words(text, sorted({edge for start, end, _ in labelled for edge in (start, end)}))
    first_at = {start: i for i, (start, _) in enumerate(places)}
    last_at = {end: i for i, (_, end) in enumerate(places)}
    entities = [(first_at[start], last_at[end] + 1, label) for start, end, label in labelled]
    tags = tags_from_spans(entities, len(places))
    return Sentence(tuple(text[start:end] for start, end in places), tags, text, tuple(places))


def regroup(sentence: Sentence) -> Sentence:
    """The sentence with its runs of one-character Han tokens made into words; the same object if there are none.

    Encoders know Chinese by words, but data often has one character per token. Digits and letters that stand so beside
    them become words too. Word spans still count the given tokens, so entities do too. In a labelled
    sentence words break at entity edges, so take the tags off what you mean to score.
    A sentence of raw text stays as it is, and so does one with a Han token of several characters: it is in words.

    Example:
        >>> regroup(Sentence(tuple("他在北京大学读书"))).words
        ('他', '在', '北京大学', '读书')
    """
    tokens = sentence.source
    if isinstance(tokens, str) or sentence.words != tokens or any(map(_several_han, tokens)):
        return sentence
    # A token that is no single character stands as U+0000 here, so that positions in `line` are tokens.
    line = "".join(token if len(token) == 1 else "\0" for token in tokens)
    edges = sorted({edge for first, last, _ in tag_spans(sentence.tags or ()) for edge in (first, last)})
    cuts = set(range(len(tokens) + 1))
    japanese = _is_japanese("".join(tokens))
    _cut_han(line, 0, len(line), edges, cuts, _unicode_cuts if japanese else _chinese_cuts)
    if not japanese:
        _join(_DOTTED, line, 0, len(line), edges, cuts)
    if _han_run.search(line):
        _join(_SPELLED, line, 0, len(line), edges, cuts)
    places = tuple(pairwise(sorted(cuts)))
    if len(places) == len(tokens):
        return sentence
    words = tuple("".join(tokens[start:end]) for start, end in places)
    tags = None if sentence.tags is None else tuple(sentence.tags[start] for start, _ in places)
    return Sentence(words, tags, tokens, places)


def _words(text: str, forced: Sequence[int]) -> list[tuple[int, int]]:
    """The words of `segment`, with a break at every `forced` position."""
    if not isinstance(text, str):
        raise InputError(f"a text is expected, not {type(text).__name__}: give a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the character {error.start} is a lone surrogate ({text[error.start]!r}), which is no text: it was "
            "decoded or cut wrongly; decode the bytes again or replace it"
        ) from None
    cuts = _unicode_cuts(text)
    for line in re.finditer(r"[^\n\r]+", text):
        if not _is_japanese(line[0]):
            _cut_han(text, line.start(), line.end(), forced, cuts, _chinese_cuts)
            _join(_DOTTED, text, line.start(), line.end(), forced, cuts)
    for match in _INNER.finditer(text, 1, len(text) - 1):
        if _is_inside(text[match.start() - 1], match[0], text[match.end()]):
            cuts -= {match.start(), match.end()}
    for rule in (_APOSTROPHE, _JOINED):
        for match in rule.finditer(text):
            cuts.difference_update(range(match.start() + 1, match.end()))
            if rule is _APOSTROPHE:
                cuts.add(match.end() if match["elided"] else match.start())
    for match in re.finditer(r"\S+", text):
        cuts.update(match.span())
    cuts.update(forced)
    words: list[tuple[int, int]] = []
    hidden = False  # nothing but invisible characters in the last word so far
    for start, end in pairwise(sorted(cuts)):
        if text[start].isspace():
            continue
        joins = bool(words) and words[-1][1] == start and start not in forced and (hidden or _is_invisible(text[start]))
        hidden = (hidden or not joins) and all(map(_is_invisible, text[start:end]))
        if joins:
            start = words.pop()[0]
        words.append((start, end))
    return words


def _unicode_cuts(text: str) -> set[int]:
    """The positions where Unicode's word rules and ICU's dictionaries cut a text."""
    breaker = _load_icu()
    if breaker is None:
        kinds = [unicodedata.category(c)[0] in "LMN" and not _unspaced.match(c) for c in text]
        return {0, len(text)} | {i for i, (one, two) in enumerate(pairwise(kinds), 1) if not (one and two)}
    # ICU counts UTF-16 units, but the pieces that it cuts are strings.
    return set(accumulate(map(len, breaker(text, "root")), initial=0))


def _chinese_cuts(run: str) -> set[int]:
    """The positions where jieba cuts a run of Han characters."""
    jieba = _load_jieba()
    if jieba is None:
        return _unicode_cuts(run)
    return set(accumulate(map(len, jieba(simplified(run))), initial=0))


def _cut_han(
    text: str, begin: int, end: int, forced: Sequence[int], cuts: set[int], segmenter: Callable[[str], set[int]]
) -> None:
    """Replace the cuts within the Han runs of text[begin:end] by those of a segmenter, run on each piece between
    forced cuts."""
    for run in _han_run.finditer(text, begin, end):
        cuts.difference_update(range(run.start() + 1, run.end()))
        inner = forced[bisect_right(forced, run.start()) : bisect_left(forced, run.end())]
        for first, last in pairwise((run.start(), *inner, run.end())):
            cuts.update(first + cut for cut in segmenter(text[first:last]) if 0 < cut < last - first)
        cuts.update(inner)


def _join(pattern: re.Pattern[str], text: str, begin: int, end: int, forced: Sequence[int], cuts: set[int]) -> None:
    """Remove the cuts within the matches in text[begin:end], but for the forced ones."""
    for match in pattern.finditer(text, begin, end):
        kept = forced[bisect_right(forced, match.start()) : bisect_left(forced, match.end())]
        cuts.difference_update(set(range(match.start() + 1, match.end())).difference(kept))


def _is_japanese(line: str) -> bool:
    """Whether the Han characters of a line are Japanese: at least a tenth as many kana stand with them.

    A Chinese line may quote a kana or two; a Japanese sentence is a third or more of kana, a headline less.
    """
    kana = len(_kana.findall(line))
    return kana > 0 and 10 * kana >= sum(map(len, _han_run.findall(line)))


def _several_han(token: str) -> bool:
    return len(token) > 1 and len("".join(_han_run.findall(token))) > 1


def _is_inside(before: str, sign: str, after: str) -> bool:
    """Whether a sign between these characters is part of a word: Foto-Wettbewerb, AT&T, 10:30, 1/2, EU:s (Swedish)."""
    if sign in ":/.,":
        return (before.isdigit() and after.isdigit()) or (sign == ":" and before.isupper() and after.islower())
    return all(unicodedata.category(c)[0] in "LMN" and not _unspaced.match(c) for c in (before, after))


def _is_invisible(character: str) -> bool:
    """Whether it has no place of its own: a combining mark, a format or control character."""
    return unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Cc")


def _trimmed(text: str, spans: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The labelled spans in order, without white space at their edges, checked."""
    labelled: list[tuple[int, int, str]] = []
    try:
        ordered = sorted((index(start), index(end), label) for start, end, label in spans)
    except (TypeError, ValueError) as error:
        raise SpanError(f"spans={spans!r:.60}: expected (start, end, label) of each entity ({error})") from error
    for start, end, label in ordered:
        if not 0 <= start < end <= len(text):
            raise SpanError(
                f"the span ({start}, {end}, {label!r}) is empty or outside the text of {len(text)} characters: "
                "give start < end, both counted in characters, end exclusive"
            )
        piece = text[start:end]
        if not piece.strip():
            raise SpanError(f"the span ({start}, {end}, {label!r}) holds white space only: remove it")
        if not label:
            raise SpanError(f"the span ({start}, {end}) of {piece!r} has no label: give its entity type")
        if labelled and start < labelled[-1][1]:
            raise SpanError(
                f"the span ({start}, {end}, {label!r}) overlaps {labelled[-1]}: entities cannot overlap, keep one"
            )
        labelled.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip()), label))
    return labelled


@functools.cache
def _load_icu() -> Callable[[str, str], Iterable[str]] | None:
    try:
        from icu4py.breakers import WordBreaker
    except ImportError as error:
        warnings.warn(
            f"icu4py cannot be imported ({error}): text is cut at letters and digits, and Japanese, Thai, Khmer, Lao "
            "and Burmese character by character; pip install icu4py for words",
            stacklevel=4,
        )
        return None
    return WordBreaker


@functools.cache
def _load_jieba() -> Callable[[str], list[str]] | None:
    try:
        import rjieba
    except ImportError as error:
        warnings.warn(
            f"rjieba cannot be imported ({error}): Chinese is cut by ICU; pip install rjieba for better words",
            stacklevel=4,
        )
        return None
    return rjieba.cut
