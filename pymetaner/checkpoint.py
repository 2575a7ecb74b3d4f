"""Model folders: finding, loading and saving them.

A folder holds what `AutoModelForTokenClassification` needs (config, safetensors weights, tokenizer) and, if pymetaner
wrote it, ``pymetaner.json`` (the settings) and ``memory.sqlite`` (the memory, if it is not empty).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from pymetaner.errors import (
    EncoderMismatchError,
    LabelSchemeError,
    ModelFileError,
    PymetanerError,
    SaveError,
    SettingError,
    UnsupportedModelError,
)
from pymetaner.files import CONFIG, MEMORY, SETTINGS, STAGE
from pymetaner.labels import LabelScheme
from pymetaner.memory import Memory
from pymetaner.network import head_of, longest_window
from pymetaner.packing import pack_tensors, unpack_file
from pymetaner.randomness import seeding
from pymetaner.settings import STEP_SIZES, Settings
from pymetaner.view import borrowed_view

if TYPE_CHECKING:
    from pymetaner.model import MetaNER

__all__ = ["default_settings", "find", "label_names", "load", "new", "save"]

WEIGHTS, PACKED = "model.safetensors", "model.packed.safetensors"
FORMAT = 1
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", MEMORY]

Model = TypeVar("Model", bound="MetaNER")


def find(model: str | PathLike[str], **hub: Any) -> Path:
    """The local folder of a model: the path itself, or a snapshot of the hub repository of that id."""
    if not isinstance(model, str | PathLike) or "\0" in os.fspath(model):
        raise ModelFileError(f"{model!r} is no model: give the folder of one, or a hub id")
    path = Path(model)
    if path.is_dir():
        return path
    name = os.fspath(model)
    looks_like_path = (
        path.exists() or name.startswith((".", "~", os.sep)) or name.count("/") > 1 or os.sep == "\\" in name
    )
    if looks_like_path:
        what = "is a file" if path.exists() else "does not exist"
        raise ModelFileError(f"the model folder {name!r} {what}: give a folder with a config.json, or a hub id")
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, **hub))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelFileError(
            f"there is no folder {name!r} here, and it could not be fetched from the hub as a repository id "
            f"({type(error).__name__}: {str(error).splitlines()[0]}): check the path, or the id and the connection"
        ) from error


def load(
    cls: type[Model],
    folder: Path,
    *,
    labels: Sequence[str] | None,
    dtype: torch.dtype,
    device: torch.device | str,
    with_memory: bool = True,
) -> Model:
    """The model of a local folder, on a device."""
    config = _read_config(folder)
    settings = _read_settings(folder)
    scheme = LabelScheme.from_tags(label_names(config) if labels is None else labels)
    network = _read_network(folder, config, dtype)
    tokenizer = _read_tokenizer(folder, network)
    if settings is None:
        settings = replace(default_settings(network, tokenizer), decoding="argmax")
    model = cls(network, tokenizer, labels=scheme, settings=settings)
    with borrowed_view(network, settings.freeze_layers):
        pass  # refuses layers that cannot be read; what it found out is kept
    model.to(device)
    if with_memory and (folder / MEMORY).exists():
        try:
            model.memory = Memory.load(model, folder / MEMORY)
        except EncoderMismatchError:
            if dtype not in (torch.float16, torch.bfloat16):
                raise
            # The vectors are of the weights as they stand in the file, which this type rounds.
            exact = cls(_read_network(folder, config, torch.float32), tokenizer, labels=scheme, settings=settings)
            model.memory = Memory.load(exact, folder / MEMORY)
            model.memory.rebuild(model)
    return model


def new(cls: type[Model], folder: Path, labels: LabelScheme, settings: Settings | None, seed: int) -> Model:
    """A model with a fresh head on the encoder of a local folder."""
    config = _read_config(folder)
    config.id2label = dict(enumerate(labels.tags))
    config.label2id = {tag: i for i, tag in enumerate(labels.tags)}
    with seeding(torch.device("cpu")) as set_seed:
        set_seed(seed)
        network = _read_network(folder, config, torch.float32, new_head=True)
    return cls(network, _read_tokenizer(folder, network), labels=labels, settings=settings)


def default_settings(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Settings:
    """The settings of a network that has none of its own."""
    window = min(longest_window(network), tokenizer.model_max_length, Settings.window)
    return Settings(window=window, overlap=min(64, window // 4), freeze_layers=min(4, network.config.num_hidden_layers))


def label_names(config: Any) -> list[str]:
    """What a config calls each logit."""
    names = config.id2label or {}
    if sorted(names) != list(range(len(names))):
        raise LabelSchemeError(
            f"the model's config names the logits {sorted(names)}, expected all from 0 to {len(names) - 1}: "
            "give the tag of each logit with `labels=[...]`"
        )
    return [names[i] for i in range(len(names))]


def _read_config(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged config raises whatever its first use does
        raise ModelFileError(
            f"{folder / CONFIG} cannot be read as a model config ({_first_line(error)}): expected the folder of a "
            "Hugging Face model"
        ) from error
    if type(config) not in AutoModelForTokenClassification._model_mapping:
        raise UnsupportedModelError(
            f"{folder} holds a {config.model_type!r} model, for which transformers has no token-classification class"
        )
    return config


def _read_settings(folder: Path) -> Settings | None:
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("format")
        if version != FORMAT:
            raise ModelFileError(
                f"{path} is of format {version}, this pymetaner reads format {FORMAT}: upgrade pymetaner"
            )
        # What another release of pymetaner had more is left out.
        values["lr"] = {name: rate for name, rate in values.get("lr", {}).items() if name in STEP_SIZES}
        return Settings(**{f.name: values[f.name] for f in fields(Settings) if f.name in values})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path} is damaged ({_first_line(error)}): save the model again") from error


def _read_tokenizer(folder: Path, network: PreTrainedModel) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises bare Exception on a damaged file
        raise ModelFileError(f"the tokenizer in {folder} cannot be read ({_first_line(error)})") from error
    try:
        embeddings = len(cast(Tensor, network.get_input_embeddings().weight))
    except (NotImplementedError, AttributeError):  # CANINE, which reads characters
        return tokenizer
    pieces = len(tokenizer)
    if 2 * pieces < embeddings:  # where its files are missing, transformers makes an empty one and says nothing
        raise ModelFileError(
            f"the tokenizer in {folder} knows {pieces} pieces, but the encoder {embeddings}: its files "
            "(tokenizer.json, vocab.txt, sentencepiece.bpe.model, ...) are missing or of another model"
        )
    if pieces > embeddings:
        warnings.warn(
            f"the tokenizer in {folder} knows {pieces} pieces, but the encoder only {embeddings}, and fails on the "
            "others: check that both are of the same model",
            stacklevel=4,
        )
    return tokenizer


# A model may be loaded in a caller's inference_mode, but weights that are born there can never be adapted.
@torch.inference_mode(False)
def _read_network(folder: Path, config: Any, dtype: torch.dtype, new_head: bool = False) -> PreTrainedModel:
    packed = folder / PACKED
    has_weights = any(folder.glob("*.safetensors"))
    if not has_weights:
        raise ModelFileError(
            f"{folder} has no *.safetensors file: expected safetensors weights (pickled weights are never read; "
            "convert them once with transformers' save_pretrained)"
        )
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a new head is reported as missing weights, which it is not
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        if packed.exists():
            with torch.random.fork_rng(devices=[]):  # weights to be replaced are drawn first
                network = AutoModelForTokenClassification.from_config(config, dtype=torch.float32)
            tensors = unpack_file(packed)
            if new_head:
                wanted = network.state_dict()
                tensors = {n: t for n, t in tensors.items() if n in wanted and t.shape == wanted[n].shape}
            missing = network.load_state_dict(tensors, strict=False).missing_keys
            network = network.to(dtype)
        else:
            network, info = AutoModelForTokenClassification.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=new_head,
                output_loading_info=True,
            )
            missing = sorted(info["missing_keys"])
    except Exception as error:  # a damaged config, too, may raise anything here
        raise ModelFileError(
            f"the weights in {folder} cannot be read ({_first_line(error)}): the file is truncated, damaged or of "
            "another model; fetch or save it again"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
    lacking = [name for name in missing if name.startswith(network.base_model_prefix + ".")]
    if lacking:
        raise ModelFileError(f"the weights in {folder} lack {len(lacking)} tensors of the encoder, e.g. {lacking[0]!r}")
    if missing and not new_head:
        raise ModelFileError(
            f"{folder} is an encoder without a token-classification head (no {missing[0]!r}): "
            "train one with `pymetaner train`, starting from MetaNER.from_encoder"
        )
    if new_head and not missing:
        _make_new(head_of(network)[-1], config)
    found: PreTrainedModel = network
    return found


def _make_new(classifier: nn.Module, config: Any) -> None:
    """Forget the head of a checkpoint that had one."""
    if isinstance(classifier, nn.Linear):
        nn.init.normal_(classifier.weight, std=getattr(config, "initializer_range", 0.02))
        nn.init.zeros_(classifier.bias)


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
            _sync(stage / name)
        stale = {WEIGHTS, PACKED} - set(names)
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
    settings = {"format": FORMAT, **asdict(model.settings)}
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


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
