"""What all commands share: help, errors, warnings, streams; and `info` and `demo`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer

import pymetaner
import pymetaner.cli
from pymetaner.cli.brackets import labelled
from pymetaner.cli.output import shown_warnings
from pymetaner.errors import SaveError

COMMANDS = ("adapt", "predict", "demo", "evaluate", "train", "memory", "info")


def test_help(run: Any) -> None:
    text = run("--help").stdout
    assert all(command in text for command in COMMANDS)
    assert run(exits=2).output.split() == text.split()  # no command at all shows the same
    for command in COMMANDS:
        assert "Usage" in run(command, "--help").stdout


def test_version(run: Any) -> None:
    assert run("--version").stdout == f"pymetaner {pymetaner.__version__}\n"


def test_help_comes_without_heavy_imports() -> None:
    code = (
        "import sys\nfrom pymetaner.cli import main\nsys.argv[1:] = ['train', '--help']\ntry:\n    main()\n"
        "except SystemExit:\n    heavy = {'torch', 'transformers', 'numpy', 'seqeval'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--mask-probability" in done.stdout


def test_the_module_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "pymetaner", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pymetaner {pymetaner.__version__}\n", "")


def raises(error: BaseException) -> Any:
    def function(*_: Any, **__: Any) -> NoReturn:
        raise error

    return function


def test_an_error_is_a_line(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymetaner.adaptation.predict", raises(SaveError("the disk is full")))
    result = run("predict", "--model", folder, "x", exits=1)
    assert (result.stdout, result.stderr) == ("", "error: the disk is full\n")
    debugged = run("--debug", "predict", "--model", folder, "x", exits=1)
    assert isinstance(debugged.exception, SaveError)


def test_an_error_of_the_system_is_a_line(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymetaner.adaptation.predict", raises(PermissionError(13, "Permission denied", "here")))
    assert "Permission denied: 'here'" in run("predict", "--model", folder, "x", exits=1).stderr


def test_a_mistake_of_ours_keeps_its_traceback(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymetaner.adaptation.predict", raises(ZeroDivisionError()))
    assert isinstance(run("predict", "--model", folder, "x", exits=1).exception, ZeroDivisionError)


def test_interrupted_quietly(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymetaner.adaptation.predict", raises(KeyboardInterrupt()))
    result = run("predict", "--model", folder, "x", exits=130)
    assert result.output == ""


def test_a_closed_pipe_is_quiet(folder: Path) -> None:
    """`pymetaner memory list ... | head`, with a reader that is gone from the start."""
    command = [sys.executable, "-m", "pymetaner", "memory", "list", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_closed_streams_and_other_encodings(folder: Path) -> None:
    start = [sys.executable, "-m", "pymetaner", "predict", "--model", str(folder)]
    for closed, arguments in (("<&-", ["--file", "-", "--jsonl"]), (">&-", ["Ada"])):
        command = f"{shlex.join([*start, *arguments])} {closed}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*start, "--jsonl", "Ada nació 😀"], capture_output=True, text=True, env=ascii_only, check=True
    )
    assert json.loads(done.stdout)["text"] == "Ada nació 😀"


def test_a_device_that_holds_no_numbers_is_refused(run: Any, folder: Path) -> None:
    assert "no such device" in run("predict", "Ada", "--model", folder, "--device", "meta", exits=2).stderr


def test_warnings_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_warnings():
        for _ in range(2):
            warnings.warn("tags were repaired", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    captured = capsys.readouterr()
    assert captured.err == "warning: tags were repaired\n" or sys.warnoptions
    assert captured.out == ""


def test_info(run: Any) -> None:
    facts = json.loads(run("info", "--json").stdout)
    assert facts["version"] == pymetaner.__version__
    shown = run("info").stdout
    assert facts["backend"] in shown and facts["packages"]["torch"] in shown
    assert all(device in shown for device in facts["devices"])


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(files("pymetaner.cli").joinpath("demo.json").read_text(encoding="utf-8"))
    return data


def test_the_demo_has_real_sentences_of_many_languages(script: dict[str, Any]) -> None:
    codes = [sentence["code"] for sentence in script["sentences"]]
    assert len(codes) >= 12 and len(set(codes)) >= 6 and "zh" in codes
    assert all(sentence["text"].strip() == sentence["text"] != "" for sentence in script["sentences"])
    sources = {sentence["source"].split()[0] for sentence in script["sentences"] if "source" in sentence}
    assert all(source in script["about"] for source in sources)
    for sentence in script["lesson"]["labelled"]:
        assert labelled(sentence, {"PER", "ORG", "LOC"}).entities


def test_demo(run: Any, folder: Path, script: dict[str, Any]) -> None:
    result = run("demo", "--model", folder, "--k", 3)
    texts = [sentence["text"] for sentence in script["sentences"]]
    model = pymetaner.MetaNER.from_pretrained(folder)
    for sentence, found in zip(script["sentences"], pymetaner.adapt(model, texts, k=3), strict=True):
        assert sentence["language"] in result.stdout
        assert f"{found.supports[0].similarity:.3f}  " in result.stdout
    assert result.stdout.count("adapted on") == len(texts) + 1
    assert all(f"+ {sentence}" in result.stdout for sentence in script["lesson"]["labelled"])
    assert len(pymetaner.MetaNER.from_pretrained(folder).memory) == len(model.memory)  # the file is as it was


def test_every_option_is_called_after_its_argument() -> None:
    # Some releases of typer call an option without a name of its own after its metavar: --ENCODER.
    def commands(group: Any) -> Any:
        for command in group.commands.values():
            yield from commands(command) if hasattr(command, "commands") else [command]

    options = [
        p
        for command in commands(typer.main.get_command(pymetaner.cli.app))
        for p in command.params
        if p.opts[0][0] == "-"
    ]
    assert len(options) > 50
    for option in options:
        longest = max(option.opts, key=len)
        assert longest == longest.lower() and longest.startswith("--")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["adapt", "--help"], ["memory", "list", "--help"]])
def test_help_into_a_closed_pipe_or_a_full_disk_is_quiet(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pymetaner", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_numbers_and_devices_that_cannot_be(run: Any, folder: Path) -> None:
    assert "too many" in run("predict", "Ada", "--model", folder, "--threads", 10**20, exits=2).stderr
    assert "no such device" in run("predict", "Ada", "--model", folder, "--device", "hpu", exits=2).stderr
    assert "whole number" in run("adapt", "Ada", "--model", folder, "-k", "9" * 5000, exits=2).stderr
    assert run("memory", "list", folder, "--limit", 10**20).stdout == run("memory", "list", folder).stdout
