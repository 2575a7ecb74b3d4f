"""Scores written down one per line, as JSON, so that a benchmark stopped at any moment goes on where it was."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymetaner.errors import SettingError

ROOT = Path(__file__).parents[1]


def lines(results: Path) -> Iterator[dict[str, Any]]:
    """What was written down so far."""
    if results.exists():
        with results.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def check_only(results: Path, name: str, value: str) -> None:
    """Checks that scores of one encoder, or one model, are not added to those of another, or taken for them.

    Raises:
        SettingError: if the file has lines with another value under this name.
    """
    if others := {line[name] for line in lines(results) if name in line} - {value}:
        raise SettingError(
            f"{results} holds scores of another {name} ({', '.join(sorted(others))}, not {value}): give another file "
            "with --results"
        )


def append(results: Path, line: dict[str, Any]) -> None:
    """Adds a line; in one write, so that runs side by side do not mix theirs."""
    results.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(results, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


def put(page: Path, command: str, table: str) -> None:
    """Writes the table that a command makes in its place on a page; the text around it stays."""
    begin, end = f"<!-- table: {command} -->\n", "<!-- end of table -->"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    head, found, rest = text.partition(begin)
    if not found:
        head, rest = f"{head}\n" if head else "", f"{end}\n"
    page.write_text(head + begin + table + end + rest.partition(end)[2], encoding="utf-8")


@functools.cache
def commit() -> str:
    """The commit that is checked out, ``+`` behind it if the code was changed since; or ``"unknown"``."""
    found = _git("rev-parse", "--short", "HEAD")
    if found is None:
        return os.environ.get("COMMIT", "unknown")
    code = ("pymetaner", "csrc", "benchmarks", ":!benchmarks/results")
    return found if _git("status", "--porcelain", "--", *code) == "" else f"{found}+"


def _git(*arguments: str) -> str | None:
    """What git prints; None if there is no git or no repository."""
    try:
        asked = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()
