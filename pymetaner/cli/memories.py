"""`pymetaner memory ...`: the labelled sentences that a model adapts on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pymetaner.cli import options
from pymetaner.cli.brackets import labelled
from pymetaner.cli.labelled_files import of_types, read_file, reading_options
from pymetaner.cli.loading import check_memory, counted, load_model, memory_file, opened_memory, text_lines
from pymetaner.cli.output import print_json, print_rich
from pymetaner.errors import EncoderError, SettingError
from pymetaner.files import CONFIG, SETTINGS

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from pymetaner.memory import Memory
    from pymetaner.model import MetaNER
    from pymetaner.sentence import Sentence

__all__ = ["memory_app"]

memory_app = typer.Typer(no_args_is_help=True, help="Keep the labelled sentences that a model adapts on.")

CHUNK = 256
"""Sentences of a list that are printed together."""

MemoryFile = Annotated[
    Path, typer.Argument(metavar="MEMORY", help="A memory's file, or a model's folder for the memory in it.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="The model whose memory it is: a folder or hub id. If not given, the one in whose folder the memory is, "
        "or the one that comes with pymetaner.",
    ),
]
SourceOption = Annotated[str | None, typer.Option("--source", help="Only the sentences that came from there.")]


@memory_app.command()
def add(
    memory: MemoryFile,
    sentences: Annotated[
        list[str], typer.Argument(metavar="SENTENCE", help="As '[PER Ada Lovelace] lived in [LOC London].'")
    ],
    model: ModelOption = None,
    source: Annotated[str, typer.Option(help="Where they come from, kept with them.")] = "",
) -> None:
    """Add labelled sentences, typed with each entity in brackets behind its type.

    The next search finds them. A sentence that is there already stays as it is.
    """
    with _for_model(memory, model) as (net, bank):
        batch = [labelled(sentence, net.types) for sentence in sentences]
        before = set(bank.ids.tolist())
        keys = bank.add(batch, source=source, progress=True)
        _print_added(memory, before, keys, len(bank))


@memory_app.command("import")
def import_(
    memory: MemoryFile,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Labelled files.")],
    model: ModelOption = None,
    source: Annotated[
        str | None, typer.Option(help="Where they come from, kept with them; the file's name if not given.")
    ] = None,
    types: options.Types = None,
    format: options.FormatOption = None,
    delimiter: options.Delimiter = None,
    word_column: options.WordColumn = 0,
    tag_column: options.TagColumn = -1,
    notation: options.NotationOption = None,
    encoding: options.Encoding = "utf-8",
) -> None:
    """Add the labelled sentences of column files or JSONL; each file all or nothing."""
    reading = reading_options(format, delimiter, word_column, tag_column, notation, encoding)
    with _for_model(memory, model) as (net, bank):
        for file in files:
            before = set(bank.ids.tolist())
            [part] = of_types(net, [read_file(file, reading)], types)
            keys = bank.add(part, source=file.name if source is None else source, progress=True)
            _print_added(memory, before, keys, len(bank), f"{file}: ")


@memory_app.command("import-text")
def import_text(
    memory: MemoryFile,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="UTF-8 text.")],
    model: ModelOption = None,
    confidence: Annotated[
        float, typer.Option("--confidence", min=0, max=1, help="Least probability of any word's tag.")
    ] = 0.7,
) -> None:
    """Add sentences of unlabelled text, one per line, that the model is sure of, with its own tags for labels."""
    with _for_model(memory, model) as (_, bank):
        for file in files:
            before = set(bank.ids.tolist())
            texts = [line for line in text_lines(str(file)) if line.strip()]
            keys = bank.add_unlabelled(texts, confidence=confidence, source=file.name, progress=True)
            _print_added(memory, before, keys, len(bank), f"{file}: {counted(len(texts), 'sentence')}, ")


@memory_app.command()
def calibrate(memory: MemoryFile, model: ModelOption = None, threads: options.Threads = None) -> None:
    """Find the settings of adapting that tag the memory's own sentences best, and keep them in it.

    Each sentence is tagged after adapting on the others. `adapt` and `evaluate` use what was found where they are given
    no settings.
    """
    with _for_model(memory, model, threads=threads, must_exist=True) as (_, bank):
        print(f"{memory}: {bank.calibrate(progress=True)}")


@memory_app.command()
def export(
    memory: MemoryFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", dir_okay=False, help="The file to write.")],
    format: Annotated[
        options.Format | None,
        typer.Option(help="jsonl keeps the raw texts, columns (the default for .conll, .txt and the like) the words."),
    ] = None,
) -> None:
    """Write all sentences to a file that `import` reads."""
    with _without_model(memory) as bank:
        print(f"{out}: {counted(bank.export(out, format=format), 'sentence')}")


@memory_app.command()
def remove(
    memory: MemoryFile,
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID", help="Ids, as `list` shows them.")] = None,
    source: SourceOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All sentences.")] = False,
) -> None:
    """Remove sentences: by id, all that came from one source, or all."""
    if sum((bool(ids), source is not None, everything)) != 1:
        raise SettingError("say what to remove: ids, or --source NAME, or --all")
    with _without_model(memory, read_only=False) as bank:
        if everything:
            count = bank.clear()
        else:
            count = bank.remove(_ids_from(bank, source) if source is not None else ids or [])
        print(f"{memory}: {counted(count, 'sentence')} removed, {len(bank):,} left")


@memory_app.command()
def search(
    memory: MemoryFile,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The sentence to find the like of.")],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many to find.")] = 5,
    model: ModelOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Find the sentences nearest to a text: those that a model would adapt on."""
    with _for_model(memory, model, read_only=True) as (net, bank):
        from pymetaner.inputs import as_sentences

        hits = bank.search(net.embed(as_sentences(text).sentences), k)[0] if text.strip() else []
        if as_json:
            print_json([{"similarity": hit.similarity, **_as_dict(hit.id, hit.sentence)} for hit in hits])
        else:
            _print_table([(f"{hit.similarity:.3f}", hit.id, hit.sentence) for hit in hits])


@memory_app.command("list")
def list_(
    memory: MemoryFile,
    source: SourceOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print JSON, one sentence per line.")] = False,
) -> None:
    """Print the sentences with their ids."""
    with _without_model(memory) as bank:
        chosen = None if source is None else set(_ids_from(bank, source))
        wanted = ((key, sentence) for key, sentence in bank if chosen is None or key in chosen)
        rows = islice(wanted, limit and min(limit, sys.maxsize))
        while chunk := list(islice(rows, CHUNK)):
            if as_jsonl:
                for key, sentence in chunk:
                    print_json(_as_dict(key, sentence), lines=True)
            else:
                _print_table([("", key, sentence) for key, sentence in chunk])


@memory_app.command("info")
def info_(memory: MemoryFile, as_json: options.JsonOption = False) -> None:
    """Print how many sentences there are, of which types, from where, and whose vectors."""
    with _without_model(memory) as bank:
        file = memory_file(memory)
        facts: dict[str, Any] = {
            "file": str(file),
            "bytes": file.stat().st_size,
            "sentences": len(bank),
            "types": sorted(bank.types),
            "dimensions": bank.encoder.dim,
            "encoder": bank.encoder.fingerprint,
            "sources": {name: len(keys) for name, keys in bank.sources().items()},
        }
    if as_json:
        print_json(facts)
        return
    from pymetaner.render import cleaned

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("file", "bytes", "sentences", "types", "dimensions", "encoder"):
        value = facts[name]
        table.add_row(
            name,
            ", ".join(value)
            if isinstance(value, list)
            else f"{value:,}"
            if name != "file" and isinstance(value, int)
            else value,
        )
    for name, count in facts["sources"].items():
        table.add_row(f"from {cleaned(name) or '(not said)'}", f"{count:,}")
    print_rich(table)


@memory_app.command()
def rebuild(memory: MemoryFile, model: ModelOption = None) -> None:
    """Embed all sentences again, for another model or one that was trained further."""
    net = load_model(model or _folder_model(memory))
    with _without_model(memory, read_only=False) as bank:
        bank.rebuild(net, progress=True)
        print(f"{memory}: {counted(len(bank), 'sentence')} embedded again")


@dataclass(frozen=True)
class _Recorded:
    """The encoder that a memory file says its vectors are from: enough for all that needs no new vector."""

    fingerprint: str
    dim: int
    types: frozenset[str]

    def embed(self, sentences: Any, *, progress: bool = False) -> NDArray[float32]:
        raise EncoderError("a memory opened without its model cannot embed sentences: open it with the model")


@contextmanager
def _without_model(path: Path, *, read_only: bool = True) -> Iterator[Memory]:
    """A memory that exists, opened without the model that made its vectors."""
    from pymetaner.memory import Memory
    from pymetaner.memory.store import Store

    file = memory_file(path).absolute()
    store = Store.read_only_at(file)
    try:
        with store.reading():
            facts, types = store.facts(), store.types()
    finally:
        store.close()
    with Memory(_Recorded(facts.fingerprint, facts.dim, types), file, read_only=read_only) as memory:
        yield memory


@contextmanager
def _for_model(
    path: Path, model: str | None, *, read_only: bool = False, must_exist: bool = False, threads: int | None = None
) -> Iterator[tuple[MetaNER, Memory]]:
    """A memory with its model; made if it is missing, unless it is only read or must exist."""
    if must_exist or read_only:
        check_memory(path)  # before the model is loaded
    net = load_model(model or _folder_model(path), threads=threads)
    with opened_memory(net, path, read_only=read_only) as memory:
        yield net, memory


def _folder_model(path: Path) -> str | None:
    """The model in whose folder a memory is, if there is one.

    A folder that is named itself is meant as a model; around a file, only what pymetaner wrote makes one of it.
    """
    folder, mark = (path, CONFIG) if path.is_dir() else (path.parent, SETTINGS)
    return str(folder) if (folder / mark).exists() else None


def _ids_from(bank: Memory, source: str) -> list[int]:
    sources = bank.sources()
    if source not in sources:
        known = ", ".join(map(repr, sorted(sources))) or "no source"
        raise SettingError(f"--source {source!r}: nothing in the memory came from there; it has {known}")
    return sources[source]


def _print_added(memory: Path, before: set[int], keys: list[int], total: int, prefix: str = "") -> None:
    fresh = {key for key in keys if key not in before}
    known = len(set(keys)) - len(fresh)
    names = f" (id {', '.join(map(str, sorted(fresh)))})" if 0 < len(fresh) <= 10 else ""
    there = f", {known:,} there already" if known else ""
    print(f"{prefix}{counted(len(fresh), 'sentence')} added{names}{there}; {memory} has {total:,}")


def _as_dict(key: int, sentence: Sentence) -> dict[str, Any]:
    from pymetaner.render import sentence_dict

    return {"id": key, **sentence_dict(sentence, sentence.entities)}


def _print_table(rows: list[tuple[str, int, Sentence]]) -> None:
    from pymetaner.render import marked

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    if any(similarity for similarity, *_ in rows):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=6)
    table.add_column(overflow="fold")
    for similarity, key, sentence in rows:
        cells: list[str | Text] = [similarity] if similarity else []
        table.add_row(*cells, str(key), marked(sentence))
    print_rich(table)
