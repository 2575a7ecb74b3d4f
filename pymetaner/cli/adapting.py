"""`pymetaner adapt` and `pymetaner predict`: entities of sentences."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from pymetaner.cli import options
from pymetaner.cli.loading import load_model, opened_memory, text_lines
from pymetaner.cli.output import colored, print_json
from pymetaner.errors import InputError, SettingError

if TYPE_CHECKING:
    from pymetaner.result import Result

__all__ = ["adapt", "predict"]

Form: TypeAlias = Literal["text", "json", "jsonl"]

CHUNK = 512
"""Lines of a file that are read, tagged and printed together."""

Texts = Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Sentences, one an argument.")]
File = Annotated[str | None, typer.Option("--file", "-f", metavar="FILE", help="One sentence per line; - for stdin.")]
Tokens = Annotated[bool, typer.Option("--tokens", help="Words are split already, by spaces.")]
Profiled = Annotated[bool, typer.Option("--profile", help="Print on standard error where the time went.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="Print JSON, one sentence per line, as they are done.")]


def adapt(
    texts: Texts = None,
    file: File = None,
    tokens: Tokens = False,
    model: options.ModelOption = None,
    memory: options.MemoryOption = None,
    k: options.K = None,
    steps: options.Steps = None,
    lr: options.InnerLr = None,
    inner_optimizer: options.InnerOptimizer = None,
    lambda_max: options.LambdaMax = None,
    knn: options.Knn = None,
    engine: options.Engine = "auto",
    exclude_self: options.ExcludeSelf = False,
    as_json: options.JsonOption = False,
    as_jsonl: JsonLines = False,
    batch_size: options.BatchSize = 16,
    precision: options.PrecisionOption = "fp32",
    cache_bytes: options.CacheBytes = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    profile: Profiled = False,
) -> None:
    """Find entities with a model that adapts itself to every sentence.

    Each sentence's nearest labelled sentences are fetched from the memory, the model takes a step on them, and tags the
    sentence: what comes out is the entities before and after, with their probabilities, and what was learned from.
    """
    sentences, form = _sentences(texts, file, tokens), _form(as_json, as_jsonl)
    net = load_model(model, device, threads)
    from pymetaner.adaptation import adapt as adapt_model
    from pymetaner.cache import FactorCache

    if cache_bytes is not None:
        net.cache = FactorCache(cache_bytes)

    with nullcontext(net.memory) if memory is None else opened_memory(net, memory, read_only=True) as bank:

        def run(chunk: list[Any]) -> list[Result]:
            return adapt_model(
                net,
                chunk,
                memory=bank,
                k=options.k_of(k),
                steps=steps,
                lr=lr,
                inner_optimizer=inner_optimizer,
                lambda_max=lambda_max,
                knn=knn,
                engine=engine,
                exclude_self=exclude_self,
                batch_size=batch_size,
                precision=precision,
                progress=True,
            )

        _print(sentences, run, form, skip_blank=file is not None, profile=profile)


def predict(
    texts: Texts = None,
    file: File = None,
    tokens: Tokens = False,
    model: options.ModelOption = None,
    as_json: options.JsonOption = False,
    as_jsonl: JsonLines = False,
    batch_size: options.BatchSize = 16,
    precision: options.PrecisionOption = "fp32",
    device: options.Device = "cpu",
    threads: options.Threads = None,
    profile: Profiled = False,
) -> None:
    """Find entities with the model as it is, without adapting it."""
    sentences, form = _sentences(texts, file, tokens), _form(as_json, as_jsonl)
    net = load_model(model, device, threads)
    from pymetaner.adaptation import predict as predict_model

    def run(chunk: list[Any]) -> list[Result]:
        results = predict_model(net, chunk, batch_size=batch_size, precision=precision, progress=True)
        return results if isinstance(results, list) else [results]

    _print(sentences, run, form, skip_blank=file is not None, profile=profile)


def _form(as_json: bool, as_jsonl: bool) -> Form:
    if as_json and as_jsonl:
        raise SettingError("--json and --jsonl are two forms of the same: give one of them")
    return "json" if as_json else "jsonl" if as_jsonl else "text"


def _sentences(texts: list[str] | None, file: str | None, tokens: bool) -> Iterator[str | list[str]]:
    if (texts is None or not texts) == (file is None):
        raise SettingError("give sentences as arguments, or a file of them with --file (- for standard input)")
    if file not in (None, "-") and not Path(file).exists():
        raise InputError(f"{file} does not exist: give a text file, one sentence per line, or - for standard input")
    lines = text_lines(file) if file is not None else iter(texts or ())
    # Not at the other white space of Unicode: a no-break space is part of a token.
    return (re.findall(r"[^ \t]+", line) for line in lines) if tokens else lines


def _print(
    sentences: Iterable[str | list[str]],
    run: Callable[[list[Any]], list[Result]],
    form: Form,
    skip_blank: bool,
    profile: bool,
) -> None:
    from pymetaner.render import as_dict, as_text

    items = iter(sentences)
    everything: list[dict[str, Any]] = []
    first = True
    while chunk := list(islice(items, CHUNK)):
        results = run(chunk)
        if profile:
            print(results[0].profile, file=sys.stderr)
        for result in results:
            if form == "json":
                everything.append(as_dict(result))
            elif form == "jsonl":
                print_json(as_dict(result), lines=True)
            elif result.text.strip() or not skip_blank:
                print(("" if first else "\n") + as_text(result, color=colored(sys.stdout)))
                first = False
        sys.stdout.flush()
    if form == "json":
        print_json(everything)
