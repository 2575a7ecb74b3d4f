"""The supports of many tasks: cut into windows once, however many tasks share them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence
from pymetaner.windows import Window

__all__ = ["Key", "Row", "Supports", "key_of", "windows_of"]

Key = tuple[tuple[str, ...], tuple[str, ...]]  # of a support: its words and tags
Row = tuple[Key, int]  # a support and the number of its window


class Supports:
    """Windows and tags of distinct supports; those with the same words and tags are one.

    Args:
        model: whose pieces and tag numbers they are given in.
    """

    def __init__(self, model: MetaNER) -> None:
        self._model = model
        self._windows: dict[Key, list[Window]] = {}
        self._tag_ids: dict[Key, list[int]] = {}

    def add(self, supports: Iterable[Sentence]) -> None:
        """Takes in those that are not known yet."""
        new = {key_of(support): support for support in supports}
        new = {key: support for key, support in new.items() if key not in self._windows}
        for (key, support), windows in zip(new.items(), windows_of(self._model, list(new.values())), strict=True):
            self._windows[key] = windows
            self._tag_ids[key] = self._model.labels.encode(support.tags or ())

    def pieces(self, key: Key) -> int:
        """How many pieces the windows of a support have."""
        return sum(len(window.ids) for window in self._windows[key])

    def rows(self, keys: Iterable[Key]) -> list[Row]:
        """The windows of some supports."""
        return [(key, i) for key in keys for i in range(len(self._windows[key]))]

    def window(self, row: Row) -> Window:
        """A window itself."""
        key, i = row
        return self._windows[key][i]

    def tag_ids(self, row: Row) -> list[int]:
        """The tags of the words of the support that a window is of."""
        return self._tag_ids[row[0]]


def key_of(support: Sentence) -> Key:
    """What a support is known by."""
    return support.words, support.tags or ()


def windows_of(model: MetaNER, sentences: Sequence[Sentence]) -> list[list[Window]]:
    """The windows of each sentence."""
    groups: list[list[Window]] = [[] for _ in sentences]
    for window in model.words.windows(sentences):
        groups[window.sentence].append(window)
    return groups
