"""The label scheme: what each logit of a token head stands for, and how tags become ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pymetaner.errors import LabelMismatchError, LabelSchemeError
from pymetaner.tagging import Notation, from_iob2, to_iob2

__all__ = ["LabelScheme"]


@dataclass(frozen=True)
class LabelScheme:
    """The tags of a token head, one a logit, in the notation of the checkpoint.

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
    def from_types(cls, types: Iterable[str]) -> LabelScheme:
        """The IOB2 scheme of some entity types, ``"O"`` first."""
        names = list(dict.fromkeys(types))
        if not names or any(not name or name == "O" for name in names):
            raise LabelSchemeError(f"entity types {names!r}: expected one or more non-empty names other than 'O'")
        return cls(("O", *(f"{kind}-{name}" for name in names for kind in "BI")), "IOB2")

    @classmethod
    def from_tags(cls, tags: Sequence[str]) -> LabelScheme:
        """The scheme of a checkpoint's ``id2label``, its notation read off the tags.

        Raises:
            LabelSchemeError: if a tag stands twice, no tag is ``"O"``, or the names are only numbers.
        """
        names = tuple(tags)
        if len(set(names)) != len(names):
            raise LabelSchemeError(f"the labels {names} name a tag twice: give each logit its own with `labels=`")
        if "O" not in names:
            raise LabelSchemeError(
                f"no label of {names} is 'O', so they are not entity tags: "
                "give the tag of each logit with `labels=[...]`"
            )
        prefixes = {tag[0] for tag in names if tag != "O" and tag[1:2] == "-" and tag[2:]}
        plain = [tag for tag in names if tag != "O" and not (tag[1:2] == "-" and tag[0] in "BIESLU")]
        inside = {tag[2:] for tag in names if tag.startswith("I-")}
        begins = {tag[2:] for tag in names if tag.startswith("B-")}
        notation: Notation
        if plain:
            notation = "IO"
        elif {"L", "U"} & prefixes:
            notation = "BILOU"
        elif {"E", "S"} & prefixes:
            notation = "BIOES"
        elif not begins:
            notation = "IO"
        else:
            # An I-X without its B-X can only come from IOB1, where B- stands between two touching entities.
            notation = "IOB1" if inside - begins else "IOB2"
        return cls(names, notation)

    @cached_property
    def _plain_io(self) -> bool:
        """Whether entity tags are bare type names, without any prefix."""
        return self.notation == "IO" and not any(tag.startswith("I-") for tag in self.tags)

    @cached_property
    def types(self) -> frozenset[str]:
        """The entity types."""
        return frozenset(tag if self._plain_io else tag[2:] for tag in self.tags if tag != "O")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {tag: i for i, tag in enumerate(self.tags)}

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
        ids = []
        for tag in from_iob2(tags, self.notation):
            name = tag[2:] if self._plain_io and tag != "O" else tag
            # A head that lacks a rare tag of its notation (a B- never seen in IOB1 data) takes the I- of the type.
            ids.append(self._ids[name] if name in self._ids else self._ids["I-" + name[2:]])
        return ids

    def decode(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The IOB2 tags of some ids; a stray ``I-`` opens an entity."""
        names = [self.tags[i] for i in ids]
        if self._plain_io:
            names = [name if name == "O" else f"I-{name}" for name in names]
        return to_iob2(names, self.notation)[0]

    @cached_property
    def transitions(self) -> NDArray[np.bool_]:
        """(C + 1, C) whether tag j may follow tag i; row C is the start of the sentence. All true unless IOB2."""
        count = len(self.tags)
        allowed = np.ones((count + 1, count), dtype=np.bool_)
        if self.notation == "IOB2":
            for j, tag in enumerate(self.tags):
                if tag.startswith("I-"):
                    allowed[:, j] = False
                    for before in (tag, "B-" + tag[2:]):
                        allowed[self._ids[before], j] = True
        return allowed
