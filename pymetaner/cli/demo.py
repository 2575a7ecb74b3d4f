"""`pymetaner demo`: real sentences of many languages, and a memory that learns while one looks on."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymetaner.cli import options
from pymetaner.cli.brackets import labelled
from pymetaner.cli.loading import counted, load_model
from pymetaner.cli.output import colored

if TYPE_CHECKING:
    from pymetaner.model import MetaNER
    from pymetaner.result import Result

__all__ = ["demo"]


def demo(
    model: options.ModelOption = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Labelled sentences to adapt on.")] = 2,
    threads: options.Threads = None,
) -> None:
    """Adapt a model to sentences of 16 languages, then add two labelled ones and look again."""
    script = json.loads(files("pymetaner.cli").joinpath("demo.json").read_text(encoding="utf-8"))
    net = load_model(model, threads=threads)
    name = "the model that comes with pymetaner" if model is None else model
    print(f"{name}: {', '.join(sorted(net.types))}; {counted(len(net.memory), 'labelled sentence')} in its memory\n")
    _languages(net, script["sentences"], k)
    _lesson(net, script["lesson"], k)


def _languages(net: MetaNER, sentences: list[dict[str, str]], k: int) -> None:
    from pymetaner.adaptation import adapt

    started = time.perf_counter()
    results = adapt(net, [sentence["text"] for sentence in sentences], k=k, progress=True)
    seconds = time.perf_counter() - started
    for number, (sentence, result) in enumerate(zip(sentences, results, strict=True), 1):
        source = f" from {sentence['source']}" if "source" in sentence else ""
        _head(f"{number}. {sentence['language']} ({sentence['code']}){source}")
        _show(result)
    changed = sum(result.changed for result in results)
    found = sum(len(result.entities) for result in results)
    print(
        f"{counted(len(results), 'sentence')}, {counted(found, 'entity', 'entities')}, {seconds:.1f} s; "
        f"adapting changed the entities of {counted(changed, 'sentence')}.\n"
    )


def _lesson(net: MetaNER, lesson: dict[str, Any], k: int) -> None:
    """Tag a sentence, add labelled ones to the memory in RAM, tag it again; with a larger step than the default, which
    is chosen for supports that may say little."""
    from pymetaner.adaptation import adapt

    _head(f"A lesson in {lesson['language']}: two labelled sentences join the memory")
    first = adapt(net, lesson["text"], k=k, lr=lesson["lr"])
    batch = [labelled(sentence, net.types) for sentence in lesson["labelled"]]
    started = time.perf_counter()
    net.memory.add(batch, source="lesson")
    milliseconds = 1000 * (time.perf_counter() - started)
    second = adapt(net, lesson["text"], k=k, lr=lesson["lr"])
    for sentence in lesson["labelled"]:
        print(f"  + {sentence}")
    print(
        f"  added in {milliseconds:.0f} ms; before: adapted without them, after: with them, step size {lesson['lr']}\n"
    )
    # "Before" is here what adapting gave a moment ago, not the model as it stands.
    result = replace(second, base_entities=first.entities)
    _show(result)
    retrieved = sum(support.sentence in batch for support in second.supports)
    if result.changed:
        outcome = "The entities changed."
    elif result.entities != first.entities:
        outcome = "The entities stayed the same, their scores did not."
    else:
        outcome = "The entities and their scores stayed the same."
    print(f"{retrieved} of the {len(second.supports)} supports are new. {outcome}")


def _head(title: str) -> None:
    if colored(sys.stdout):
        typer.secho(title, bold=True)
    else:
        print(title)


def _show(result: Result) -> None:
    from pymetaner.render import as_text

    print(f"{as_text(result, color=colored(sys.stdout))}\n")
