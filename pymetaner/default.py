"""The model that comes with the package."""

from __future__ import annotations

from pathlib import Path

import torch

from pymetaner.errors import ModelFileError
from pymetaner.model import MetaNER

__all__ = ["default_folder", "default_model"]


def default_folder() -> Path:
    """The folder of the default model: in the installed package, or in the source tree next to it."""
    import pymetaner

    for package in map(Path, pymetaner.__path__):
        for folder in (package / "models" / "default", package.parent / "models" / "default"):
            if (folder / "config.json").exists():
                return folder
    raise ModelFileError("this installation of pymetaner has no default model: install the wheel, or give a model")


def default_model(device: str | torch.device = "cpu") -> MetaNER:
    """The multilingual model that comes with pymetaner (PER, ORG, LOC) and its memory; nothing is downloaded.

    Its card, with data, licence and scores, is ``models/default/README.md``.

    Args:
        device: where to put the weights.
    """
    return MetaNER.from_pretrained(default_folder(), device=device)
