"""`pymetaner average`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import CORPUS

from pymetaner import MetaNER, average, fine_tune


def test_the_mean_of_folders_is_saved(run: Any, folder: Path, tmp_path: Path) -> None:
    model = MetaNER.from_pretrained(folder)
    other, out = tmp_path / "other", tmp_path / "mean"
    fine_tune(model, CORPUS[:4], steps=2, lr=0.01).save_pretrained(other)
    told = run("average", folder, other, "--out", out).stdout
    assert f"the mean of 2 models; {len(CORPUS)} sentences in the memory" in told
    expected = average([model, MetaNER.from_pretrained(other)]).state_dict()
    saved = MetaNER.from_pretrained(out)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.state_dict().items())
    assert "--overwrite" in run("average", folder, other, "--out", out, exits=2).stderr
    run("average", other, "--out", out, "--overwrite")
    assert "stays as it is" in run("average", folder, other, "--out", other, "--overwrite", exits=2).stderr


def test_the_head_has_a_seed_of_its_own(run: Any, folder: Path, labelled_file: Path, tmp_path: Path) -> None:
    from tiny import network_of, tokenizer_of

    network_of("bert").base_model.save_pretrained(tmp_path / "encoder")
    tokenizer_of("wordpiece").save_pretrained(tmp_path / "encoder")

    def train(out: str, *options: object) -> Path:
        start = ("--encoder", tmp_path / "encoder", "--steps", 2, "--no-memory", "--freeze-layers", 1)
        run("train", labelled_file, *start, "--out", tmp_path / out, *options)
        return tmp_path / out

    one, same = train("one"), train("same", "--seed", 7, "--head-seed", 95)
    assert "the mean of 2 models" in run("average", one, same, "--out", tmp_path / "mean").stdout
    other = train("other", "--seed", 7)
    assert "one and the same seed" in run("average", one, other, "--out", tmp_path / "none", exits=1).stderr
