"""Finding and loading model folders."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
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
    UnsupportedModelError,
)
from pymetaner.files import CONFIG, MEMORY, PACKED, SETTINGS, SETTINGS_FORMAT, SOURCE
from pymetaner.labels import LabelScheme
from pymetaner.memory import Memory
from pymetaner.network import head_of, longest_window
from pymetaner.packing import unpack_file
from pymetaner.randomness import seeding
from pymetaner.settings import STEP_SIZES, Settings
from pymetaner.source import Source
from pymetaner.view import borrowed_view

if TYPE_CHECKING:
    from pymetaner.model import MetaNER

__all__ = ["default_settings", "find", "label_names", "load", "new"]

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
    if (folder / SOURCE).exists():
        model.source = Source.load(folder / SOURCE)
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
        if version != SETTINGS_FORMAT:
            raise ModelFileError(
                f"{path} is of format {version}, this pymetaner reads format {SETTINGS_FORMAT}: upgrade pymetaner"
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
    has_weights = any(path.name != SOURCE for path in folder.glob("*.safetensors"))
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
