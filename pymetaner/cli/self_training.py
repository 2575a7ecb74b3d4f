"""`pymetaner self-train`: a model that is better at a language, from text of it without labels."""

from __future__ import annotations

from typing import Annotated

import typer

from pymetaner.cli import options
from pymetaner.cli.loading import check_new, counted, load_model, save_new, text_lines

__all__ = ["self_train"]


def self_train(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="UTF-8 text, one sentence per line; - for standard input.")
    ],
    out: options.NewModelOption,
    model: options.StartOption = None,
    overwrite: options.Overwrite = False,
    steps: options.FineTuningSteps = None,
    lr: Annotated[float, typer.Option("--lr", help="Step size.")] = 2e-4,
    seed: Annotated[int, typer.Option("--seed", help="Fixes batches, masks and dropout.")] = 0,
    precision: options.PrecisionOption = "fp32",
    device: options.Device = "cpu",
    threads: options.Threads = None,
) -> None:
    """Make a model better at a language or domain, from text of it without labels.

    It tags the text, and a copy of it learns the tags with entity words masked. About 1,000 sentences are enough.
    """
    texts = [line for file in files for line in text_lines(file) if line.strip()]
    net = load_model(model, device, threads)
    check_new(model, out, overwrite)
    from pymetaner.unlabelled import self_train as self_train_model

    trained = self_train_model(net, texts, steps=steps, lr=lr, seed=seed, precision=precision, progress=True)
    save_new(trained, out)
    remembered = counted(len(trained.memory), "sentence")
    print(f"{out}: trained on {counted(len(texts), 'sentence')} of text; {remembered} in the memory")
