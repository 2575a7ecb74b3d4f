"""`pymetaner extend`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import CORPUS, parse

from pymetaner import MetaNER, write


def test_a_model_gets_a_new_type(run: Any, folder: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "drugs.conll", tmp_path / "new"
    write(file, [parse("[aspirin|DRUG] helps [Ada|PER] ."), parse("Nobody took [aspirin|DRUG] .")], "columns")
    arguments = ("extend", file, "--model", folder, "--out")
    assert "tags DRUG beside LOC, ORG, PER; 18 sentences in the memory" in run(*arguments, out).stdout
    extended = MetaNER.from_pretrained(out)
    assert extended.types == {"PER", "ORG", "LOC", "DRUG"}
    assert len(extended.memory.sources()["drugs.conll"]) == 2
    assert "holds a model already" in run(*arguments, out, "--no-memory", exits=2).stderr
    assert len(MetaNER.from_pretrained(out).memory) == len(CORPUS) + 2
    run(*arguments, out, "--no-memory", "--overwrite")
    assert len(MetaNER.from_pretrained(out).memory) == len(CORPUS)


def test_a_model_is_not_extended_over_itself(run: Any, folder: Path, labelled_file: Path) -> None:
    assert "give another folder" in run("extend", labelled_file, "--model", folder, "--out", folder, exits=2).stderr


def test_files_without_a_new_type(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    result = run("extend", labelled_file, "--model", folder, "--out", tmp_path / "new", exits=1)
    assert "no entity of a new type" in result.stderr
    assert not (tmp_path / "new").exists()
