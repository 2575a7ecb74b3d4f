"""`pymetaner adapt` and `predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pymetaner
from pymetaner.render import as_dict

TEXTS = ["Marie Curie nació en Varsovia.", "Ada Lovelace met nobody in Kyoto."]


def rounded(data: Any) -> Any:
    """The data with its numbers to 5 places: a batch of other sentences may round differently."""
    if isinstance(data, float):
        return round(data, 5)
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    return [rounded(value) for value in data] if isinstance(data, list) else data


def test_json_is_what_the_library_returns(run: Any, folder: Path) -> None:
    result = run("adapt", "--model", folder, "--k", 3, "--lr", 0.5, "--json", *TEXTS)
    model = pymetaner.MetaNER.from_pretrained(folder)
    expected = [as_dict(r) for r in pymetaner.adapt(model, TEXTS, k=3, lr=0.5)]
    assert rounded(json.loads(result.stdout)) == rounded(expected)
    assert any(item["changed"] for item in expected)
    assert all(len(item["supports"]) == 3 for item in expected)
    assert result.stderr == ""


def test_options_reach_the_library(run: Any, folder: Path) -> None:
    arguments = ("adapt", "--model", folder, "--json", "--k", 2, "--steps", 2, "--lr", 0.001)
    result = run(*arguments, "--inner-optimizer", "bertadam", "--engine", "reference", "--exclude-self", *TEXTS)
    model = pymetaner.MetaNER.from_pretrained(folder)
    settings: dict[str, Any] = {"steps": 2, "lr": 0.001, "inner_optimizer": "bertadam", "engine": "reference"}
    expected = pymetaner.adapt(model, TEXTS, k=2, exclude_self=True, **settings)
    assert rounded(json.loads(result.stdout)) == rounded([as_dict(r) for r in expected])


def test_where_the_time_went_is_told_on_standard_error(run: Any, folder: Path) -> None:
    arguments = ("adapt", "--model", folder, "--k", 3, "--json", "--profile", "--batch-size", 1)
    result = run(*arguments, TEXTS[0], TEXTS[0])
    assert "2 sentences, engine batched, fp32: reading" in result.stderr
    assert "6 supports, 50% from the cache" in result.stderr  # the second sentence meets those of the first
    assert json.loads(result.stdout) == json.loads(run(*arguments[:-3], "--batch-size", 1, TEXTS[0], TEXTS[0]).stdout)
    without = run(*arguments, "--cache-bytes", 0, TEXTS[0], TEXTS[0])
    assert "6 supports, 0% from the cache of 0.0 MB" in without.stderr
    assert "1 sentences, engine none" in run("predict", "--model", folder, "--profile", TEXTS[0]).stderr


def test_precision_and_the_max_term_reach_the_library(run: Any, folder: Path) -> None:
    result = run("adapt", "--model", folder, "--json", "--precision", "bf16", "--lambda-max", 2, "--lr", 0.5, *TEXTS)
    model = pymetaner.MetaNER.from_pretrained(folder)
    expected = pymetaner.adapt(model, TEXTS, precision="bf16", lambda_max=2.0, lr=0.5)
    assert rounded(json.loads(result.stdout)) == rounded([as_dict(r) for r in expected])
    refused = run("adapt", "--model", folder, "--precision", "fp8", *TEXTS, exits=2)
    assert "fp8" in refused.stderr


def test_predict_does_not_adapt(run: Any, folder: Path) -> None:
    result = run("predict", "--model", folder, "--json", *TEXTS)
    model = pymetaner.MetaNER.from_pretrained(folder)
    assert rounded(json.loads(result.stdout)) == rounded([as_dict(r) for r in pymetaner.predict(model, TEXTS)])
    assert json.loads(result.stdout)[0]["supports"] == []


def test_text_is_the_default_form(run: Any, folder: Path) -> None:
    result = run("adapt", "--model", folder, *TEXTS)
    assert result.stdout.count("adapted on") == 2
    assert "\x1b" not in result.stdout
    assert "\n\n[" in result.stdout or "\n\nAda" in result.stdout


def test_a_file_has_one_sentence_a_line(run: Any, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_bytes("\ufeffAda slept\r\n\n  \nVenice, 京都\u2028x\n".encode())
    result = run("adapt", "--model", folder, "--file", file, "--jsonl")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["text"] for line in lines] == ["Ada slept", "", "  ", "Venice, 京都\u2028x"]
    assert lines[1]["entities"] == []
    from_stdin = run("adapt", "--model", folder, "--file", "-", "--jsonl", input=file.read_bytes())
    assert from_stdin.stdout == result.stdout
    assert "(blank text)" not in run("adapt", "--model", folder, "--file", file).stdout


def test_many_lines_come_in_order(run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymetaner.cli.adapting.CHUNK", 3)
    file = tmp_path / "lines.txt"
    file.write_text("".join(f"Ada has {i}\n" for i in range(8)))
    result = run("predict", "--model", folder, "--file", file, "--jsonl")
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == [f"Ada has {i}" for i in range(8)]
    assert json.loads(run("predict", "--model", folder, "--file", file, "--json").stdout) == [
        json.loads(line) for line in result.stdout.splitlines()
    ]


def test_tokens_count_words(run: Any, folder: Path) -> None:
    result = run("predict", "--model", folder, "--tokens", "--json", "Ada Lovelace, slept")
    (item,) = json.loads(result.stdout)
    assert item["text"] == "Ada Lovelace, slept"
    assert all(entity["end"] <= 3 for entity in item["entities"])


def test_another_memory(run: Any, folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "other.sqlite"
    run("memory", "add", memory, "[PER Grace] left [LOC Oslo].", "--model", folder)
    result = run("adapt", "--model", folder, "--memory", memory, "--json", *TEXTS)
    assert [len(item["supports"]) for item in json.loads(result.stdout)] == [1, 1]
    assert json.loads(result.stdout)[0]["supports"][0]["text"] == "Grace left Oslo."
    missing = run("adapt", "--model", folder, "--memory", tmp_path / "none.sqlite", "x", exits=1)
    assert "none.sqlite does not exist" in missing.stderr
    assert not (tmp_path / "none.sqlite").exists()


def test_an_empty_memory_is_told_once(run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymetaner.cli.adapting.CHUNK", 3)
    memory = tmp_path / "empty.sqlite"
    run("memory", "add", memory, "[PER Grace] left.", "--model", folder)
    run("memory", "remove", memory, "--all")
    file = tmp_path / "lines.txt"
    file.write_text("Ada\n" * 8)
    result = run("adapt", "--model", folder, "--memory", memory, "--file", file, "--jsonl")
    assert result.stderr.count("the memory is empty") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "--file"),
        (("x", "--file", "-"), 2, "--file"),
        (("x", "--json", "--jsonl"), 2, "give one of them"),
        (("x", "--lr", "-1"), 2, "lr"),
        (("x", "--device", "nowhere"), 2, "nowhere"),
        (("x", "--k", "-1"), 2, "k"),
        (("--file", "missing.txt"), 1, "missing.txt"),
        (("--file", "."), 1, "cannot be read"),
    ],
)
def test_mistakes(run: Any, folder: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = run("adapt", "--model", folder, *arguments, exits=code)
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_bytes_that_are_no_text(run: Any, folder: Path) -> None:
    result = run("predict", "--model", folder, "--file", "-", input=b"fine\nnot \xff fine\n", exits=1)
    assert "standard input:2" in result.stderr


def test_tokens_are_split_at_spaces_and_tabs_alone(run: Any, folder: Path) -> None:
    shown = run(
        "predict", "--model", folder, "--tokens", "--jsonl", " Angela\u00a0Merkel  lebt\tin\u3000Berlin . "
    ).stdout
    assert json.loads(shown)["text"] == "Angela\u00a0Merkel lebt in\u3000Berlin ."
