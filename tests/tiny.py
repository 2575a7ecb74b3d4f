"""Labelled sentences, and tokenizers, networks and models so small that they are made on the spot."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings
from pymetaner.tagging import tags_from_spans

MARKED = """
[Ada Lovelace|PER] wrote to [Charles Babbage|PER] in [London|LOC] .
The [Bank of England|ORG] is in [London|LOC] , not in [Leeds|LOC] .
[Marie Curie|PER] nació en [Varsovia|LOC] .
El [Banco de España|ORG] está en [Madrid|LOC] .
[Angela Merkel|PER] wohnte in [Berlin|LOC] und arbeitete für die [CDU|ORG] .
De [Tweede Kamer|ORG] zit in [Den Haag|LOC] .
[王 小明|PER] 在 [北京 大学|ORG] 读书 。
[東京|LOC] は 大きい です 。
[Владимир Набоков|PER] родился в [Петербурге|LOC] .
[نجيب محفوظ|PER] ولد في [القاهرة|LOC] .
Nobody slept here yesterday .
[Grace Hopper|PER] joined the [Navy|ORG] .
[Zürich|LOC] liegt an der Limmat , naïve Leute wissen es nicht .
[Ann Smith|PER] , [Bob Jones|PER] and [Carol King|PER] met at [Yale|ORG] .
It rained .
[UNESCO|ORG] protects [Kyoto|LOC] and [Venice|LOC] .
"""


def parse(line: str) -> Sentence:
    """The labelled sentence of a line like ``[Ada Lovelace|PER] slept``."""
    words: list[str] = []
    spans: list[tuple[int, int, str]] = []
    for entity, label, plain in re.findall(r"\[([^|\]]+)\|(\w+)\]|([^\[]+)", line):
        first = len(words)
        words += (entity or plain).split()
        if entity:
            spans.append((first, len(words), label))
    return Sentence(tuple(words), tags_from_spans(spans, len(words)))


CORPUS = [parse(line) for line in MARKED.strip().splitlines()]
TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
WINDOW, OVERLAP = 40, 10


@functools.cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerBase:
    """A tokenizer of the kind of BERT, XLM-R or ModernBERT: single characters, and a few longer pieces."""
    # Only byte-level BPE is trained: the trainers of the others break ties as chance will have it.
    words = [word for sentence in CORPUS for word in sentence.words]
    characters = sorted({character for word in words for character in word})
    starts = sorted({word[:3] for word in words if len(word) > 3})
    ends = sorted({word[-2:] for word in words if len(word) > 4})
    if kind == "wordpiece":
        special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        pieces = [*special.values(), *characters, *starts, *(f"##{piece}" for piece in (*characters, *ends))]
        core = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.decoder = decoders.WordPiece()
    elif kind == "unigram":
        special = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
        vocabulary = [(token, 0.0) for token in special.values()] + [("▁", -3.0)]
        for group, score in ((characters, -6.0), ([f"▁{piece}" for piece in starts], -5.0), (ends, -7.0)):
            vocabulary += [(piece, score) for piece in group]
        core = Tokenizer(models.Unigram(vocabulary, unk_id=3))
        core.normalizer = normalizers.NFKC()
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
    else:
        special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(special.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        core.train_from_iterator([" ".join(sentence.words) for sentence in CORPUS], trainer)
    first, last = special["cls"], special["sep"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(name, core.token_to_id(name)) for name in (first, last)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=512, **{f"{name}_token": token for name, token in special.items()}
    )


SMALL = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # name: class prefix, tokenizer, settings of the config
    "bert": ("Bert", "wordpiece", SMALL),
    "xlm-roberta": ("XLMRoberta", "unigram", {**SMALL, "max_position_embeddings": 66, "pad_token_id": 1}),
    "distilbert": (
        "DistilBert",
        "wordpiece",
        {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 64,
         "initializer_range": 0.3},
    ),
    "electra": ("Electra", "wordpiece", {**SMALL, "embedding_size": 8}),
    "deberta-v2": (
        "DebertaV2",
        "unigram",
        {**SMALL, "relative_attention": True, "position_buckets": 8, "share_att_key": True,
         "norm_rel_ebd": "layer_norm", "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
         "pad_token_id": 1, "type_vocab_size": 0},
    ),
    "modernbert": (
        "ModernBert",
        "bytelevel",
        {**SMALL, "local_attention": 8, "global_attn_every_n_layers": 2, "initializer_cutoff_factor": 3.0,
         "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    ),
}  # fmt: skip
BATCHED = ("bert", "xlm-roberta", "distilbert", "electra", "modernbert")


def network_of(name: str = "bert", *, tags: tuple[str, ...] = TAGS, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A token-classification network with random weights, large enough for adapting to matter."""
    prefix, kind, values = ARCHITECTURES[name]
    config = getattr(transformers, f"{prefix}Config")(
        id2label=dict(enumerate(tags)),
        label2id={tag: i for i, tag in enumerate(tags)},
        **{"vocab_size": len(tokenizer_of(kind)), **values, **changes},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: PreTrainedModel = getattr(transformers, f"{prefix}ForTokenClassification")(config)
        for tensor in network.parameters():  # biases start at 0 and norms at 1: move them, so that tests see them
            if tensor.dim() == 1:
                tensor.data += 0.2 * torch.randn_like(tensor)
    return network.eval()


def model_of(name: str = "bert", *, seed: int = 0, tags: tuple[str, ...] = TAGS, **settings: Any) -> MetaNER:
    """A model with random weights, its window small so that sentences of this file need several."""
    values = {"window": WINDOW, "overlap": OVERLAP, "freeze_layers": 1, **settings}
    kind = ARCHITECTURES[name][1]
    return MetaNER(network_of(name, tags=tags, seed=seed), tokenizer_of(kind), settings=Settings(**values))
