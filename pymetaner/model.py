"""MetaNER: a multilingual encoder with a token head, a label scheme and a memory of labelled sentences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from huggingface_hub import ModelHubMixin
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pymetaner import checkpoint, reading
from pymetaner.cache import FactorCache
from pymetaner.checks import floating, path_of, present_device, truth
from pymetaner.errors import SettingError
from pymetaner.labels import LabelScheme
from pymetaner.memory import Memory
from pymetaner.network import (
    check_network,
    check_settings,
    fingerprint_of,
    forward,
    frozen_tensors,
    layers_of,
    version_of,
    weights_version,
)
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings
from pymetaner.source import PROBE, Source
from pymetaner.windows import WordTokenizer

if TYPE_CHECKING:
    from pymetaner.engine import Precision
    from pymetaner.inputs import Taggable
    from pymetaner.result import Result

__all__ = ["MetaNER"]


class MetaNER(nn.Module, ModelHubMixin):
    """A named-entity tagger that can adapt itself to every sentence; see `pymetaner.adapt`.

    Usually made by `MetaNER.from_pretrained` (a saved model, or any token-classification checkpoint) or
    `MetaNER.from_encoder` (an encoder without a head, to be trained).

    Args:
        network: a token-classification network.
        tokenizer: its tokenizer.
        labels: what each of its logits stands for; read off the network's config by default.
        settings: how it reads and tags.

    Attributes:
        cache: factors of supports, kept between calls of `pymetaner.adapt`; replace it to bound it otherwise.
        source: what it learned from, as `Memory.calibrate` asks for; None if that is not known.

    Raises:
        LabelSchemeError: if the labels are not entity tags, or not one per logit.
        SettingError: if the settings ask for more than the encoder has, e.g. a longer window.
        UnsupportedModelError: if the network has no head on the last hidden state of a stack of layers.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        labels: LabelScheme | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        check_network(network)
        network.eval()
        self.network = network
        self.tokenizer = tokenizer
        self.labels = labels or LabelScheme.from_tags(checkpoint.label_names(network.config))
        self.labels.check_logits(network.config.num_labels or 0)
        self.settings = checkpoint.default_settings(network, tokenizer) if settings is None else settings
        self._fingerprint: tuple[object, str] = (None, "")
        self._memories: list[Memory] = []  # the first is the model's; none before it is asked for
        self.cache = FactorCache()
        self.source: Source | None = None

    @property
    def settings(self) -> Settings:
        """How the model reads and tags; may be set to others."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        check_settings(self.network, settings)
        words = WordTokenizer.of(self.tokenizer, settings, self.labels.other_tags)
        self._settings, self.words = settings, words

    @torch.inference_mode(False)  # weights made in a caller's could never be adapted
    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MetaNER:
        """What `to`, `double`, `cuda` and others of their kind do."""
        moved: MetaNER = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    @torch.inference_mode(False)  # a copy born in a caller's could never be adapted
    def __deepcopy__(self, memo: dict[int, object]) -> MetaNER:
        """A model with weights and a memory (in RAM) of its own."""
        network = copy.deepcopy(self.network, memo)
        copied = type(self)(network, self.tokenizer, labels=self.labels, settings=self.settings)
        memo[id(self)] = copied
        copied.cache = copy.deepcopy(self.cache)
        copied.source = self.source
        if self._memories and len(self.memory):
            copied.memory = self.memory.copy_for(copied, calibration=True)
        return copied

    # ---- loading and saving: the work is in checkpoint/ ----

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        labels: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> MetaNER:
        """The model of a folder or of a hub id: one saved by pymetaner, or any token-classification checkpoint.

        A folder never touches the network. The memory saved with a model is loaded into RAM: what is added to it
        lives until the model is saved, or, for an add that must survive a crash, in a `Memory` opened on a file.

        Args:
            pretrained_model_name_or_path: a local folder, or the id of a hub repository.
            labels: the tag of each logit, for a checkpoint whose config does not name them.
            dtype: the type of the weights, of floating point; if it rounds them, a memory saved with the model is
                embedded anew, and has no calibration any more.
            device: where to put them.
            revision: branch, tag or commit of a hub repository.
            token: access token for a private hub repository.
            cache_dir: where hub files are kept.
            local_files_only: never ask the hub, use only what is cached.
            force_download: fetch hub files even if they are cached.

        Raises:
            ModelFileError: if the folder is missing, incomplete, damaged or not a model.
            LabelSchemeError: if the labels are not entity tags.
            SettingError: if there is no such device here, or weights cannot be of that type.
            UnsupportedModelError: if the architecture cannot be adapted.

        Example:
            >>> model = MetaNER.from_pretrained("runs/en")  # doctest: +SKIP
        """
        dtype, device = floating("dtype", dtype), present_device("device", device)
        folder = checkpoint.find(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return checkpoint.load(cls, folder, labels=labels, dtype=dtype, device=device)

    @classmethod
    def from_encoder(
        cls,
        encoder: str | PathLike[str],
        types: Iterable[str] = ("PER", "ORG", "LOC"),
        *,
        settings: Settings | None = None,
        seed: int = 0,
        label_all_pieces: bool = False,
        **hub: Any,
    ) -> MetaNER:
        """A model to be trained: an encoder (folder or hub id) with a new token head for some entity types.

        Args:
            encoder: folder or hub id of any Hugging Face encoder.
            types: the entity types, e.g. ``["PER", "ORG", "LOC"]``.
            settings: how the model reads and tags.
            seed: fixes the weights of the new head.
            label_all_pieces: label every piece and not only words (`LabelScheme.from_types`).
            hub: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, as for `from_pretrained`.
        """
        labels = LabelScheme.from_types(types, label_all_pieces=label_all_pieces)
        return checkpoint.new(cls, checkpoint.find(encoder, **hub), labels, settings, seed)

    def save_pretrained(self, save_directory: str | PathLike[str], *, packed: bool = False, **others: Any) -> None:
        """Write the model to a folder that `AutoModelForTokenClassification` can load too.

        Everything is written beside the old files first and put in their place at the end, so a failed save leaves
        the model that was there.

        Args:
            save_directory: the folder; made if it is not there.
            packed: write the weights in the small form of `pymetaner.packing` instead, which only pymetaner reads.
            others: none, but for what huggingface_hub gives when it pushes, which is passed over.

        Raises:
            SaveError: if writing fails.
            EncoderMismatchError: if the weights have moved since the memory was filled, so that it would not load.
            SettingError: for other arguments, or if packing would round weights under a memory that is not empty.
        """
        unknown = ", ".join(sorted(others.keys() - {"config", "model_card_kwargs"}))
        if unknown:
            raise SettingError(
                f"save_pretrained does not take {unknown}: expected packed alone; model.push_to_hub(repo_id) uploads"
            )
        checkpoint.save(self, path_of("save_directory", save_directory), packed=truth("packed", packed))

    # ---- the memory, and the encoder that it asks for vectors ----

    @property
    def memory(self) -> Memory:
        """The labelled sentences that `pymetaner.adapt` learns from."""
        if not self._memories:  # of threads that ask at once, all get the one that was there first
            self._memories.append(Memory(self))
        return self._memories[0]

    @memory.setter
    def memory(self, memory: Memory) -> None:
        self._memories = [memory]

    @property
    def dim(self) -> int:
        """The width of the sentence vectors."""
        return int(self.network.config.hidden_size)

    @property
    def types(self) -> frozenset[str]:
        """The entity types that the model tags."""
        return self.labels.types

    def vector_tensors(self) -> dict[str, Tensor]:
        """The encoder's tensors, by name, that decide the sentence vectors: the frozen ones, or all if none is."""
        return frozen_tensors(self.network, self.settings.freeze_layers or len(layers_of(self.network)))

    @property
    def state(self) -> object:
        """What decides all that the model computes: what was computed in another state is out of date."""
        return weights_version(self.network), self.settings, self.labels.tags

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides the sentence vectors: frozen weights, tokenizer, window, pooling, script.

        Training moves only what comes after them, so it leaves the fingerprint, and a memory, as they are.
        """
        frozen = self.vector_tensors()
        # In-place changes of a tensor raise its version; a new hash (a fraction of a second) is made only then.
        state: object = (self.settings, *version_of(frozen))
        if self._fingerprint[0] != state:
            probe = self.words.windows([PROBE])[0].ids
            window, overlap, pooling = self.settings.window, self.settings.overlap, self.settings.pooling
            extra: tuple[object, ...] = (len(self.tokenizer), probe, window, overlap, pooling)
            if self.words.any_script:
                extra = (*extra, "either script of Chinese")
            self._fingerprint = (state, fingerprint_of(frozen, *extra))
        return self._fingerprint[1]

    def embed(
        self, sentences: Iterable[Sentence], *, batch_size: int = 32, progress: bool = False
    ) -> NDArray[np.float32]:
        """(n, d) float32 unit vectors of n sentences; a sentence without words has a zero vector.

        A vector is the mean hidden state (or, with ``pooling="cls"``, the first one) after the frozen layers: it says
        what a sentence is about and in which language. The last hidden states of a trained tagger say little but which
        entity types are there. Raises DataError for what is no sentence.
        """
        return reading.embed(self, sentences, batch_size=batch_size, progress=progress)

    # ---- tagging and reading ----

    @overload
    def predict(  # type: ignore[overload-overlap]  # a string is a list of strings too, but not for us
        self, x: str | Sentence, *, batch_size: int = 16, precision: Precision = "fp32", progress: bool = False
    ) -> Result: ...

    @overload
    def predict(
        self,
        x: Iterable[str | Sentence | Sequence[str]],
        *,
        batch_size: int = 16,
        precision: Precision = "fp32",
        progress: bool = False,
    ) -> list[Result]: ...

    def predict(
        self, x: Taggable, *, batch_size: int = 16, precision: Precision = "fp32", progress: bool = False
    ) -> Result | list[Result]:
        """The entities of each sentence as the model stands; arguments and result as for `pymetaner.adapt`."""
        # adaptation.py stands above this module; the method is here for those who look for it on the model.
        from pymetaner.adaptation import predict

        return predict(self, x, batch_size=batch_size, precision=precision, progress=progress)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, T, C) of padded pieces (B, T)."""
        return forward(self.network, input_ids, attention_mask)[0]

    def read(
        self,
        sentences: Iterable[Sentence],
        *,
        batch_size: int = 32,
        progress: bool = False,
        keep_lower: bool = False,
        keep_hidden: bool = False,
    ) -> list[reading.Reading]:
        """Word logits and sentence vector of each sentence, one pass of the encoder. Raises as `embed` does.

        Args:
            sentences: the sentences.
            batch_size: the most windows in a batch.
            progress: show a progress bar.
            keep_lower: also give the hidden states after the frozen layers, if the network can go on from there.
            keep_hidden: also give the last hidden state of each word.
        """
        return reading.read(
            self,
            sentences,
            batch_size=batch_size,
            progress=progress,
            keep_lower=keep_lower,
            keep_hidden=keep_hidden,
        )

    @property
    def pass_overhead(self) -> int:
        """What a pass costs over its pieces, in pieces: on a GPU, launching it costs as much as thousands of them."""
        return 16 if self.device.type == "cpu" else 2048

    @property
    def pad_id(self) -> int:
        """The piece id that fills a batch; masked out, so its value only has to be in the vocabulary."""
        return int(self.tokenizer.pad_token_id or 0)
