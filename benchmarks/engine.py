"""Adapting a batch: the batched engine against the sequential loop, and against plain prediction, which adapts nothing.

Random weights of BERT-base's shape and random sentences of 15 to 40 pieces, two supports each: what is timed does not
depend on what they say. The loop is the reference engine: weights moved in place, no padding, prediction in inference
mode, the start copied back. Answers are compared in the same run. On a GPU a batch has 256 sentences, on a CPU 32.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from benchmarks.contest import OURS
from pymetaner.cache import FactorCache
from pymetaner.engine import Computation, InnerStep, Precision, Task, Work, batched_logits, reference_logits
from pymetaner.info import info
from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 256 if DEVICE == "cuda" else 32
TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
Logits = list[NDArray[np.floating[Any]]]


class Case(NamedTuple):
    kind: str
    width: int
    sentences: int
    optimizer: str
    warm: bool
    precision: Precision
    quick: bool

    @property
    def name(self) -> str:
        state = "warm" if self.warm else "cold"
        return f"12 x {self.width}, {self.sentences} sentences, {self.optimizer}, {self.precision}, {state}"

    @property
    def inner(self) -> InnerStep:
        return InnerStep(lr=0.01) if self.optimizer == "sgd" else InnerStep(lr=1e-5, optimizer="bertadam")


CASES = [
    Case("small", 384, 8, "sgd", False, "fp32", quick=True),
    Case("small", 384, 8, "sgd", True, "fp32", quick=True),
    Case("base", 768, BATCH, "sgd", False, "fp32", quick=False),
    Case("base", 768, BATCH, "sgd", True, "fp32", quick=False),
    Case("base", 768, BATCH, "bertadam", False, "fp32", quick=False),
    Case("base", 768, 1, "sgd", True, "fp32", quick=False),
]
if DEVICE == "cuda":
    for precision in ("tf32", "bf16"):
        CASES += [Case("base", 768, BATCH, "sgd", warm, precision, quick=False) for warm in (False, True)]
        CASES.append(Case("base", 768, BATCH, "bertadam", False, precision, quick=False))
elif "amx" in info().instruction_sets:  # elsewhere bf16 gains little, or loses
    CASES += [Case("base", 768, BATCH, "sgd", warm, "bf16", quick=False) for warm in (False, True)]


@functools.cache
def model_of(width: int) -> MetaNER:
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters])}
    core = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30000,
        hidden_size=width,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=4 * width,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: i for i, tag in enumerate(TAGS)},
    )
    return MetaNER(BertForTokenClassification(config), tokenizer, settings=Settings(freeze_layers=4)).to(DEVICE)


@functools.cache
def tasks_of(sentences: int) -> list[Task]:
    drawn = random.Random(0)

    def sentence() -> Sentence:
        words = [drawn.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(drawn.randint(13, 38))]
        return Sentence(tuple(words), tuple(drawn.choice(("O", "O", "B-PER", "B-LOC")) for _ in words))

    return [Task(sentence(), (sentence(), sentence())) for _ in range(sentences)]


@functools.cache
def warm_cache() -> FactorCache:
    return FactorCache(1 << 36)


def ours(case: Case) -> Logits:
    cache = warm_cache() if case.warm else None
    computation = Computation(batch_size=case.sentences, precision=case.precision, cache=cache)
    return batched_logits(model_of(case.width), tasks_of(case.sentences), case.inner, computation, Work())


def sequential_loop(case: Case) -> Logits:
    computation = Computation(batch_size=1, precision=case.precision)
    return reference_logits(model_of(case.width), tasks_of(case.sentences), case.inner, computation, Work())


def plain_prediction(case: Case) -> Logits:
    tasks = [Task(task.query, ()) for task in tasks_of(case.sentences)]
    computation = Computation(batch_size=case.sentences, precision=case.precision)
    return batched_logits(model_of(case.width), tasks, case.inner, computation, Work())


CONTENDERS: dict[str, Callable[[Case], Logits]] = {
    OURS: ours,
    "plain prediction": plain_prediction,
    "sequential loop": sequential_loop,
}


@functools.cache
def expected(case: Case) -> Logits:
    return sequential_loop(case._replace(precision="fp32", warm=False))


def test_engine(benchmark: Any, case: Case, contender: str) -> None:
    run = CONTENDERS[contender]
    if contender != "sequential loop":
        run(case)  # warms up, and fills the cache
    benchmark.group = case.name
    benchmark.extra_info.update(contender=contender, dtype=case.precision, device=DEVICE)
    slow = contender == "sequential loop" or case.optimizer == "bertadam"
    rounds = 1 if slow else 20 if case.sentences == 1 else 3
    answer = benchmark.pedantic(synchronised, args=(run, case), rounds=rounds, iterations=1)
    if contender == OURS:
        difference = max(float(np.abs(a - b).max()) for a, b in zip(answer, expected(case), strict=True))
        assert difference < (1e-4 if case.precision == "fp32" else 0.5), f"{case.name} is off by {difference}"


def synchronised(run: Callable[[Case], Logits], case: Case) -> Logits:
    answer = run(case)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return answer
