"""Token-level nearest neighbours: labelled words of a memory vote on words whose hidden states are like theirs.

With the cosines s_i of a word's k nearest labelled words, p(tag) is proportional to the sum of exp(s_i / T) over those
that carry the tag; it is mixed with the model's own probabilities (Khandelwal et al. 2020, for language models). The
hidden states are those of the last layer, before the head, of the model as it stands: what decides about tags.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pymetaner.engine import computing_in
from pymetaner.forks import PerObject
from pymetaner.ops import CosineBank
from pymetaner.sentence import Sentence

if TYPE_CHECKING:
    from pymetaner.memory import Memory
    from pymetaner.model import MetaNER

__all__ = ["TokenBank", "bank_of", "fused"]

NEIGHBOURS, TEMPERATURE = 8, 0.1
"""Picked on 100 Spanish sentences among 8 and 32, 0.02 and 0.1; benchmarks/results/LOG.md."""
_READ_AT_ONCE = 512
_FOUND = 2**22  # neighbours of words that are held at a time


class TokenBank:
    """The words of a memory's sentences: hidden state, tag and sentence of each.

    It follows the memory: what was added is read at the next use, what was removed is dropped, and when the model's
    weights have changed everything is read again.

    Args:
        model: makes the hidden states.
        memory: the labelled sentences.
    """

    def __init__(self, model: MetaNER, memory: Memory) -> None:
        self.model = weakref.ref(model)
        self.memory = weakref.ref(memory)
        self._lock = threading.Lock()
        self._state: object = None
        self._bank = CosineBank(model.dim)
        self._tags = np.empty(0, np.int64)
        self._ids = np.empty(0, np.int64)  # of the sentence of each word

    def __len__(self) -> int:
        return len(self._bank)

    def probabilities(
        self,
        hidden: Sequence[NDArray[np.floating[Any]]],
        exclude: Sequence[frozenset[int]] | None = None,
        *,
        batch_size: int = 32,
    ) -> list[NDArray[np.float64]]:
        """(W, C) what the nearest labelled words say of each word; every row adds up to 1, or is 0 without any.

        Args:
            hidden: (W, d) last hidden states of the words of each sentence.
            exclude: for each sentence the ids of the memory that may not vote.
            batch_size: the most windows in a batch, where sentences of the memory have yet to be read.
        """
        with self._lock:
            self._update(batch_size)
            bank, tags, ids = self._bank.snapshot(), self._tags, self._ids
        model = self.model()
        assert model is not None  # it is what the hidden states came from
        left_out = [frozenset[int]()] * len(hidden) if exclude is None else list(exclude)
        classes = len(model.labels.tags)
        if not len(bank):
            return [np.zeros((len(rows), classes)) for rows in hidden]
        rows = np.concatenate([np.asarray(r, np.float32) for r in hidden] or [np.empty((0, bank.dim), np.float32)])
        of_sentence = np.repeat(np.arange(len(hidden)), [len(words) for words in hidden])
        spare = np.array([np.isin(ids, list(out)).sum() if out else 0 for out in left_out], np.int64)[of_sentence]
        shares = np.zeros((len(rows), classes))
        for at in _searches(spare):
            scores, found = bank.search(rows[at], min(NEIGHBOURS + int(spare[at].max()), len(bank)))
            votes = np.exp((scores.astype(np.float64) - 1.0) / TEMPERATURE)
            if spare[at].any():
                banned = np.zeros(found.shape, bool)
                for i in np.unique(of_sentence[at]):
                    own = of_sentence[at] == i
                    banned[own] = np.isin(ids[found[own]], list(left_out[i]))
                kept = np.cumsum(~banned, axis=1)
                votes = np.where(banned | (kept > NEIGHBOURS), 0.0, votes)
            np.add.at(shares, (at[:, None], tags[found]), votes)
        totals = shares.sum(1, keepdims=True)
        return list(_split(np.divide(shares, totals, out=shares, where=totals > 0), hidden))

    def _update(self, batch_size: int) -> None:
        model, memory = self.model(), self.memory()
        assert model is not None and memory is not None
        reading, now = memory.version()
        state = (model.state, reading)
        if state != self._state:
            self._bank, self._tags, self._ids = CosineBank(model.dim), self._tags[:0], self._ids[:0]
            self._state = state
        gone = ~np.isin(self._ids, now)
        if gone.any():
            stay = np.flatnonzero(~gone)
            self._state = None  # until all three have changed: an interrupted call leaves nothing half done
            self._bank.keep(stay)
            self._tags, self._ids = self._tags[stay], self._ids[stay]
            self._state = state
        known = np.unique(self._ids)
        if len(known) == len(now):
            return
        fresh = set(now[~np.isin(now, known)].tolist())
        for group in _groups((i, s) for i, s in memory if i in fresh):
            blind = [sentence.with_tags(None) for _, sentence in group]
            # Whatever precision is asked for: later calls, of another one, find the same words.
            with computing_in("fp32", model.network):
                readings = model.read(blind, batch_size=batch_size, keep_hidden=True)
            hidden = np.concatenate([reading.hidden for reading in readings])
            tags = [tag for _, sentence in group for tag in model.labels.encode(sentence.tags or ())]
            ids = [i for i, sentence in group for _ in sentence.words]
            self._state = None
            self._bank.append(hidden)
            self._tags = np.append(self._tags, np.array(tags, np.int64))
            self._ids = np.append(self._ids, np.array(ids, np.int64))
            self._state = state


def _searches(spare: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The rows in groups that are searched together: those that need about as many neighbours, in bounded memory.

    Args:
        spare: (n,) how many rows of the bank each may not find, for which it has to find as many more.
    """
    sizes = np.ceil(np.log2(spare + 1)).astype(np.int64)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        together = max(1, _FOUND // (NEIGHBOURS + int(spare[rows].max())))
        for start in range(0, len(rows), together):
            yield rows[start : start + together]


def fused(
    logits: Sequence[NDArray[np.floating[Any]]], votes: Sequence[NDArray[np.float64]], weight: float
) -> list[NDArray[np.float64]]:
    """(W, C) log-probabilities: (1 - weight) of the model's own and weight of the votes; the own where nobody voted."""
    mixed = []
    for rows, shares in zip(logits, votes, strict=True):
        own = rows.astype(np.float64)
        own = np.exp(own - own.max(1, keepdims=True, initial=-np.inf))
        own /= own.sum(1, keepdims=True)
        share = np.where(shares.sum(1, keepdims=True) > 0, weight, 0.0)
        mixed.append(np.log(np.maximum((1 - share) * own + share * shares, 1e-30)))
    return mixed


_banks: PerObject[Memory, TokenBank] = PerObject()


def bank_of(model: MetaNER, memory: Memory) -> TokenBank:
    """The bank of a memory's words, kept as long as the memory is."""
    with _banks.lock:
        bank = _banks.kept.get(memory)
        if bank is None or bank.model() is not model:
            bank = _banks.kept[memory] = TokenBank(model, memory)
        return bank


def _groups(items: Iterator[tuple[int, Sentence]]) -> Iterator[list[tuple[int, Sentence]]]:
    group: list[tuple[int, Sentence]] = []
    for item in items:
        group.append(item)
        if len(group) == _READ_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _split(rows: NDArray[Any], like: Sequence[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    at = 0
    for part in like:
        yield rows[at : at + len(part)]
        at += len(part)
