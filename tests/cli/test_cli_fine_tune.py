"""`pymetaner fine-tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CORPUS

from pymetaner import Memory, MetaNER, Sentence, fine_tune, write


def test_a_model_is_fine_tuned_on_files_or_a_memory(run: Any, folder: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "few.conll", tmp_path / "tuned"
    write(file, CORPUS[:4], format="columns")
    model = MetaNER.from_pretrained(folder)
    with Memory(model, tmp_path / "few.sqlite") as memory:
        memory.add(CORPUS[:4])
    expected = fine_tune(model, CORPUS[:4], steps=3, lr=0.01, seed=5).state_dict()
    told = f"fine-tuned on 4 sentences; {len(CORPUS)} sentences in the memory"
    for source, text in (((file,), told), (("--memory", tmp_path / "few.sqlite"), "; 4 sentences in the memory")):
        options = ("--model", folder, "--out", out, "--steps", 3, "--lr", 0.01, "--seed", 5, "--overwrite")
        assert text in run("fine-tune", *source, *options).stdout
        saved = MetaNER.from_pretrained(out).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.items())
    own = run("fine-tune", "--model", folder, "--out", tmp_path / "own", "--steps", 1).stdout
    assert f"fine-tuned on {len(CORPUS)} sentences; {len(CORPUS)} sentences in the memory" in own


def test_types_that_the_model_does_not_tag_are_refused_or_read_as_o(run: Any, folder: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "few.conll", tmp_path / "tuned"
    file.write_text("Ada\tB-PER\ntook\tO\nAspirin\tB-DRUG\n", encoding="utf-8")
    options = ("--model", folder, "--steps", 1, "--out", out)
    assert "give --types LOC,ORG,PER" in run("fine-tune", file, *options, exits=1).stderr
    assert (
        "DRUG is not among --types: 1 entity read as O"
        in run("fine-tune", file, *options, "--types", "LOC,ORG,PER").stderr
    )
    assert len(MetaNER.from_pretrained(out).memory.find(Sentence(("Ada", "took", "Aspirin")))) == 1


def test_what_it_cannot_do_is_told(run: Any, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "few.conll"
    write(file, CORPUS[:4], format="columns")
    both = ("fine-tune", file, "--memory", tmp_path / "no.sqlite", "--model", folder, "--out", tmp_path / "new")
    assert "give the one or the other" in run(*both, exits=2).stderr
    assert "does not exist" in run("fine-tune", *both[2:], exits=1).stderr
    for option in (("--types", "PER"), ("--delimiter", "x"), ("--notation", "IO")):
        told = run("fine-tune", "--model", folder, "--out", tmp_path / "new", *option, exits=2).stderr
        assert f"{option[0]} is about labelled files" in told
    assert "give another folder" in run("fine-tune", file, "--model", folder, "--out", folder, exits=2).stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["fine-tune", "self-train", "average", "extend"])
def test_a_memory_is_not_written_over(run: Any, folder: Path, tmp_path: Path, command: str) -> None:
    out, file, text = tmp_path / "memory", tmp_path / "few.conll", tmp_path / "text.txt"
    out.mkdir()
    run("memory", "add", out, "[PER Rosa Montero] sang", "--model", folder)
    file.write_text("Ada\tB-PER\ntook\tO\nAspirin\tB-DRUG\n", encoding="utf-8")
    text.write_text("Ada slept\n", encoding="utf-8")
    start = {
        "fine-tune": (file, "--types", "PER", "--model", folder, "--steps", 1),
        "self-train": (text, "--model", folder, "--steps", 1),
        "average": (folder, folder),
        "extend": (file, "--model", folder),
    }[command]
    assert "holds a memory already" in run(command, *start, "--out", out, exits=2).stderr
    assert "Rosa Montero" in run("memory", "list", out).stdout
    run(command, *start, "--out", out, "--overwrite")
