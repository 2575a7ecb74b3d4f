"""The documentation: its code and the examples of docstrings run, its commands exist, its links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from tiny import CORPUS, model_of, network_of, parse

import pymetaner
from pymetaner.cli import app
from pymetaner.training import wu2020

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "models" / "default" / "README.md", *(ROOT / "docs").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def fences(page: Path, language: str) -> list[str]:
    """What stands between the fences of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def prose(page: Path) -> str:
    """What stands outside of fences."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def programs(page: Path) -> list[str]:
    """Command lines of a page: those between fences, and those of code within a line."""
    lines = [line.removeprefix("$ ") for fence in fences(page, "") for line in fence.splitlines()]
    lines += re.findall(r"`((?:pymetaner|python -m benchmarks)[ .][^`]*)`", prose(page))
    parts = [part.strip() for line in lines for part in re.split(r" \| | > ", line)]
    return [" ".join(part.split()) for part in parts if re.match(r"pymetaner [a-z]|python -m benchmarks\.", part)]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the pages speak of, in small: files in the working directory, and names."""
    monkeypatch.chdir(tmp_path)
    model = model_of()
    model.memory.add(CORPUS)
    for name in ("runs/en", "runs/encoder", "some-user/some-ner-model"):
        model.save_pretrained(name)
    deep = network_of(num_hidden_layers=5)  # of which four are frozen there
    pymetaner.MetaNER(deep, model.tokenizer).save_pretrained("bert-base-multilingual-cased")
    for name in ("train.conll", "train.txt", "dev.txt", "test.conll"):
        pymetaner.write(name, CORPUS, format="columns")
    words = (
        (str(i), word, tag) for i, (word, tag) in enumerate(zip(CORPUS[0].words, CORPUS[0].tags or (), strict=True))
    )
    Path("en_ewt-ud-train.iob2").write_text("".join("\t".join(line) + "\n" for line in words))
    rows = [{"tokens": list(sentence.words), "ner_tags": list(sentence.tags or ())} for sentence in CORPUS]
    texts = [sentence.text for sentence in CORPUS]
    vectors = np.random.default_rng(0).standard_normal((20, 768), np.float32)
    monkeypatch.setattr(pymetaner, "default_model", lambda: model)
    monkeypatch.setattr(wu2020, "TRAIN", replace(wu2020.TRAIN, steps=1))
    return {
        "pymetaner": pymetaner, "np": np, "torch": torch, "model": model, "text": texts[0], "texts": texts,
        "lines": texts, "sentences": [*CORPUS, parse("[Aspirin|DRUG] helps .")], "dev": CORPUS, "test": CORPUS,
        "vectors": vectors, "queries": vectors[:3], "load_dataset": lambda name: {"train": rows},
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*tags of .* were repaired")
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_code_of_a_page_runs(page: Path, shop: dict[str, Any]) -> None:
    for code in fences(page, "python"):
        if "train(" in code:  # into a folder of its own, with types that its model knows
            code, shop["sentences"] = code.replace('"runs/en"', '"runs/new"'), CORPUS
        exec(compile(code.replace("steps=1200", "steps=1"), f"{page.name}: {code[:40]}", "exec"), shop)


def modules() -> Iterator[str]:
    """Every module of the package that can be imported here."""
    for module in pkgutil.walk_packages(pymetaner.__path__, "pymetaner."):
        if not module.name.endswith(("__main__", "_cuda")):
            yield module.name


def test_the_examples_of_docstrings_run(shop: dict[str, Any]) -> None:
    ran = 0
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for name in modules():
        module = importlib.import_module(name)
        names = {**vars(pymetaner), **shop, **vars(module)}
        for example in doctest.DocTestFinder().find(module, globs=names):
            told: list[str] = []
            failed, _ = runner.run(example, out=told.append)
            assert not failed, "".join(told)
            ran += bool(example.examples)
    assert ran > 30


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_commands_of_a_page_exist(page: Path, shop: dict[str, Any]) -> None:
    for line in programs(page):
        words = shlex.split(line, comments=True)
        if words[0] == "python":
            module = importlib.import_module(words[2])
            if not hasattr(module, "main"):
                module = importlib.import_module(f"{words[2]}.__main__")
            single = typer.Typer(add_completion=False)
            single.command()(module.main)
            command, words = typer.main.get_command(single), words[2:]
        else:
            command = typer.main.get_command(app)
        while commands := getattr(command, "commands", None):
            words = words[1:]
            assert words[0] in commands, line
            command = commands[words[0]]
        try:
            command.make_context(words[0], words[1:])
        except typer.BadParameter as error:  # named, not shown in full; or with a file that is not here
            assert type(error).__name__ == "MissingParameter" or "does not exist" in error.message, line


def anchors(page: Path) -> set[str]:
    """What a link into a page may name: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=[*NAMES, "CHANGELOG.md"])
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target
