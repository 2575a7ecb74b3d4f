"""Vectors of what a model learned from, which tell sentences of that kind from others, of a new language, say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pymetaner.errors import ModelFileError
from pymetaner.ops import cosine_topk
from pymetaner.sampling import spread
from pymetaner.sentence import Sentence

if TYPE_CHECKING:
    from pymetaner.model import MetaNER

__all__ = ["PROBE", "Source"]

_MOST = 1000  # sentences that stand for all: 300 tell languages apart less well (benchmarks/results/LOG.md)
_TO_ONE = 25  # of them to one sentence that is judged: the more there are of its own kind, the nearer is the nearest
_FEWEST = 10  # sentences that can be judged
PROBE = Sentence(("Zürich", "東京", "Δ", "naïve"))  # what an encoder makes of it tells it from others
_SAME = 0.99  # least cosine of the probe's vectors, then and now: rounding the weights leaves it at 0.9999


@dataclass(frozen=True, eq=False)
class Source:
    """Vectors of sentences that a model learned to tag.

    Attributes:
        vectors: (n, d) float32, of at most 1,000 sentences spread over all.
        probe: (d,) float32, of a fixed sentence: vectors of an encoder that makes another of it are no measure.
    """

    vectors: NDArray[np.float32]
    probe: NDArray[np.float32]

    @classmethod
    def of(cls, model: MetaNER, sentences: Sequence[Sentence], before: Source | None = None) -> Source:
        """That of a model which learned from some sentences now, and from others before."""
        vectors = _rounded(model.embed(spread([sentence for sentence in sentences if sentence.words], _MOST)))
        probe = _rounded(model.embed([PROBE])[0])
        if before is not None and before._fits(probe):
            vectors = _thinned([before.vectors, vectors])
        return cls(vectors, probe)

    @classmethod
    def joined(cls, sources: Iterable[Source | None]) -> Source | None:
        """That of a model which knows what several know; None if nobody noted what one of them knows."""
        known = list(sources)
        given = [source for source in known if source is not None]
        if not given or len(given) < len(known):
            return None
        return cls(_thinned([source.vectors for source in given]), given[0].probe)

    def knows(self, model: MetaNER, vectors: NDArray[np.float32]) -> bool:
        """Whether sentences are of a kind that the model learned from: language and domain, as its encoder sees them.

        A two-sample test by nearest neighbours (Schilling 1986, Henze 1988): of sentences of another kind the nearest
        is most often another one of them, though those of the source are 25 times as many.

        Args:
            model: the model.
            vectors: (n, d) unit vectors of n sentences; False for fewer than ten, or if the source is so small.
        """
        few = vectors[spread(range(len(vectors)), len(self.vectors) // _TO_ONE)]
        if len(few) < _FEWEST or not self._fits(model.embed([PROBE])[0]):
            return False
        itself = np.arange(len(few))
        among_them = cosine_topk(few, few, 1, itself)[0]
        in_source = cosine_topk(few, self.vectors, 1)[0]
        return bool(np.mean(among_them > in_source) < 0.5)

    def _fits(self, probe: NDArray[np.float32]) -> bool:
        return self.probe.shape == probe.shape and float(self.probe @ probe) >= _SAME

    def save(self, path: Path) -> None:
        """Write it to a safetensors file, in float16."""
        save_file({"vectors": self.vectors.astype(np.float16), "probe": self.probe.astype(np.float16)}, path)

    @classmethod
    def load(cls, path: Path) -> Source:
        """That of a file.

        Raises:
            ModelFileError: if it is damaged.
        """
        try:
            arrays = load_file(path)
            vectors, probe = (arrays[name].astype(np.float32) for name in ("vectors", "probe"))
            if vectors.ndim != 2 or probe.shape != vectors.shape[1:]:
                raise ValueError(f"vectors of shape {vectors.shape}, the probe of {probe.shape}")
            if not np.isfinite(vectors).all():
                raise ValueError("not all of its numbers are finite")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ModelFileError(f"{path} is damaged ({error}): delete it, or fetch or save the model again") from error
        return cls(vectors, probe)


def _rounded(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What comes back from a file of float16."""
    return vectors.astype(np.float16).astype(np.float32)


def _thinned(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The distinct rows of all parts, or some that are spread over them."""
    distinct = {row.tobytes(): row for part in parts for row in part}
    return np.stack(spread(list(distinct.values()), _MOST))
