"""`pymetaner evaluate`: scores on labelled files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from pymetaner.cli import options
from pymetaner.cli.labelled_files import read_file, reading_options
from pymetaner.cli.loading import counted, load_model, opened_memory
from pymetaner.cli.output import print_json, print_rich, say

if TYPE_CHECKING:
    from pymetaner.evaluation import Evaluation
    from pymetaner.learning import Learning
    from pymetaner.model import MetaNER
    from pymetaner.readers import Corpus
    from pymetaner.scoring import Score

__all__ = ["evaluate"]

_ONLY_ADAPTED = {
    "memory": "--memory",
    "k": "--k",
    "steps": "--steps",
    "lr": "--lr",
    "inner_optimizer": "--inner-optimizer",
    "lambda_max": "--lambda-max",
    "knn": "--knn",
    "engine": "--engine",
    "exclude_self": "--exclude-self",
}


def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder or hub id.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Labelled files.")],
    adapted: Annotated[bool, typer.Option("--adapt", help="Score with adapting too, beside the plain score.")] = False,
    scoring: Annotated[
        Literal["strict", "conlleval"],
        typer.Option(help="seqeval's strict IOB2 mode, or the CoNLL script on a file without blank lines."),
    ] = "strict",
    as_json: options.JsonOption = False,
    memory: options.MemoryOption = None,
    k: options.K = None,
    steps: options.Steps = None,
    lr: options.InnerLr = None,
    inner_optimizer: options.InnerOptimizer = None,
    lambda_max: options.LambdaMax = None,
    knn: options.Knn = None,
    engine: options.Engine = "auto",
    exclude_self: options.ExcludeSelf = False,
    format: options.FormatOption = None,
    delimiter: options.Delimiter = None,
    word_column: options.WordColumn = 0,
    tag_column: options.TagColumn = -1,
    notation: options.NotationOption = None,
    encoding: options.Encoding = "utf-8",
    batch_size: options.BatchSize = 16,
    precision: options.PrecisionOption = "fp32",
    device: options.Device = "cpu",
    threads: options.Threads = None,
) -> None:
    """Score a model on labelled files: precision, recall and F1 of whole entities, for each type and over all.

    Types that the model knows and a file does not count as no entity; types that only the file knows count as missed.
    """
    if not adapted:
        options.refuse_unused(context, _ONLY_ADAPTED, "adapting: give --adapt too")
    reading = reading_options(format, delimiter, word_column, tag_column, notation, encoding)
    net = load_model(model, device, threads)
    from pymetaner.evaluation import evaluate as evaluate_model
    from pymetaner.learning import learning_of

    results: list[tuple[Path, Corpus, Evaluation]] = []
    with _memory(net, memory, adapted) as bank:
        learning = None
        if bank is not None:
            learning = learning_of(
                net,
                bank,
                k=options.k_of(k),
                lr=lr,
                steps=steps,
                inner_optimizer=inner_optimizer,
                lambda_max=lambda_max,
                knn=knn,
                engine=engine,
                exclude_self=exclude_self,
            )
        for path in files:
            corpus = read_file(path, reading)
            evaluation = evaluate_model(
                net,
                corpus.sentences,
                learning=learning,
                scoring=scoring,
                batch_size=batch_size,
                precision=precision,
                progress=True,
            )
            results.append((path, corpus, evaluation))
            if not as_json:
                print_rich(Text(f"{path}: {counted(evaluation.sentences, 'sentence')}", style="bold"))
                print_rich(_table(evaluation), "")
                _tell(evaluation)
        if as_json:
            print_json(_as_dict(model, scoring, learning, results))
        elif len(results) > 1:
            print_rich(_summary({str(path): evaluation for path, _, evaluation in results}))


@contextmanager
def _memory(net: MetaNER, path: Path | None, wanted: bool) -> Iterator[Any]:
    if not wanted:
        yield None
    elif path is None:
        yield net.memory
    else:
        with opened_memory(net, path, read_only=True) as memory:
            yield memory


def _table(evaluation: Evaluation) -> Table:
    plain, adapted = evaluation.plain, evaluation.adapted
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("type", no_wrap=True)
    table.add_column("entities", justify="right")
    columns = ("precision", "recall", "F1")
    for name in columns if adapted is None else (*columns, *(f"adapted {name}" for name in columns), "change"):
        table.add_column(name, justify="right")

    def row(name: str, before: Score | None, after: Score | None) -> None:
        support = (before or after or plain).support
        cells = [name, f"{support:,}", *_percent(before)]
        if adapted is not None:
            change = (after.f1 if after else 0.0) - (before.f1 if before else 0.0)
            cells += [*_percent(after), f"{100 * change:+.2f}"]
        table.add_row(*cells)

    after_types = {} if adapted is None else adapted.per_type
    for name in sorted(plain.per_type | after_types):
        row(name, plain.per_type.get(name), after_types.get(name))
    row("all", plain, adapted)
    return table


def _percent(score: Score | None) -> list[str]:
    if score is None:
        return ["", "", ""]
    return [f"{100 * value:.2f}" for value in (score.precision, score.recall, score.f1)]


def _tell(evaluation: Evaluation) -> None:
    if evaluation.adapted is not None:
        print(f"adapting changed {evaluation.changed:,} of {counted(evaluation.sentences, 'sentence')}")
    if evaluation.dropped:
        say("note", f"not in the file, so predicted as no entity: {', '.join(evaluation.dropped)}")
    if evaluation.missing:
        say("note", f"not known to the model, so every one is missed: {', '.join(evaluation.missing)}")
    print()


def _summary(evaluations: Mapping[str, Evaluation]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    adapted = all(evaluation.adapted is not None for evaluation in evaluations.values())
    table.add_column("file")
    for name in ("F1", "adapted F1", "change") if adapted else ("F1",):
        table.add_column(name, justify="right")
    rows = [
        (name, *(100 * score.f1 for score in (evaluation.plain, evaluation.adapted) if score is not None))
        for name, evaluation in evaluations.items()
    ]
    means = [sum(values) / len(rows) for values in zip(*(row[1:] for row in rows), strict=True)]
    for name, *values in [*rows, ("mean", *means)]:
        change = [f"{values[1] - values[0]:+.2f}"] if adapted else []
        table.add_row(name, *(f"{value:.2f}" for value in values), *change)
    return table


def _as_dict(
    model: str, scoring: str, learning: Learning | None, results: list[tuple[Path, Corpus, Evaluation]]
) -> dict[str, Any]:
    settings = None
    if learning is not None:
        settings = {
            "memory": None if learning.memory.path is None else str(learning.memory.path),
            "sentences": len(learning.memory),
            "k": learning.k,
            "steps": learning.inner.steps,
            "lr": learning.inner.lr,
            "inner_optimizer": learning.inner.optimizer,
            "lambda_max": learning.inner.lambda_max,
            "knn": learning.knn,
            "engine": learning.engine,
            "exclude_self": learning.exclude_self,
        }
    return {
        "model": model,
        "scoring": scoring,
        "adapt": settings,
        "files": [
            {
                "file": str(path),
                "sentences": evaluation.sentences,
                "notation": corpus.notation,
                "repairs": corpus.repairs,
                "plain": _score_dict(evaluation.plain),
                "adapted": None if evaluation.adapted is None else _score_dict(evaluation.adapted),
                "changed": evaluation.changed,
                "dropped": list(evaluation.dropped),
                "missing": list(evaluation.missing),
            }
            for path, corpus, evaluation in results
        ],
    }


def _score_dict(score: Score) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "precision": score.precision,
        "recall": score.recall,
        "f1": score.f1,
        "support": score.support,
    }
    if score.per_type:
        figures["per_type"] = {name: _score_dict(part) for name, part in score.per_type.items()}
    return figures
