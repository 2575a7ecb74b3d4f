"""`pymetaner self-train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CORPUS

from pymetaner import MetaNER, self_train


def test_a_model_trains_itself_on_text(run: Any, folder: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "es.txt", tmp_path / "es"
    text.write_text("\n".join(["", *(s.text for s in CORPUS), " "]), encoding="utf-8")
    told = run("self-train", text, "--model", folder, "--out", out, "--steps", 3, "--lr", 0.01, "--seed", 5).stdout
    assert f"trained on {len(CORPUS)} sentences of text; {len(CORPUS)} sentences in the memory" in told
    saved = MetaNER.from_pretrained(out)
    model = MetaNER.from_pretrained(folder)
    expected = self_train(model, [s.text for s in CORPUS], steps=3, lr=0.01, seed=5).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.state_dict().items())
    assert any(not torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_what_it_cannot_do_is_told(run: Any, folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "blank.txt"
    text.write_text("\n \n", encoding="utf-8")
    assert "no text has a word" in run("self-train", text, "--model", folder, "--out", tmp_path / "new", exits=1).stderr
    assert "give another folder" in run("self-train", text, "--model", folder, "--out", folder, exits=2).stderr
    assert not (tmp_path / "new").exists()


def test_where_nothing_can_be_written_is_told_before_the_work(
    run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymetaner.unlabelled.self_train", lambda *_, **__: pytest.fail("it was trained"))
    (tmp_path / "texts").write_text("Ada slept\n")
    shown = run("self-train", tmp_path / "texts", "--model", folder, "--out", tmp_path / "texts" / "x", exits=1).stderr
    assert "no folder that can be written to" in shown
