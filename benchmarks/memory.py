"""python -m benchmarks.memory MODEL TRAIN TEST LANG [--sizes 10,50,100] [--draws 5] [--methods plain,knn,adapted]

What a few labelled sentences in the memory are worth: F1 of a model as it stands, with the votes of the nearest
labelled words, adapted, both, and fine-tuned on the same sentences (10 epochs, the best of three learning rates on the
test set, so an upper figure). Settings of adapting are those that `calibrate` finds on the memory alone. Each score is
appended to benchmarks/results/memory.jsonl, and what is there already is not done again.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.records import append, check_only, commit, lines
from benchmarks.sampling import drawn, spread
from pymetaner import FactorCache, Memory, MetaNER, Sentence, TrainSettings, evaluate, read, train
from pymetaner.calibration import Calibration
from pymetaner.learning import Learning, learning_of
from pymetaner.network import fingerprint_of
from pymetaner.words import regroup

RESULTS = Path(__file__).parent / "results" / "memory.jsonl"
METHODS = "plain,knn,adapted,adapted+knn,finetuned"
RATES = (3e-5, 1e-4, 3e-4)
EPOCHS, BATCH = 10, 16  # of fine-tuning


def main(
    model: Annotated[str, typer.Argument(help="a model's folder")],
    train_file: Annotated[Path, typer.Argument(help="labelled sentences to draw the memory from")],
    test_file: Annotated[Path, typer.Argument(help="labelled sentences to score on")],
    lang: Annotated[str, typer.Argument(help="the name to write down")],
    sizes: Annotated[str, typer.Option("--sizes")] = "10,50,100,500,5000",
    draws: Annotated[int, typer.Option("--draws")] = 5,
    methods: Annotated[str, typer.Option("--methods")] = METHODS,
    test_sentences: Annotated[int, typer.Option("--test-sentences", help="0 for all")] = 0,
    device: Annotated[str, typer.Option("--device")] = "cpu",
    results: Annotated[Path, typer.Option("--results", help="file of the scores")] = RESULTS,
) -> None:
    """Scores what is missing."""
    net = MetaNER.from_pretrained(model, device=device)
    net.cache = FactorCache(1 << 31)  # a hundred long sentences take some 900 MB
    weights = fingerprint_of(net.network.state_dict())[:12]
    check_only(results, "model", weights)
    pool = pool_of(train_file)
    test = spread(list(read(test_file)), test_sentences)
    for size in map(int, sizes.split(",")):
        for draw in range(draws):
            done = {(x["lang"], x["size"], x["draw"], x["method"], x["sentences"]) for x in lines(results)}
            wanted = [m for m in methods.split(",") if (lang, size, draw, m, len(test)) not in done]
            if wanted:
                note = {"model": weights, "lang": lang, "size": size, "draw": draw}
                for line in scores(net, drawn(pool, size, draw, test), test, wanted):
                    line["f1"] = round(100 * line["f1"], 3)
                    append(results, {**note, **line, "sentences": len(test), "commit": commit()})


def pool_of(train_file: Path) -> list[Sentence]:
    """The labelled sentences of a file that a memory is drawn from."""
    return [s for s in map(regroup, read(train_file)) if len(s) > 3 and s.tags]


def scores(
    net: MetaNER, labelled: Sequence[Sentence], test: Sequence[Sentence], wanted: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A line for each method."""
    memory = Memory(net)
    started = time.perf_counter()
    memory.add(labelled)
    evaluate(net, test[:1], learning=learning_of(net, memory, k=2))
    first = time.perf_counter() - started
    plain, cost = timed(lambda: evaluate(net, test).plain.f1)
    if "plain" in wanted:
        yield {"method": "plain", "f1": plain, "cost_ratio": 1.0, "first_seconds": round(first, 2)}
    if set(wanted) & {"knn", "adapted", "adapted+knn"}:
        started = time.perf_counter()
        calibration = memory.calibrate()
        seconds = time.perf_counter() - started
        scored: dict[Any, tuple[float, float]] = {}
        for method, learning in ways(net, memory, calibration).items():
            if method in wanted:
                inner: dict[str, Any] = {"k": learning.k, "lr": learning.inner.lr, "steps": learning.inner.steps}
                inner |= {"inner_optimizer": learning.inner.optimizer, "knn": learning.knn}
                if str(inner) not in scored:
                    evaluate(net, test[:: max(1, len(test) // 32)], learning=learning)  # warm
                    scored[str(inner)] = timed(partial(adapted, net, test, learning))
                f1, took = scored[str(inner)]
                line = {"method": method, "f1": f1, "cost_ratio": round(took / cost, 2)}
                yield line | {"calibration_seconds": round(seconds, 1), "settings": inner}
    if "finetuned" in wanted:
        started = time.perf_counter()
        found = {lr: finetuned(net, labelled, test, lr) for lr in RATES}
        lr = max(RATES, key=found.__getitem__)
        line = {"method": "finetuned", "f1": found[lr], "cost_ratio": 1.0, "settings": {"lr": lr}}
        rates = {f"{lr:g}": round(100 * f1, 3) for lr, f1 in found.items()}
        yield line | {"rates": rates, "seconds": round(time.perf_counter() - started, 1)}


def ways(net: MetaNER, memory: Memory, calibration: Calibration) -> dict[str, Learning]:
    """The best settings of each method among those that were tried on the memory itself."""
    votes = [trial for trial in calibration.trials if trial.k == 0]
    steps = [trial for trial in calibration.trials if trial.knn == 0]
    best_of = {
        "knn": max(votes, key=lambda trial: trial.margin),
        "adapted": calibration.best if not calibration.best.knn else max(steps, key=lambda trial: trial.margin),
        "adapted+knn": calibration.best,
    }
    chosen = {}
    for method, best in best_of.items():
        inner = best.inner or learning_of(net, memory, k=0).inner
        chosen[method] = Learning(memory, best.k, inner, knn=best.knn)
    return chosen


def adapted(net: MetaNER, test: Sequence[Sentence], learning: Learning) -> float:
    """F1 with adapting."""
    found = evaluate(net, test, learning=learning).adapted
    assert found is not None  # there is something to learn from
    return found.f1


def finetuned(net: MetaNER, labelled: Sequence[Sentence], test: Sequence[Sentence], lr: float) -> float:
    """F1 after 10 epochs on the drawn sentences."""
    student = MetaNER(copy.deepcopy(net.network), net.tokenizer, labels=net.labels, settings=net.settings)
    steps = EPOCHS * math.ceil(len(net.words.windows(labelled)) / BATCH)  # a batch does not reach into the next epoch
    settings = TrainSettings(
        steps=steps,
        batch_size=BATCH,
        lr=lr,
        evaluate_every=steps,
        checkpoint_every=steps,
        mask_probability=0,
        lambda_max=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(student, labelled, folder, settings=settings)
    return evaluate(student, test).plain.f1


def timed(function: Callable[[], float]) -> tuple[float, float]:
    """What a function gives, and the seconds it takes: of processors, whatever else they do; by the clock on a GPU."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, clock() - started


if __name__ == "__main__":
    typer.run(main)
    print("scored; python -m benchmarks.memory_table makes the table of it")
