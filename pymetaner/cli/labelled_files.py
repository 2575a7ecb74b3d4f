"""Labelled files that the command line names, and the entity types that are read of them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymetaner.cli.loading import counted
from pymetaner.cli.options import delimiter_of
from pymetaner.cli.output import say
from pymetaner.errors import LabelMismatchError, SettingError

if TYPE_CHECKING:
    from pymetaner.model import MetaNER
    from pymetaner.readers import Corpus
    from pymetaner.sentence import Sentence

__all__ = ["chosen_types", "of_types", "read_file", "reading_options"]


def reading_options(
    format: str | None, delimiter: str | None, word_column: int, tag_column: int, notation: str | None, encoding: str
) -> dict[str, Any]:
    """The options of the command line as those of `pymetaner.read`."""
    return {
        "format": format,
        "delimiter": delimiter_of(delimiter),
        "word_column": word_column,
        "tag_column": tag_column,
        "notation": notation,
        "encoding": encoding,
    }


def read_file(path: Path, options: dict[str, Any]) -> Corpus:
    """The labelled sentences of a file, with a note of what was found in it."""
    from pymetaner.readers import read

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* were repaired")  # the note says it
        corpus = read(path, progress=True, **options)
    words = sum(map(len, corpus))
    say(
        "note",
        f"{path}: {counted(len(corpus), 'sentence')} of {counted(words, 'word')}, tags in {corpus.notation} "
        f"({counted(corpus.repairs, 'repair')}), types {', '.join(corpus.types) or 'none'}",
    )
    return corpus


def chosen_types(chosen: str | None, corpora: Sequence[Corpus]) -> list[str]:
    """The names that ``--types`` gives; all that the files have if it is not given."""
    if chosen is None:
        return sorted({name for corpus in corpora for name in corpus.types})
    names = [name.strip() for name in chosen.split(",")]
    if not all(names):
        raise SettingError(f"--types {chosen!r}: expected names with a comma between them, as PER,ORG,LOC")
    return names


def of_types(
    net: MetaNER, corpora: Sequence[Corpus], chosen: str | None, *, quiet: bool = False
) -> list[list[Sentence]]:
    """The sentences of each corpus as the model reads them, entities of types that were not chosen turned into O.

    Args:
        net: the model.
        corpora: of each file.
        chosen: the value of ``--types``.
        quiet: say nothing of what becomes O, and leave types that the model does not know.

    Raises:
        SettingError: if a type is chosen that the model does not tag.
        LabelMismatchError: if none are chosen, and a corpus has some that it does not tag.
    """
    from pymetaner.scoring import drop_types
    from pymetaner.words import regroup

    if chosen is None:
        unknown = sorted(set(chosen_types(None, corpora)) - net.types)
        if unknown and not quiet:
            raise LabelMismatchError(
                f"the model does not tag {', '.join(unknown)}, but {', '.join(sorted(net.types))}: give --types "
                f"{','.join(sorted(net.types))} to read the others as O, or teach it new ones with `pymetaner extend`"
            )
        return [[regroup(sentence) for sentence in corpus] for corpus in corpora]
    keep = set(chosen_types(chosen, corpora))
    unknown = sorted(keep - net.types)
    if unknown:
        raise SettingError(f"--types: the model does not tag {', '.join(unknown)}, but {', '.join(sorted(net.types))}")
    dropped = Counter(e.label for corpus in corpora for sentence in corpus for e in sentence.entities)
    for name in sorted(dropped.keys() - keep):
        if not quiet:
            say("note", f"{name} is not among --types: {counted(dropped[name], 'entity', 'entities')} read as O")
    return [
        [regroup(s if s.tags is None else s.with_tags(drop_types(s.tags, keep))) for s in corpus] for corpus in corpora
    ]
