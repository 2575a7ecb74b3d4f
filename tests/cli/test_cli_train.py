"""`pymetaner train`."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import CORPUS

from pymetaner import MetaNER, TrainSettings, read, write
from pymetaner.cli.training import train as command
from pymetaner.files import PLAIN
from pymetaner.training import loop, wu2020
from pymetaner.training.state import TrainingState

FEW = ("--steps", 6, "--batch-size", 4, "--evaluate-every", 3, "--checkpoint-every", 2, "--freeze-layers", 1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def trained(folder: Path, labelled_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with a memory."""
    from typer.testing import CliRunner

    from pymetaner.cli import app

    out = tmp_path_factory.mktemp("runs") / "one"
    arguments = ("train", labelled_file, "--dev", labelled_file, "--encoder", folder, "--out", out, *FEW)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "dev F1" in result.stdout and "16 sentences in the memory" in result.stdout
    return out


def test_a_trained_model_is_complete(run: Any, trained: Path, folder: Path, labelled_file: Path) -> None:
    model = MetaNER.from_pretrained(trained)
    assert model.types == {"PER", "ORG", "LOC"}
    assert model.settings.freeze_layers == 1
    assert [sentence.words for _, sentence in model.memory] == [sentence.words for sentence in CORPUS]
    assert model.memory.sources().keys() == {labelled_file.name}
    assert not same(weights(trained), weights(folder))
    report = json.loads((trained / "training.json").read_text())
    assert [step for step, _ in report["history"]] == [3, 6]
    result = json.loads(run("evaluate", trained, labelled_file, "--adapt", "--json").stdout)
    assert result["files"][0]["plain"]["f1"] == pytest.approx(report["best_f1"])


def test_a_finished_run_is_left_alone(run: Any, trained: Path, folder: Path, labelled_file: Path) -> None:
    arguments = ("train", labelled_file, "--dev", labelled_file, "--encoder", folder, "--out", trained)
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert "nothing to do" in run(*arguments, *FEW).stderr
    result = run(*arguments, *FEW, "--lr", 0.01, exits=2)
    assert "finished run with other lr" in result.stderr
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_on_other_data_is_not_taken_for_the_finished_one(
    run: Any, trained: Path, folder: Path, labelled_file: Path, tmp_path: Path
) -> None:
    less = tmp_path / "less.conll"
    write(less, CORPUS[:8], "columns")
    for changed, told in (
        ((less, "--dev", labelled_file, "--encoder", folder), "data"),
        ((labelled_file, "--encoder", folder), "data"),
        ((labelled_file, "--dev", labelled_file, "--encoder", folder, "--types", "PER"), "labels"),
        ((labelled_file, "--dev", labelled_file, "--encoder", folder, "--pooling", "cls"), "model"),
    ):
        result = run("train", *changed, "--out", trained, *FEW, exits=2)
        assert "finished run with other" in result.stderr and told in result.stderr


def test_the_encoder_is_not_written_over(run: Any, folder: Path, labelled_file: Path) -> None:
    before = weights(folder)
    result = run("train", labelled_file, "--encoder", folder, "--out", folder, "--overwrite", *FEW, exits=2)
    assert "give another folder" in result.stderr
    assert same(weights(folder), before)


def test_what_cannot_be_trained_on_overwrites_nothing(run: Any, trained: Path, folder: Path, tmp_path: Path) -> None:
    unknown = tmp_path / "unknown.conll"
    unknown.write_text("Ada B-SCIENTIST\n")
    run("train", unknown, "--model", folder, "--out", trained, "--overwrite", exits=1)
    assert len(MetaNER.from_pretrained(trained).memory) == 16
    assert (trained / "training.json").exists()


def test_a_run_that_goes_astray_is_told(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    arguments = ("train", labelled_file, "--encoder", folder, "--out", tmp_path / "x", "--lr", 1e30, "--steps", 3)
    assert "give a smaller lr" in run(*arguments, exits=1).stderr
    assert not (tmp_path / "x" / "model.safetensors").exists()


def test_a_model_that_no_run_made_is_not_written_over(
    run: Any, folder: Path, labelled_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    MetaNER.from_pretrained(folder).network.save_pretrained(out)
    before = (out / "model.safetensors").read_bytes()
    start = ("train", labelled_file, "--model", folder, "--out", out, "--steps", 1)
    assert "no run made" in run(*start, exits=2).stderr
    assert (out / "model.safetensors").read_bytes() == before
    run(*start, "--overwrite")
    assert "about a new head" in run(*start, "--overwrite", "--head-seed", 3, exits=2).stderr


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_run_stopped_around_its_first_weights_goes_on(
    run: Any, folder: Path, labelled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    """Before or after they are saved, and long before the first checkpoint is due."""
    out = tmp_path / "run"
    start = ("train", labelled_file, "--dev", labelled_file, "--encoder", folder, "--steps", 4)
    options = ("--evaluate-every", 2, "--checkpoint-every", 100, "--out")

    save = loop.save

    def stop(*given: Any, **named: Any) -> None:
        if stopped:
            save(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save", stop)
        run(*start, *options, out, exits=130)
    run(*start, *options, out)
    run(*start, *options, tmp_path / "whole")
    assert same(weights(out), weights(tmp_path / "whole"))


def test_a_memory_stays_if_the_run_that_was_to_replace_it_fails(
    run: Any, folder: Path, labelled_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    start = ("train", labelled_file, "--model", folder, "--out", out, "--steps", 2, "--overwrite")
    run(*start)
    run("memory", "add", out, "[PER Rosa Montero] sang")
    run(*start, "--lr", 1e30, exits=1)
    assert "Rosa Montero" in run("memory", "list", out).stdout
    run(*start)
    assert "Rosa Montero" not in run("memory", "list", out).stdout
    (out / "memory.sqlite.before").touch()  # of a run that was killed
    run(*start)
    assert not list(out.glob("*.before"))


def test_a_stopped_run_goes_on(
    run: Any, trained: Path, folder: Path, labelled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    arguments = ("train", labelled_file, "--dev", labelled_file, "--encoder", folder, "--out", out, *FEW)
    save = TrainingState.save

    def stop(state: TrainingState, step: int) -> None:
        save(state, step)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "save", stop)
        stopped = run(*arguments, exits=130)
    assert "Traceback" not in stopped.stderr
    assert not (out / "training.json").exists()
    run(*arguments)
    assert same(weights(out), weights(trained))
    assert len(MetaNER.from_pretrained(out).memory) == 16


def test_a_run_stopped_before_its_memory_was_made_gets_it(
    run: Any, trained: Path, folder: Path, labelled_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ("train", labelled_file, "--dev", labelled_file, "--encoder", folder, "--out", out, *FEW)
    run(*arguments, "--no-memory")
    assert len(MetaNER.from_pretrained(out).memory) == 0
    assert "16 sentences in the memory" in run(*arguments).stdout
    assert len(MetaNER.from_pretrained(out).memory) == 16
    assert same(weights(out), weights(trained))


def test_other_types_become_o(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("train", labelled_file, "--encoder", folder, "--out", out, "--steps", 1, "--types", "PER, LOC")
    result = run(*arguments)
    assert "ORG is not among --types: 8 entities read as O" in result.stderr
    model = MetaNER.from_pretrained(out)
    assert model.types == {"PER", "LOC"} == model.memory.types
    assert "comma" in run(*arguments[:-1], "PER,,LOC", "--overwrite", exits=2).stderr


def test_a_model_is_trained_further_and_keeps_its_memory(run: Any, folder: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "new.jsonl", tmp_path / "run"
    write(file, [CORPUS[0].with_tags(["O"] * len(CORPUS[0]))])
    arguments = ("train", file, "--model", folder, "--out", out, "--steps", 1, "--freeze-layers", 0)
    for later in ((), ("--overwrite", "--no-memory"), ()):  # at last as if it had been stopped before the memory
        run(*arguments, *later)
        model = MetaNER.from_pretrained(out)
        expected = {} if later else {"corpus": 16, "new.jsonl": 1}
        assert {name: len(ids) for name, ids in model.memory.sources().items()} == expected
        assert model.fingerprint != MetaNER.from_pretrained(folder).fingerprint  # its vectors were made anew
    unknown = tmp_path / "unknown.conll"
    unknown.write_text("Ada B-SCIENTIST\n")
    result = run("train", unknown, "--model", folder, "--out", tmp_path / "other", exits=1)
    assert "SCIENTIST" in result.stderr


def test_characters_are_regrouped_as_for_tagging(run: Any, folder: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "zh.conll", tmp_path / "run"
    tags = ["O", "O", "B-ORG", "I-ORG", "I-ORG", "I-ORG", "O", "O"]
    file.write_text("".join(f"{c} {tag}\n" for c, tag in zip("他在北京大学读书", tags, strict=True)))
    run("train", file, "--encoder", folder, "--out", out, "--steps", 1)
    ((_, sentence),) = MetaNER.from_pretrained(out).memory
    assert sentence.words == ("他", "在", "北京大学", "读书")


def test_overwrite_starts_anew(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("train", labelled_file, "--encoder", folder, "--out", out, "--steps", 1)
    run("train", labelled_file, "--encoder", folder, "--out", out, "--steps", 2, "--overwrite", "--no-memory")
    assert json.loads((out / "training.json").read_text())["settings"]["steps"] == 2
    assert len(MetaNER.from_pretrained(out).memory) == 0


@pytest.mark.parametrize("start", [(), ("--encoder", "x", "--model", "y")])
def test_one_thing_to_start_from(run: Any, labelled_file: Path, tmp_path: Path, start: tuple[str, ...]) -> None:
    assert "start from" in run("train", labelled_file, "--out", tmp_path / "run", *start, exits=2).stderr


def test_a_model_is_not_trained_over_itself(run: Any, folder: Path, labelled_file: Path) -> None:
    result = run("train", labelled_file, "--model", folder, "--out", folder, exits=2)
    assert "give another folder" in result.stderr
    assert len(list(read(labelled_file))) == 16


def test_the_defaults_are_the_library_s() -> None:
    parameters = inspect.signature(command).parameters
    for field in fields(TrainSettings):
        if field.name in parameters:
            assert parameters[field.name].default == field.default, field.name


@pytest.mark.parametrize(("options", "words"), [((), "as a mean of two runs"), (("--no-average",), "at step")])
def test_a_plain_run_is_averaged_with(
    run: Any, folder: Path, labelled_file: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    arguments = ("train", labelled_file, "--dev", labelled_file, "--encoder", folder, "--out", tmp_path / "meta")
    told = run(*arguments, *FEW, "--meta", *options).stdout
    report = json.loads((tmp_path / "meta" / "training.json").read_text())
    assert ("averaged with" in report) == report["meta"]["average"] == (not options)
    assert f"dev F1 {100 * report['best_f1']:.2f} {words}" in told
    assert not (tmp_path / "meta" / PLAIN).exists()


def test_learning_to_adapt(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    arguments = ("train", labelled_file, "--encoder", folder, "--out", tmp_path / "meta", *FEW, "--meta")
    run(*arguments, "--k", 3, "--inner-lr", 0.05, "--inner-lambda-max", 0, "--learn-rates", "--no-memory")
    rates = MetaNER.from_pretrained(tmp_path / "meta").settings.lr["sgd"]
    assert isinstance(rates, tuple) and all(rate == pytest.approx(0.05, rel=0.2) for rate in rates)
    assert len(set(rates)) > 1
    report = json.loads((tmp_path / "meta" / "training.json").read_text())
    assert report["meta"]["k"] == 3 and report["meta"]["learn_rates"] and report["meta"]["order"] == 1
    other = run(*arguments, "--k", 2, "--no-memory", exits=2)
    assert "a finished run with other meta" in other.stderr


def test_the_official_settings(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    few = ("--steps", 2, "--batch-size", 4, "--freeze-layers", 1, "--seed", 495)
    out = tmp_path / "wu2020"
    run("train", labelled_file, "--encoder", folder, "--out", out, "--preset", "wu2020", *few)
    model = MetaNER.from_pretrained(out)
    assert model.labels.tags[-3:] == ("X", "[CLS]", "[SEP]")
    assert model.settings.pooling == "cls" and model.settings.decoding == "argmax"
    assert model.settings.freeze_layers == 1 and model.settings.lr["bertadam"] == 1e-5
    assert len(model.memory) == 16
    report = json.loads((out / "training.json").read_text())
    changed = {"steps": 2, "batch_size": 4, "seed": 495}
    assert report["settings"] == {**asdict(wu2020.TRAIN), **changed}
    assert report["meta"] == asdict(wu2020.META)
    refused = run("train", labelled_file, "--model", folder, "--out", out, "--preset", "wu2020", exits=2)
    assert "give --encoder" in refused.stderr


def test_a_head_that_labels_every_piece(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    arguments = ("train", labelled_file, "--out", tmp_path / "x", *FEW, "--no-memory", "--label-all-pieces")
    run(*arguments, "--encoder", folder)
    assert MetaNER.from_pretrained(tmp_path / "x").words.others is not None
    assert "give --encoder" in run(*arguments, "--model", folder, exits=2).stderr


def test_options_of_learning_to_adapt_need_it(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    result = run("train", labelled_file, "--encoder", folder, "--out", tmp_path / "x", "--learn-rates", exits=2)
    assert "--learn-rates is about learning to adapt: give --meta too" in result.stderr
