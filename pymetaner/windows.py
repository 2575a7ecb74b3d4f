"""Sentences to windows of pieces, windows to padded batches, and per-word values back together.

A word is read by the first of its pieces that is more than a bare word-start mark: the piece that carries its label
in training and whose logits tag it. A sentence longer than the encoder's window is cut into overlapping windows at
word boundaries; each word is *owned* by one of them, the one that shows most of its surroundings, so nothing is
dropped and nothing counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from pymetaner.errors import DataError, SettingError
from pymetaner.script import has_han, other_scripts
from pymetaner.sentence import Sentence, is_text
from pymetaner.settings import Settings

__all__ = ["IGNORE", "Batch", "OtherLabels", "Window", "WordRows", "WordTokenizer", "make_batch", "pack", "pad_hidden"]

IGNORE = -100
_WORD_MARKS = ("▁", "Ġ")
_CACHED_WORDS = 200_000


@dataclass(frozen=True)
class OtherLabels:
    """Labels of the pieces that carry no word's tag, in schemes that label every piece.

    Attributes:
        before: of each special piece in front.
        inside: of every further piece of a word.
        after: of each special piece at the end.
    """

    before: tuple[int, ...]
    inside: int
    after: tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """A stretch of one sentence that fits the encoder.

    Attributes:
        sentence: index of the sentence it is cut from.
        ids: piece ids, special tokens included.
        words: (first, last + 1) of the words that this window owns.
        positions: for each owned word, the place of its labelled piece in `ids`.
        pieces: (first, last + 1) of the owned words' pieces in `ids`.
    """

    sentence: int
    ids: tuple[int, ...]
    words: tuple[int, int]
    positions: tuple[int, ...]
    pieces: tuple[int, int] = field(repr=False)  # follows from the others, and is no part of a run's digest

    def labelled(self, others: OtherLabels | None) -> int:
        """How many pieces `Batch.labels` labels."""
        if others is None:
            return len(self.positions)
        return len(others.before) + self.pieces[1] - self.pieces[0] + len(others.after)


@dataclass(frozen=True)
class Batch:
    """Windows padded to one length.

    Attributes:
        windows: the B windows.
        input_ids: (B, T) int64.
        attention_mask: (B, T) int64, 1 on pieces, 0 on padding.
    """

    windows: tuple[Window, ...]
    input_ids: Tensor
    attention_mask: Tensor

    def labels(self, tag_ids: Sequence[Sequence[int]], others: OtherLabels | None = None) -> Tensor:
        """(B, T) int64 label of every labelled piece, IGNORE elsewhere.

        Args:
            tag_ids: of the words of each sentence.
            others: labels of all other pieces but those of words that a window does not own; None for none.
        """
        labels = np.full(tuple(self.input_ids.shape), IGNORE, dtype=np.int64)  # on the host: one transfer
        for row, window in zip(labels, self.windows, strict=True):
            if others is not None:
                end = len(window.ids)
                row[: len(others.before)] = others.before
                row[slice(*window.pieces)] = others.inside
                row[end - len(others.after) : end] = others.after
            row[list(window.positions)] = tag_ids[window.sentence][slice(*window.words)]
        return torch.from_numpy(labels).to(self.input_ids.device)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(self.windows, self.input_ids.to(device), self.attention_mask.to(device))


class WordTokenizer:
    """A Hugging Face tokenizer seen word by word.

    Args:
        tokenizer: any tokenizer, fast or slow.
        window: the most pieces of a window, special tokens included.
        overlap: pieces shared by neighbouring windows of a long sentence.
        other_tags: ids of the tags of special pieces in front, of further pieces of a word, and of special pieces at
            the end, where the label scheme has them.
        any_script: read a Chinese word in simplified or in traditional characters, whichever has fewer unknown pieces,
            or fewer pieces if those are as many; as it stands on a tie. A vocabulary may know one script far better.

    Attributes:
        others: the same for each piece; None where only words are labelled.

    Raises:
        SettingError: if the window leaves no room for words or the overlap fills it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        window: int,
        overlap: int,
        other_tags: tuple[int, int, int] | None = None,
        *,
        any_script: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.any_script = any_script
        self.overlap = overlap
        with_special = tokenizer("a")["input_ids"]
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        start = next(
            (i for i in range(len(with_special) - len(bare) + 1) if with_special[i : i + len(bare)] == bare), 0
        )
        self.prefix: tuple[int, ...] = tuple(with_special[:start])
        self.suffix: tuple[int, ...] = tuple(with_special[start + len(bare) :])
        self.others: OtherLabels | None = None
        if other_tags is not None:
            before, inside, after = other_tags
            self.others = OtherLabels((before,) * len(self.prefix), inside, (after,) * len(self.suffix))
        self.room = window - len(self.prefix) - len(self.suffix)
        if self.room < 8 or not 0 <= overlap <= self.room // 2:
            raise SettingError(
                f"a window of {window} pieces with an overlap of {overlap}: expected a window of at least "
                f"{8 + window - self.room} and an overlap of at most half of it"
            )
        # Byte-level vocabularies mark a word start by a space of their own, which a lone word lacks.
        self._space = " " if self._marked(" a") and not self._marked("a") else ""
        self._pieces: dict[str, tuple[tuple[int, ...], int]] = {}

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, settings: Settings, other_tags: tuple[int, int, int] | None
    ) -> WordTokenizer:
        """One that reads as a model's settings say. Errors as for the class."""
        any_script = settings.script == "known"
        return cls(tokenizer, settings.window, settings.overlap, other_tags, any_script=any_script)

    def _marked(self, text: str) -> bool:
        """Whether the first piece of a text starts with a word-start mark."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return str(self.tokenizer.convert_ids_to_tokens(ids[:1])[0]).startswith(_WORD_MARKS)

    def _learn(self, words: Sequence[str]) -> dict[str, tuple[tuple[int, ...], int]]:
        """(pieces, place of the labelled one) of these words and others; new words are tokenised in one call."""
        # Threads share the cache: words are only ever added to it, and a full one is left to those who still read it.
        known = self._pieces
        unknown = list(dict.fromkeys(word for word in words if word not in known))
        if not unknown:
            return known
        if len(known) > _CACHED_WORDS:
            known = self._pieces = {word: known[word] for word in words if word in known}
        if not all(map(is_text, unknown)):
            wrong = next(word for word in unknown if not is_text(word))
            raise DataError(f"the word {wrong!r} has a lone surrogate, which is not text: decode the data properly")
        variants = [[word, *(other_scripts(word) if self.any_script and has_han(word) else ())] for word in unknown]
        written = [self._space + variant for several in variants for variant in several]
        encoded = iter(self.tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"])
        for word, several in zip(unknown, variants, strict=True):
            known[word] = min((self._read(next(encoded)) for _ in several), key=self._strangeness)  # the first on a tie
        return known

    def _read(self, ids: Sequence[int]) -> tuple[tuple[int, ...], int]:
        """(pieces, place of the labelled one) of a word."""
        # A word that normalisation swallows (a lone zero-width mark) is still a word: an unknown one.
        nothing = self.tokenizer.unk_token_id
        if nothing is None:
            nothing = (self.suffix or self.prefix or (0,))[0]
        # Only the first piece of a word is labelled, so what cannot fit the window is context alone.
        pieces = tuple(ids[: self.room]) or (nothing,)
        bare = len(pieces) > 1 and self.tokenizer.convert_ids_to_tokens([pieces[0]])[0] in _WORD_MARKS
        return pieces, int(bare)

    def _strangeness(self, read: tuple[tuple[int, ...], int]) -> tuple[int, int]:
        """(unknown pieces, pieces) of a word, without a bare word-start mark."""
        pieces, first = read
        return pieces.count(self.tokenizer.unk_token_id), len(pieces) - first

    def windows(self, sentences: Sequence[Sentence]) -> list[Window]:
        """The windows of some sentences, in order; a sentence without words has none."""
        known = self._learn([word for sentence in sentences for word in sentence.words])
        return [
            window
            for i, sentence in enumerate(sentences)
            for window in self._cut(i, [known[word] for word in sentence.words])
        ]

    def _cut(self, index: int, words: Sequence[tuple[tuple[int, ...], int]]) -> Iterator[Window]:
        begin = [0]
        for pieces, _ in words:
            begin.append(begin[-1] + len(pieces))
        stretches = self._stretches(begin)
        owned_from = 0
        for number, (first, last) in enumerate(stretches):
            owned_to = last
            if number + 1 < len(stretches):
                # Words in the overlap belong to the window whose edge is farther away: split in the middle.
                following = stretches[number + 1][0]
                middle = (begin[following] + begin[last]) / 2
                owned_to = following
                while owned_to < last and begin[owned_to] < middle:
                    owned_to += 1
            if owned_to == owned_from:
                continue  # its neighbours show more around each of its words
            offset = len(self.prefix) - begin[first]
            ids = [piece for pieces, _ in words[first:last] for piece in pieces]
            owned = range(owned_from, owned_to)
            yield Window(
                sentence=index,
                ids=(*self.prefix, *ids, *self.suffix),
                words=(owned_from, owned_to),
                positions=tuple(begin[w] + words[w][1] + offset for w in owned),
                pieces=(begin[owned_from] + offset, begin[owned_to] + offset),
            )
            owned_from = owned_to

    def _stretches(self, begin: Sequence[int]) -> list[tuple[int, int]]:
        """(first, last + 1) of the words that each window shows; `begin` has the first piece of each word."""
        count = len(begin) - 1
        stretches: list[tuple[int, int]] = []
        first = last = 0
        while last < count:
            while last < count and begin[last + 1] - begin[first] <= self.room:
                last += 1
            stretches.append((first, last))
            following = last
            while following - 1 > first and begin[last] - begin[following - 1] <= self.overlap:
                following -= 1
            first = following
            while last < count and begin[last + 1] - begin[first] > self.room:
                first += 1  # the next word is too long to keep all of the overlap
        return stretches


def make_batch(windows: Sequence[Window], pad_id: int) -> Batch:
    """The windows as one padded batch on the CPU."""
    length = max(len(window.ids) for window in windows)
    ids = np.full((len(windows), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(windows), length), dtype=np.int64)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = window.ids
        mask[row, : len(window.ids)] = 1
    return Batch(tuple(windows), torch.from_numpy(ids), torch.from_numpy(mask))


def pack(lengths: Sequence[int], most: int, *, pieces: int = 1 << 62, overhead: int = 16) -> list[list[int]]:
    """Groups of indices, each to be padded to its longest: those that make padding and passes cheapest together.

    Args:
        lengths: pieces of each window.
        most: the most windows in a group.
        pieces: the most pieces in a group, padding included; a longer window is a group of its own.
        overhead: what a pass costs over its pieces, in pieces: few on a CPU, thousands on a GPU.
    """
    order = np.argsort(lengths, kind="stable")
    ordered = np.asarray(lengths, dtype=np.int64)[order]
    # best[j]: the least cost of the first j windows; groups of sorted windows are always as good as any.
    best = np.zeros(len(order) + 1)
    begin = np.zeros(len(order) + 1, dtype=np.int64)
    for j in range(1, len(order) + 1):
        fitting = max(1, min(most, pieces // max(1, int(ordered[j - 1])), j))
        first = np.arange(j - fitting, j)
        costs = best[first] + (j - first) * ordered[j - 1] + overhead
        cheapest = int(costs.argmin())
        best[j], begin[j] = costs[cheapest], first[cheapest]
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(order[begin[end] : end].tolist())
        end = int(begin[end])
    return groups[::-1]


class WordRows:
    """A row for each word, its logits say, put together from the windows of some sentences.

    Args:
        lengths: how many words each sentence has.
        width: C, numbers per word.
        dtype: float64 or float32.
    """

    def __init__(self, lengths: Sequence[int], width: int, dtype: type[np.floating[Any]]) -> None:
        self.rows: list[NDArray[np.floating[Any]]] = [np.zeros((length, width), dtype) for length in lengths]
        self._dtype = dtype

    def add(self, windows: Sequence[Window], values: Tensor) -> None:
        """Take in the rows (B, T, C) of B padded windows."""
        numbers = values.to("cpu", torch.float64 if self._dtype == np.float64 else torch.float32).numpy()
        for window, row in zip(windows, numbers, strict=True):
            first, last = window.words
            self.rows[window.sentence][first:last] = row[list(window.positions)]


def pad_hidden(hidden: Sequence[Tensor | None]) -> Tensor | None:
    """(B, T, d) of B tensors (T, d), padded with zeros; None if one is not known."""
    known = [tensor for tensor in hidden if tensor is not None]
    return pad_sequence(known, batch_first=True) if len(known) == len(hidden) else None
