"""`pymetaner info`: what an installation consists of."""

from __future__ import annotations

from rich.table import Table

from pymetaner.cli import options
from pymetaner.cli.loading import prepare
from pymetaner.cli.output import print_rich

__all__ = ["info"]


def info(as_json: options.JsonOption = False) -> None:
    """Print versions, the backend, instruction sets and devices."""
    prepare()
    from pymetaner.info import info as gather

    found = gather()
    if as_json:
        print(found.to_json())
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_row("pymetaner", found.version)
    table.add_row("python", f"{found.python} on {found.platform}")
    for name, version in found.packages.items():
        table.add_row(name, version or "not installed")
    table.add_row("backend", found.backend)
    table.add_row("extension", found.extension or "cannot be imported")
    table.add_row("compiler", found.compiler or "-")
    table.add_row("instruction set", found.instruction_set or "-")
    table.add_row("of the processor", ", ".join(found.instruction_sets) or "-")
    table.add_row("threads", str(found.threads))
    for number, device in enumerate(found.devices):
        table.add_row("" if number else "devices", device)
    print_rich(table)
