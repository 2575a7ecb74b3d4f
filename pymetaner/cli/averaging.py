"""`pymetaner average`: one model of several that were trained apart."""

from __future__ import annotations

from typing import Annotated

import typer

from pymetaner.cli import options
from pymetaner.cli.loading import check_new, counted, load_model, save_new
from pymetaner.cli.output import spinner

__all__ = ["average"]


def average(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Folders or hub ids of models.")],
    out: options.NewModelOption,
    overwrite: options.Overwrite = False,
) -> None:
    """Make one model of several that were trained apart: the mean of their weights.

    They were trained from one encoder by `pymetaner train`, with other settings, or, with the same head to start from,
    other data. The memory is that of the first.
    """
    for name in models:
        check_new(name, out, overwrite)
    nets = [load_model(name) for name in models]
    from pymetaner.averaging import average as average_models

    with spinner("averaging"):
        averaged = average_models(nets)
    save_new(averaged, out)
    print(
        f"{out}: the mean of {counted(len(nets), 'model')}; {counted(len(averaged.memory), 'sentence')} in the memory"
    )
