"""`pymetaner evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pymetaner
from pymetaner.evaluation import Evaluation
from pymetaner.learning import Learning, inner_step


@pytest.fixture
def expected(folder: Path, labelled_file: Path) -> Evaluation:
    model = pymetaner.MetaNER.from_pretrained(folder)
    learning = Learning(model.memory, 2, inner_step(model, 0.5, 1, "sgd"), exclude_self=True)
    return pymetaner.evaluate(model, list(pymetaner.read(labelled_file)), learning=learning)


ADAPT = ("--adapt", "--lr", 0.5, "--exclude-self")


def test_json_is_what_the_library_returns(run: Any, folder: Path, labelled_file: Path, expected: Evaluation) -> None:
    data = json.loads(run("evaluate", folder, labelled_file, *ADAPT, "--json").stdout)
    (file,) = data["files"]
    assert expected.adapted is not None
    assert file["plain"]["f1"] == expected.plain.f1
    assert file["adapted"]["f1"] == expected.adapted.f1
    assert file["adapted"]["per_type"]["LOC"]["recall"] == expected.adapted.per_type["LOC"].recall
    assert file["changed"] == expected.changed > 0
    assert file["notation"] == "IOB2"
    assert data["adapt"]["lr"] == 0.5 and data["adapt"]["exclude_self"] is True


def test_table_has_plain_and_adapted_for_each_type(
    run: Any, folder: Path, labelled_file: Path, expected: Evaluation
) -> None:
    result = run("evaluate", folder, labelled_file, *ADAPT)
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert expected.adapted is not None
    for name in ("LOC", "ORG", "PER"):
        plain, adapted = expected.plain.per_type[name], expected.adapted.per_type[name]
        change = 100 * (adapted.f1 - plain.f1)
        figures = [plain.precision, plain.recall, plain.f1, adapted.precision, adapted.recall, adapted.f1]
        assert rows[name] == [str(plain.support), *(f"{100 * figure:.2f}" for figure in figures), f"{change:+.2f}"]
    assert rows["all"][3] == f"{100 * expected.plain.f1:.2f}"
    assert f"adapting changed {expected.changed} of 16 sentences" in result.stdout
    assert "16 sentences of 122 words, tags in IOB2 (0 repairs)" in result.stderr


def test_plain_alone(run: Any, folder: Path, labelled_file: Path, expected: Evaluation) -> None:
    result = run("evaluate", folder, labelled_file)
    assert "adapt" not in result.stdout
    data = json.loads(run("evaluate", folder, labelled_file, "--json").stdout)
    assert data["adapt"] is None and data["files"][0]["adapted"] is None
    assert data["files"][0]["plain"]["f1"] == expected.plain.f1


def test_several_files_and_their_mean(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tsv"
    other.write_text("Ada;I-PER\nslept;O\n\nParis;I-LOC\nLyon;B-LOC\n")
    arguments = ("evaluate", folder, labelled_file, other, "--delimiter", ";")
    assert "one column" in run(*arguments, exits=1).stderr
    other.write_text(other.read_text().replace(";", "\t"))
    result = run("evaluate", folder, labelled_file, other)
    data = json.loads(run("evaluate", folder, labelled_file, other, "--json").stdout)
    assert [file["notation"] for file in data["files"]] == ["IOB2", "IOB1"]
    mean = 50 * sum(file["plain"]["f1"] for file in data["files"])
    assert result.stdout.splitlines()[-1].split() == ["mean", f"{mean:.2f}"]


def test_types_that_only_one_side_knows(run: Any, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "types.conll"
    file.write_text("Ada B-PER\nwrote O\nBibles B-MISC\n")
    result = run("evaluate", folder, file)
    assert "predicted as no entity: LOC, ORG" in result.stderr
    assert "every one is missed: MISC" in result.stderr


def test_repairs_are_told(run: Any, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "stray.conll"
    file.write_text("Ada B-PER\nslept O\n\nin O\nParis I-LOC\n")
    result = run("evaluate", folder, file, "--notation", "IOB2")
    assert "(1 repair)" in result.stderr
    assert "warning" not in result.stderr


def test_scoring_and_reader_options(run: Any, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "columns.conll"
    file.write_text("B-PER\tx\tAda\nO\tx\tslept\n")
    options = ("--word-column", 2, "--tag-column", 0, "--delimiter", r"\t", "--encoding", "ascii")
    data = json.loads(run("evaluate", folder, file, *options, "--scoring", "conlleval", "--json").stdout)
    assert data["scoring"] == "conlleval"
    assert data["files"][0]["plain"]["support"] == 1


@pytest.mark.parametrize(
    "option", [("--k", 3), ("--memory", "m.sqlite"), ("--exclude-self",), ("--engine", "reference"), ("--lr", 1.0)]
)
def test_an_option_for_adapting_needs_it(
    run: Any, folder: Path, labelled_file: Path, option: tuple[object, ...]
) -> None:
    result = run("evaluate", folder, labelled_file, *option, exits=2)
    assert f"{option[0]} is about adapting" in result.stderr


def test_a_missing_file_is_a_usage_error(run: Any, folder: Path, tmp_path: Path) -> None:
    run("evaluate", folder, tmp_path / "none.conll", exits=2)
    result = run("evaluate", tmp_path / "none", __file__, exits=1)
    assert "does not exist" in result.stderr


def test_the_name_of_a_file_is_never_wrapped(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    file = tmp_path / ("a long name " * 12 + ".conll")
    file.write_bytes(labelled_file.read_bytes())
    assert f"{file}: 16 sentences\n" in run("evaluate", folder, file).stdout
