"""What tagging gives back: the entities of a sentence, before and after adapting, and what was learned from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pymetaner.sentence import Entity, Sentence

__all__ = ["Profile", "Result", "Support"]


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
class Profile:
    """What a call of `pymetaner.adapt` did, all sentences together.

    Attributes:
        engine: ``"batched"``, ``"fine-tuned"``, ``"reference"``, or ``"none"`` if nothing was adapted.
        precision: of products.
        sentences: how many were tagged.
        seconds: spent on reading (tagging without adapting, sentence vectors), searching and adapting.
        supports: distinct supports that batches asked for.
        cached: how many of them needed no pass, because the cache knew their factors.
        cache_bytes: what the cache holds after the call.
        batches: passes over queries.
        padding: share of padding in these passes, 0 to 1.
    """

    engine: str
    precision: str
    sentences: int
    seconds: dict[str, float]
    supports: int
    cached: int
    cache_bytes: int
    batches: int
    padding: float

    @property
    def hit_rate(self) -> float:
        """Share of supports found in the cache, 0 to 1."""
        return self.cached / self.supports if self.supports else 0.0

    def __str__(self) -> str:
        seconds = ", ".join(f"{name} {spent:.2f} s" for name, spent in self.seconds.items())
        return (
            f"{self.sentences} sentences, engine {self.engine}, {self.precision}: {seconds}; {self.batches} batches, "
            f"{self.padding:.1%} padding; {self.supports} supports, {self.hit_rate:.0%} from the cache of "
            f"{self.cache_bytes / 1e6:.1f} MB"
        )


@dataclass(frozen=True)
class Result:
    """The entities of one sentence. Prints readably in a terminal and in a notebook.

    Attributes:
        sentence: the words that were tagged and their place in what was given.
        entities: the entities found, adapted if the model was.
        base_entities: those that the model finds without adapting.
        supports: the labelled sentences that it adapted on, most similar first; empty if it did not adapt. With
            ``k="all"`` the three most similar of them.
        profile: what the call that gave this result did, for all of its sentences.
    """

    sentence: Sentence
    entities: tuple[Entity, ...]
    base_entities: tuple[Entity, ...]
    supports: tuple[Support, ...] = ()
    profile: Profile | None = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str:
        """The text that was given, or its tokens joined by a space."""
        return self.sentence.text

    @property
    def changed(self) -> bool:
        """Whether adapting changed any entity (its place or its type, not only its score)."""
        return _places(self.entities) != _places(self.base_entities)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data that `json.dumps` takes: the JSON that ``pymetaner adapt --json`` prints."""
        from pymetaner.render import as_dict

        return as_dict(self)

    def __str__(self) -> str:
        from pymetaner.render import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from pymetaner.render import as_html

        return as_html(self)


def _places(entities: tuple[Entity, ...]) -> list[tuple[int, int, str]]:
    return [(entity.start, entity.end, entity.label) for entity in entities]
