"""python -m benchmarks.unlabelled MODEL DATA [--languages de,fr] [--texts 300] [--confidence 0.7] [--lr 3e-5]

What text without labels is worth: some sentences of each target language are tagged by the model itself, those it is
sure of go into a memory (`memory.add_unlabelled`), and the test set is tagged after steps on all of them. Appends a
line to benchmarks/results/unlabelled.jsonl for each language: F1 without and with, and the p of a paired bootstrap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.paper.runs import TEST, UNLABELLED, sentences, unlabelled_memory
from benchmarks.paper.table import bootstrap
from benchmarks.records import append, commit
from pymetaner import MetaNER, evaluate
from pymetaner.learning import learning_of
from pymetaner.scoring import sentence_counts

RESULTS = Path(__file__).parent / "results" / "unlabelled.jsonl"


def main(
    model: Annotated[str, typer.Argument(help="a model's folder")],
    data: Annotated[Path, typer.Argument(help="folder with conll2002, conll2003, europeana, msra, uner")],
    languages: Annotated[str, typer.Option("--languages")] = ",".join(TEST),
    texts: Annotated[int, typer.Option("--texts", help="to tag, spread over the train set")] = 300,
    confidence: Annotated[float, typer.Option("--confidence", help="below which a text is left out")] = 0.7,
    lr: Annotated[float, typer.Option("--lr", help="of the two steps")] = 3e-5,
) -> None:
    """Scores every language on its whole test set."""
    net = MetaNER.from_pretrained(model)
    for language in languages.split(","):
        memory = unlabelled_memory(net, data / UNLABELLED[language], texts, confidence)
        test = sentences(data / TEST[language])
        found = evaluate(net, test, learning=learning_of(net, memory, k="all", lr=lr), batch_size=32)
        assert found.adapted is not None
        counts = [sentence_counts(found.gold, tags) for tags in (found.adapted_tags, found.plain_tags)]
        difference, samples = bootstrap(np.stack(counts)[None])
        line = {
            "model": Path(model).name,
            "lang": language,
            "texts": texts,
            "kept": len(memory),
            "confidence": confidence,
            "lr": lr,
            "sentences": len(test),
            "plain": round(100 * found.plain.f1, 3),
            "adapted": round(100 * found.adapted.f1, 3),
            "difference": round(difference, 3),
            "p": float((samples <= 0).mean()),
            "commit": commit(),
        }
        append(RESULTS, line)
        print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
