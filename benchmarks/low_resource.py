"""python -m benchmarks.low_resource TRAIN TEST LANG base=FOLDER full=FOLDER [--percents 1,2,5,10] [--seeds 1] [--table]

A few per cent of a language's labelled sentences, as in Wu et al. (2020): F1 of plain fine-tuning on them (10 epochs)
from the weights of each model, and of the memory instead, with the settings that `calibrate` finds on it. Each score
is appended to benchmarks/results/low_resource.jsonl, and what is there already is not done again; `--table` writes the
table of docs/results.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.memory import adapted, finetuned
from benchmarks.memory_table import DOCS
from benchmarks.records import append, commit, lines, put
from benchmarks.sampling import drawn, spread
from pymetaner import FactorCache, Memory, MetaNER, Sentence, evaluate, read
from pymetaner.learning import learning_of
from pymetaner.words import regroup

RESULTS = Path(__file__).parent / "results" / "low_resource.jsonl"
# The paper's step size, made for another encoder, and ten times that; neither is picked by the test set.
RATES = (1e-5, 1e-4)
METHODS = ("plain", *(f"finetuned, {lr:g}" for lr in RATES), "memory")


def main(
    train_file: Annotated[Path | None, typer.Argument(help="labelled sentences of the language")] = None,
    test_file: Annotated[Path | None, typer.Argument(help="labelled sentences to score on")] = None,
    lang: Annotated[str, typer.Argument(help="the name to write down")] = "",
    models: Annotated[list[str] | None, typer.Argument(metavar="NAME=FOLDER", help="weights to start from")] = None,
    percents: Annotated[str, typer.Option("--percents")] = "1,2,5,10",
    seeds: Annotated[int, typer.Option("--seeds", help="draws of the sentences")] = 1,
    test_sentences: Annotated[int, typer.Option("--test-sentences", help="0 for all")] = 0,
    device: Annotated[str, typer.Option("--device")] = "cpu",
    table_only: Annotated[bool, typer.Option("--table", help="only write the table")] = False,
) -> None:
    """Scores what is missing."""
    if not table_only:
        if train_file is None or test_file is None or not lang or not models:
            raise typer.BadParameter("give TRAIN, TEST, LANG and at least one NAME=FOLDER, or --table")
        pool = [s for s in map(regroup, read(train_file)) if s.words and s.tags]
        test = spread(list(read(test_file)), test_sentences)
        for percent in map(float, percents.split(",")):
            for draw in range(seeds):
                labelled = drawn(pool, max(1, round(len(pool) * percent / 100)), draw, test)
                note = {"lang": lang, "percent": percent, "sentences": len(labelled), "draw": draw, "test": len(test)}
                for weights, _, folder in (model.partition("=") for model in models):
                    score_all(folder, labelled, test, {**note, "weights": weights}, device)
    put(DOCS / "results.md", "python -m benchmarks.low_resource", table(list(lines(RESULTS))))


def score_all(
    folder: str, drawn: Sequence[Sentence], test: Sequence[Sentence], note: dict[str, Any], device: str
) -> None:
    """Appends a line for each method that has none yet."""
    done = [{name: line.get(name) for name in (*note, "method")} for line in lines(RESULTS)]
    wanted = [method for method in METHODS if {**note, "method": method} not in done]
    if not wanted:
        return
    net = MetaNER.from_pretrained(folder, device=device)
    net.cache = FactorCache(1 << 31)
    for method in wanted:
        started = time.perf_counter()
        f1 = score(net, drawn, test, method)
        seconds = round(time.perf_counter() - started, 1)
        append(RESULTS, {**note, "method": method, "f1": round(100 * f1, 3), "seconds": seconds, "commit": commit()})


def score(net: MetaNER, drawn: Sequence[Sentence], test: Sequence[Sentence], method: str) -> float:
    """F1 of one method."""
    if method == "plain":
        return evaluate(net, test).plain.f1
    if method == "memory":
        memory = Memory(net)
        memory.add(drawn)
        memory.calibrate()
        return adapted(net, test, learning_of(net, memory))
    return finetuned(net, drawn, test, float(method.partition(", ")[2]))


def table(found: Sequence[dict[str, Any]]) -> str:
    """A line for each language, share and method, a column for each of the weights; mean of the draws."""
    weights = list(dict.fromkeys(line["weights"] for line in found))
    rows = ["| language | labelled | method | " + " | ".join(weights) + " |", "|---|---|---|" + "---|" * len(weights)]
    cells: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for line in found:
        key = line["lang"], line["percent"], line["sentences"], METHODS.index(line["method"])
        cells.setdefault(key, {}).setdefault(line["weights"], []).append(line["f1"])
    for (lang, percent, sentences, method), scores in sorted(cells.items()):
        means = [f"{statistics.mean(f1):.2f} ({len(f1)})" if (f1 := scores.get(name)) else "" for name in weights]
        share = f"{percent:g} % ({sentences:,})"
        rows.append(f"| {lang} | {share} | {METHODS[method]} | " + " | ".join(means) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    typer.run(main)
