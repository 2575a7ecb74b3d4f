"""python -m benchmarks.paper --encoder FOLDER_OR_HUB_ID --data FOLDER [--seeds 5] [--quick] [--device cuda] [--jobs 10]

Trains every row of the paper's table on conll2003/en with each seed, scores it on the target languages, appends each
score to benchmarks/results/paper.jsonl and writes docs/results.md. Stopped at any moment, it goes on where it was.
`--quick` makes it small, in a folder of its own, and leaves these two files alone. `--sentences N` scores the models
on N test sentences of each language, which the table of many K is made from.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.paper.runs import MEANS, ROWS, SEEDS, TEST, Plan, run, run_apart
from benchmarks.paper.table import DOCS, write_table

HERE = Path(__file__).parent.parent


def main(
    encoder: Annotated[str, typer.Option("--encoder", help="a folder or hub id")] = "",
    data: Annotated[
        Path, typer.Option("--data", help="folder with conll2002, conll2003, europeana, msra, uner")
    ] = Path("data"),
    out: Annotated[Path, typer.Option("--out", help="folder of models and counts")] = Path("runs/paper"),
    results: Annotated[Path, typer.Option("--results", help="file of the scores")] = HERE / "results" / "paper.jsonl",
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=len(SEEDS))] = 5,
    rows: Annotated[str, typer.Option("--rows", help="with commas between them")] = ",".join((*ROWS, *MEANS)),
    languages: Annotated[str, typer.Option("--languages")] = ",".join(TEST),
    ks: Annotated[str, typer.Option("--ks", help="English supports to adapt on; none if empty")] = "1,2,4,8,16",
    steps: Annotated[int, typer.Option("--steps", help="of training")] = 1200,
    quick: Annotated[
        bool, typer.Option("--quick", help="one seed, 300 steps, 500 test sentences, K=2; in OUT/quick")
    ] = False,
    most: Annotated[
        int | None, typer.Option("--sentences", help="test sentences of a language; all if not given")
    ] = None,
    texts: Annotated[int, typer.Option("--texts", help="of each language to self-train on; 0 for none")] = 1000,
    device: Annotated[str, typer.Option("--device")] = "cuda" if torch.cuda.is_available() else "cpu",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="runs side by side")] = 1,
    table_only: Annotated[bool, typer.Option("--table", help="only write docs/results.md")] = False,
) -> None:
    """Runs what is missing and writes the table."""
    page = DOCS / "results.md"
    if quick:
        out, most = out / "quick", most or 500
        results, page = out / "paper.jsonl", out / "results.md"
    if not table_only:
        if not encoder:
            raise typer.BadParameter("give an encoder's folder or hub id with --encoder")
        plan = Plan(
            encoder=encoder,
            data=data,
            out=out,
            results=results,
            device=device,
            steps=300 if quick else steps,
            languages=tuple(languages.split(",")),
            ks=(2,) if quick else tuple(map(int, ks.split(",") if ks else ())),
            texts=texts,
            most=most,
            source=2000 if quick else None,
        )
        # Rows that learn to adapt take longest, so they come first; means of the others come last.
        wanted, of_seeds = rows.split(","), SEEDS[: 1 if quick else seeds]
        alone = [row for row in wanted if row not in MEANS]
        run_all(plan, sorted(alone, key=lambda row: ROWS[row][1] is None), of_seeds, jobs)
        run_all(plan, [row for row in MEANS if row in wanted], of_seeds, jobs)
    write_table(results, out, page, most if quick else None)
    Console().print(f"the table is in {page}")


def run_all(plan: Plan, rows: Sequence[str], seeds: Sequence[int], jobs: int) -> None:
    """Runs each row with each seed, so many side by side."""
    wanted = [(row, seed) for row in rows for seed in seeds]
    if jobs == 1:
        for row, seed in wanted:
            run(plan, row, seed)
        return
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        started = {pool.submit(run_apart, threads, plan, *job): job for job in wanted}
        for future in as_completed(started):
            future.result()
            Console().print(*started[future])


if __name__ == "__main__":
    typer.run(main)
