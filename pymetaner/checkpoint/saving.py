"""Saving model folders, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from pymetaner.errors import PymetanerError, SaveError, SettingError
from pymetaner.files import MEMORY, PACKED, SETTINGS, SETTINGS_FORMAT, SOURCE, STAGE, WEIGHTS, sync
from pymetaner.packing import pack_tensors, unpack_file

if TYPE_CHECKING:
    from pymetaner.model import MetaNER

__all__ = ["save"]


def save(model: MetaNER, folder: Path, *, packed: bool = False, with_memory: bool = True) -> None:
    """Write a model folder: everything under temporary names first, then renamed into place.

    Args:
        model: the model.
        folder: the folder; made if it is not there.
        packed: write the weights in the small form of `pymetaner.packing`.
        with_memory: write the memory too; False leaves the one in the folder as it is.
    """
    memory = model.memory if with_memory else None
    if memory is not None:
        memory.check(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=STAGE, dir=folder))
    except OSError as error:
        raise SaveError(f"the model cannot be saved to {folder}: {error}") from error
    try:
        _write(model, stage, packed)
        if packed and memory and not _keeps_vectors(model, stage / PACKED):
            raise SettingError(
                "packing rounds the frozen weights, which moves every vector of the memory: save packed with an empty "
                "memory (model.memory = Memory(model)), load that, fill or rebuild its memory, and save packed again"
            )
        names = sorted(path.name for path in stage.iterdir())
        for name in names:
            (stage / name).chmod((stage / SETTINGS).stat().st_mode)  # safetensors' own would be for the owner alone
            sync(stage / name)
        stale = {WEIGHTS, PACKED, SOURCE} - set(names)
        # A memory that is open on the very file in the folder is up to date there already.
        in_place = memory and memory.path and memory.path.resolve() == (folder / MEMORY).resolve()
        if memory and not in_place:
            memory.save(folder / MEMORY)
        elif memory is not None and not in_place:
            memory.check_unchanged(folder / MEMORY)
            stale.add(MEMORY)
        # Nothing can run out of space from here on.
        for name in names:
            os.replace(stage / name, folder / name)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
    except PymetanerError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception on a full disk
        raise SaveError(f"the model could not be saved to {folder} ({error}); what was there before is kept") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write(model: MetaNER, stage: Path, packed: bool) -> None:
    network = model.network
    config = network.config
    config.id2label = dict(enumerate(model.labels.tags))
    config.label2id = {tag: i for i, tag in enumerate(model.labels.tags)}
    config.architectures = [type(network).__name__]
    config.save_pretrained(stage)
    model.tokenizer.save_pretrained(stage)
    tensors: dict[str, Tensor] = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    if packed:
        small, metadata = pack_tensors(tensors)
        save_file(small, stage / PACKED, metadata=metadata)
    else:
        save_file(_untied(tensors), stage / WEIGHTS, metadata={"format": "pt"})
    if model.source is not None:
        model.source.save(stage / SOURCE)
    settings = {"format": SETTINGS_FORMAT, **asdict(model.settings)}
    (stage / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _keeps_vectors(model: MetaNER, packed: Path) -> bool:
    """Whether the weights that make the sentence vectors are, number by number, the same in a packed file."""
    tensors = unpack_file(packed)
    prefix = model.network.base_model_prefix
    return all(
        torch.equal(tensor.detach().to("cpu", tensors[f"{prefix}.{name}"].dtype), tensors[f"{prefix}.{name}"])
        for name, tensor in model.vector_tensors().items()
    )


def _untied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with memory of their own, which safetensors asks for."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result
