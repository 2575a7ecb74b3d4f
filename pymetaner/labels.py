"""The label scheme: what each logit of a token head stands for, and how tags become ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pymetaner.errors import LabelMismatchError, LabelSchemeError
from pymetaner.tagging import Notation, from_iob2, split_tags, to_iob2

__all__ = ["LabelScheme"]

_OTHERS = ("X", "[CLS]", "[SEP]")  # further pieces of a word, the special piece in front, the one at the end


@dataclass(frozen=True)
class LabelScheme:
    """The tags of a token head, one per logit, in the notation of the checkpoint.

    Everywhere else in the package tags are IOB2; this class is the only place that knows how a head writes them.

    Attributes:
        tags: the tag of each logit, e.g. ``("O", "B-PER", "I-PER")``.
        notation: ``"IOB2"``, ``"IOB1"``, ``"BIOES"``, ``"BILOU"`` or ``"IO"``.

    Example:
        >>> scheme = LabelScheme.from_types(["PER", "LOC"])
        >>> scheme.encode(("B-PER", "O"))
        [1, 0]
        >>> sorted(scheme.types)
        ['LOC', 'PER']
    """

    tags: tuple[str, ...]
    notation: Notation

    @classmethod
    def from_types(cls, types: Iterable[str], *, label_all_pieces: bool = False) -> LabelScheme:
        """The IOB2 scheme of some entity types, ``"O"`` first.

        Args:
            types: the entity types.
            label_all_pieces: every piece carries a label, as in the official code of Wu et al. (2020): beside the first
                piece of each word, further ones ``"X"`` and the special ones ``"[CLS]"`` and ``"[SEP]"``, last in the
                scheme. No word is ever tagged with these.

        Raises:
            LabelSchemeError: if they are no names, or one is ``O``.
        """
        names = _names(types)
        others = _OTHERS if label_all_pieces else ()
        return cls(("O", *(f"{kind}-{name}" for name in names for kind in "BI"), *others), "IOB2")

    def with_types(self, types: Iterable[str]) -> LabelScheme:
        """The scheme with the tags of further entity types, in its own notation, behind those it has.

        Example:
            >>> LabelScheme.from_types(["PER"]).with_types(["LOC"]).tags
            ('O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC')

        Raises:
            LabelSchemeError: if they are no names, one is ``O``, or would be read as a tag of another type.
        """
        names = _names(types)
        of_type: dict[str, list[str]] = {}
        for tag, (letter, name) in zip(self.tags, self._parts, strict=True):
            if letter != "O":
                of_type.setdefault(name, []).append(tag)
        known, patterns = max(of_type.items(), key=lambda item: len(item[1]))
        added = [
            tag.removesuffix(known) + name if tag.endswith(known) else name + tag.removeprefix(known)
            for name in names
            if name not in of_type
            for tag in patterns
        ]
        extended = LabelScheme((*self.tags, *added), self.notation)
        as_read = LabelScheme.from_tags(extended.tags) if self == LabelScheme.from_tags(self.tags) else extended
        if not extended.types == as_read.types == self.types.union(names):
            raise LabelSchemeError(
                f"beside {', '.join(self.tags)}, the tags {', '.join(added)} would be read as those of other types: "
                "give the new types other names"
            )
        return extended

    @classmethod
    def from_tags(cls, tags: Sequence[str]) -> LabelScheme:
        """The scheme of a checkpoint's ``id2label``, its notation read off the tags.

        Letters may be lower-case and the separator ``_``, as in `pymetaner.tagging`. Beside tags with letters, other
        names (``"X"``, ``"[CLS]"``) stand for no entity; where all names are bare they are entity types.

        Raises:
            LabelSchemeError: if a tag stands twice, no tag is ``"O"``, or letters have no type.
        """
        is_list = isinstance(tags, Iterable) and not isinstance(tags, str)
        names = tuple(tags) if is_list else ()
        if not is_list or not all(isinstance(name, str) for name in names):
            raise LabelSchemeError(f"the labels {tags!r}: expected the tag of each logit, a string, in a list")
        if len(set(names)) != len(names):
            raise LabelSchemeError(f"the labels {names} name a tag twice: give each logit its own with `labels=`")
        bare = set(names) - {"O"}
        if "O" not in names or bare <= set("BIESLUMW"):
            what = "no label is 'O'" if "O" not in names else "no label has an entity type"
            raise LabelSchemeError(
                f"the labels {names} are not entity tags ({what}): give the tag of each logit, e.g. "
                "`labels=['O', 'B-PER', 'I-PER']`, to `MetaNER.from_pretrained`"
            )
        parts = [part for part in split_tags(bare).values() if part]
        letters = {letter for letter, _ in parts}
        if letters & set("ES") and letters & set("LU"):
            raise LabelSchemeError(f"the labels {names} mix E-/S- (BIOES) with L-/U- (BILOU): expected one notation")
        types = {letter: {name for mark, name in parts if mark == letter} for letter in "BI"}
        notation: Notation
        if not letters & set("BI") and len(parts) < len(bare):
            notation = "IO"
        elif letters & set("LU"):
            notation = "BILOU"
        elif letters & set("ES"):
            notation = "BIOES"
        elif "B" not in letters:
            notation = "IO"
        else:
            # An I-X without its B-X can only come from IOB1, where B- stands between two touching entities.
            notation = "IOB1" if types["I"] - types["B"] else "IOB2"
        return cls(names, notation)

    @cached_property
    def _parts(self) -> tuple[tuple[str, str], ...]:
        """(letter, type) of each tag."""
        split = split_tags(self.tags)
        if self.notation == "IO" and not any(part and part[0] == "I" for part in split.values()):
            return tuple(("O", "") if tag == "O" else ("I", tag) for tag in self.tags)
        return tuple(split[tag] or ("O", "") for tag in self.tags)

    @cached_property
    def types(self) -> frozenset[str]:
        """The entity types."""
        return frozenset(name for letter, name in self._parts if letter != "O")

    @cached_property
    def other_tags(self) -> tuple[int, int, int] | None:
        """The ids of ``"[CLS]"``, ``"X"`` and ``"[SEP]"`` if the scheme labels every piece, else None."""
        if not set(_OTHERS) <= set(self.tags):
            return None
        inside, before, after = map(self.tags.index, _OTHERS)
        return before, inside, after

    @cached_property
    def outside(self) -> tuple[int, ...]:
        """The ids of all tags that stand for no entity."""
        return tuple(i for i, (letter, _) in enumerate(self._parts) if letter == "O")

    @cached_property
    def _ids(self) -> dict[tuple[str, str], int]:
        return {part: i for i, part in enumerate(self._parts)} | {("O", ""): self.tags.index("O")}

    def check_logits(self, count: int) -> None:
        """Raise LabelSchemeError unless a head gives so many logits as there are tags."""
        if len(self.tags) != count:
            raise LabelSchemeError(f"{len(self.tags)} labels for a head of {count} logits: give one per logit")

    def check(self, tags: Iterable[str]) -> None:
        """Raise LabelMismatchError if IOB2 tags name a type that is not in the scheme."""
        unknown = sorted({tag[2:] for tag in tags if tag != "O"} - self.types)
        if unknown:
            raise LabelMismatchError(
                f"the entity types {unknown} are not in the model's label scheme {sorted(self.types)}: "
                "rename or drop them, or train a model that has them"
            )

    def encode(self, tags: Sequence[str]) -> list[int]:
        """The id of each IOB2 tag, written as the head writes it.

        Raises:
            LabelMismatchError: if a type is not in the scheme.
        """
        self.check(tags)
        return [self._id(tag[0], tag[2:]) for tag in from_iob2(tags, self.notation)]

    def _id(self, letter: str, name: str) -> int:
        # A head that lacks a rare tag of its notation (a B- never seen in IOB1 data) takes another of the type.
        return next(self._ids[mark, name] for mark in (letter, *"IBSUEL") if (mark, name) in self._ids)

    def decode(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The IOB2 tags of some ids; a stray ``I-`` opens an entity."""
        parts = (self._parts[i] for i in ids)
        return to_iob2(["O" if letter == "O" else f"{letter}-{name}" for letter, name in parts], self.notation)[0]

    @cached_property
    def transitions(self) -> NDArray[np.bool_]:
        """(C + 1, C) whether tag j may follow tag i; row C is the start of the sentence. All true unless IOB2."""
        count = len(self.tags)
        allowed = np.ones((count + 1, count), dtype=np.bool_)
        if self.notation == "IOB2":
            for j, (letter, name) in enumerate(self._parts):
                if letter == "I":
                    allowed[:, j] = False
                    for before in "BI":
                        allowed[self._ids[before, name], j] = True
        return allowed


def _names(types: Iterable[str]) -> list[str]:
    """Distinct names of entity types, one or more."""
    names = [] if isinstance(types, str) or not isinstance(types, Iterable) else list(dict.fromkeys(types))
    if not names or any(not isinstance(name, str) or not name or name == "O" for name in names):
        raise LabelSchemeError(f"entity types {types!r}: expected one or more names other than 'O', in a list")
    return names
