"""python -m benchmarks.one_step TRAIN TEST LANG base=FOLDER full=FOLDER [--seed 95] [--size 500] [--ks 2,8] [--lrs own]

What meta-training is for: F1 after one SGD step on the K nearest labelled sentences of the language, from the weights
of several models, for every K and step size that is asked for, so that nothing is picked (`"lr": null`: the model's
own). Each score is appended to benchmarks/results/one_step.jsonl, and what is there already is not done again; the
table of docs/results.md is made of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.memory import adapted, pool_of
from benchmarks.memory_table import DOCS
from benchmarks.records import append, commit, lines, put
from benchmarks.sampling import drawn, spread
from pymetaner import FactorCache, Memory, MetaNER, Sentence, evaluate, read
from pymetaner.learning import learning_of

RESULTS = Path(__file__).parent / "results" / "one_step.jsonl"


def main(
    train_file: Annotated[Path, typer.Argument(help="labelled sentences to draw the memory from")],
    test_file: Annotated[Path, typer.Argument(help="labelled sentences to score on")],
    lang: Annotated[str, typer.Argument(help="the name to write down")],
    models: Annotated[list[str], typer.Argument(metavar="NAME=FOLDER", help="weights to start from")],
    seed: Annotated[int, typer.Option("--seed", help="that the models were trained with, to write down")] = 95,
    size: Annotated[int, typer.Option("--size", help="of the memory")] = 500,
    draws: Annotated[int, typer.Option("--draws")] = 1,
    ks: Annotated[str, typer.Option("--ks")] = "2,8",
    lrs: Annotated[str, typer.Option("--lrs", help="own: what the model was trained with")] = "own",
    test_sentences: Annotated[int, typer.Option("--test-sentences", help="0 for all")] = 0,
    device: Annotated[str, typer.Option("--device")] = "cpu",
    results: Annotated[Path, typer.Option("--results")] = RESULTS,
) -> None:
    """Scores what is missing."""
    pool = pool_of(train_file)
    test = spread(list(read(test_file)), test_sentences)
    rates = [None if lr == "own" else float(lr) for lr in lrs.split(",")]
    ways = [(int(k), lr) for k in ks.split(",") for lr in rates]
    for name, _, folder in (model.partition("=") for model in models):
        for draw in range(draws):
            note = {"weights": name, "seed": seed, "lang": lang, "size": size, "draw": draw, "sentences": len(test)}
            score_all(folder, drawn(pool, size, draw, test), test, note, [(0, None), *ways], results, device)
    put(DOCS / "results.md", "python -m benchmarks.one_step", table(list(lines(results))))


def score_all(
    folder: str,
    labelled: Sequence[Sentence],
    test: Sequence[Sentence],
    note: dict[str, Any],
    ways: Sequence[tuple[int, float | None]],
    results: Path,
    device: str,
) -> None:
    """Appends a line for each K and step size that has none yet; K = 0 is the model without adapting."""
    done = [{name: line.get(name) for name in (*note, "k", "lr")} for line in lines(results)]
    wanted = [(k, lr) for k, lr in ways if {**note, "k": k, "lr": lr} not in done]
    if not wanted:
        return
    net = MetaNER.from_pretrained(folder, device=device)
    net.cache = FactorCache(1 << 31)
    memory = Memory(net)
    memory.add(labelled)
    for k, lr in wanted:
        f1 = adapted(net, test, learning_of(net, memory, k=k, lr=lr)) if k else evaluate(net, test).plain.f1
        append(results, {**note, "k": k, "lr": lr, "f1": round(100 * f1, 3), "commit": commit()})


def table(found: Sequence[dict[str, Any]]) -> str:
    """A line for each language and weights: plain F1, and what each K and step size changes; means over the runs."""
    scores: dict[tuple[str, str], dict[tuple[int, float | None], dict[tuple[int, int], float]]] = {}
    for line in found:
        cells = scores.setdefault((line["lang"], line["weights"]), {})
        cells.setdefault((line["k"], line["lr"]), {})[line["seed"], line["draw"]] = line["f1"]
    ways = sorted({way for cells in scores.values() for way in cells if way[0]}, key=lambda way: (way[1] or 0, way[0]))
    names = [f"K={k}" if lr is None else f"K={k}, {lr:g}" for k, lr in ways]
    rows = ["| language | weights | plain | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(ways)]
    for (lang, weights), cells in sorted(scores.items()):
        plain = cells[0, None]
        gains = [[f1 - plain[run] for run, f1 in cells.get(way, {}).items() if run in plain] for way in ways]
        texts = [f"{statistics.mean(each):+.1f} ({len(each)})" if each else "" for each in gains]
        rows.append(f"| {lang} | {weights} | {statistics.mean(plain.values()):.1f} | " + " | ".join(texts) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    typer.run(main)
