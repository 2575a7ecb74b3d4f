"""What tagging gives back: the entities of a sentence, before and after adapting, and what was learned from."""

from __future__ import annotations

from dataclasses import dataclass

from pymetaner.sentence import Entity, Sentence

__all__ = ["Result", "Support"]


@dataclass(frozen=True)
class Support:
    """A labelled sentence that was retrieved from the memory.

    Attributes:
        sentence: the sentence with its labels.
        similarity: cosine of its vector and the query's, -1 to 1.
    """

    sentence: Sentence
    similarity: float

    @property
    def text(self) -> str:
        """The sentence as text."""
        return self.sentence.text

    @property
    def entities(self) -> tuple[Entity, ...]:
        """Its labelled entities."""
        return self.sentence.entities


@dataclass(frozen=True)
class Result:
    """The entities of one sentence. Prints readably in a terminal and in a notebook.

    Attributes:
        sentence: the words that were tagged and their place in what was given.
        entities: the entities found, adapted if the model was.
        base_entities: those that the model finds without adapting.
        supports: the labelled sentences that it adapted on, most similar first; empty if it did not adapt.
    """

    sentence: Sentence
    entities: tuple[Entity, ...]
    base_entities: tuple[Entity, ...]
    supports: tuple[Support, ...] = ()

    @property
    def text(self) -> str:
        """The text that was given, or its tokens joined by a space."""
        return self.sentence.text

    @property
    def changed(self) -> bool:
        """Whether adapting changed any entity (its place or its type, not only its score)."""
        return _places(self.entities) != _places(self.base_entities)

    def __str__(self) -> str:
        from pymetaner.render import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from pymetaner.render import as_html

        return as_html(self)


def _places(entities: tuple[Entity, ...]) -> list[tuple[int, int, str]]:
    return [(entity.start, entity.end, entity.label) for entity in entities]
