"""One model of the table: a row and a seed, trained and scored on every target language. Each step is done once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.records import append, check_only, commit, lines
from benchmarks.sampling import spread, without
from pymetaner import (
    Evaluation,
    FactorCache,
    MetaNER,
    MetaSettings,
    Sentence,
    TrainSettings,
    average,
    evaluate,
    read,
    self_train,
    train,
)
from pymetaner.engine import Precision
from pymetaner.errors import SettingError
from pymetaner.files import REPORT, write_atomically
from pymetaner.learning import Learning, SupportCount, inner_step
from pymetaner.network import fingerprint_of
from pymetaner.scoring import sentence_counts
from pymetaner.words import regroup

TYPES = ("LOC", "MISC", "ORG", "PER")
TEST = {
    "es": "conll2002/es/test.txt",
    "nl": "conll2002/nl/test.txt",
    "de": "conll2003/de/test.txt",
    "fr": "europeana/fr/test.txt",
    "zh": "msra/zh/test.txt",
}
# Text of each language whose tags are not looked at; German has no train set here, nor has Chinese newspaper text.
UNLABELLED = {
    "es": "conll2002/es/train.txt",
    "nl": "conll2002/nl/train.txt",
    "de": "conll2003/de/dev.txt",
    "fr": "europeana/fr/train.txt",
    "zh": "uner/zh_gsd/train.txt",
}
PLAIN_LOSS: dict[str, Any] = {"mask_probability": 0.0, "lambda_max": 0.0}
ONE_RUN = MetaSettings(average=False)
ROWS: dict[str, tuple[dict[str, Any], MetaSettings | None]] = {  # what differs from the defaults; None without --meta
    "base": (PLAIN_LOSS, None),
    "mask": ({"lambda_max": 0.0}, None),
    "max": ({"mask_probability": 0.0}, None),
    "mask+max": ({}, None),
    "meta": (PLAIN_LOSS, ONE_RUN),
    "full": ({}, ONE_RUN),
}
SEEDS = (95, 495, 539, 667, 806)
AVERAGED = "averaged"
MEMBERS = {AVERAGED: ("mask", "max", "mask+max", "full"), "averaged-pair": ("mask+max", "full")}
"""Rows of the mean of the weights of others, which start from one and the same head and see the same batches.

The pair is what a run with `MetaSettings()` trains and keeps."""
BASE_AVERAGED = "base-averaged"
"""The row of the mean of as many runs of `base` as `AVERAGED` has, from one head and with batches of as many seeds."""
MEANS = (BASE_AVERAGED, *MEMBERS)
Way = tuple[str | None, SupportCount]  # what is learned from: nothing, "english", "unlabelled"; and how much of it
MEMORY_BYTES = 4 << 30  # for a batch: several runs may share a GPU


@dataclass(frozen=True)
class Plan:
    """What is run, and where.

    Attributes:
        encoder: a folder, or a hub id.
        data: the folder with the sets of `TEST` and `UNLABELLED`.
        out: the folder that gets models and counts.
        results: the file that gets a line for each score.
        device: cpu, cuda, ...
        steps: of training.
        languages: which of `TEST`.
        ks: how many English supports are tried; none for plain rows alone.
        texts: how many of the target language each model trains itself on, spread over the set; 0 for none.
        most: test sentences of a language, spread over the set; None for all.
        source: English sentences to train on, spread over the set, and a quarter as many to pick the best weights by;
            None for all.
    """

    encoder: str
    data: Path
    out: Path
    results: Path
    device: str
    steps: int
    languages: tuple[str, ...]
    ks: tuple[int, ...]
    texts: int = 1000
    most: int | None = None
    source: int | None = None

    @property
    def precision(self) -> Precision:
        """TF32 on a GPU: what everybody trains in there."""
        return "tf32" if self.device.startswith("cuda") else "fp32"


def run(plan: Plan, row: str, seed: int) -> None:
    """Trains the model of a row and seed, unless that is done, and appends the scores that are not there yet."""
    encoder = encoder_of(MetaNER.from_encoder(plan.encoder, TYPES))
    check_only(plan.results, "encoder", encoder)  # before what takes hours
    folder = averaged(plan, row, seed) if row in MEANS else trained(plan, row, seed)
    model = MetaNER.from_pretrained(folder, device=plan.device)
    if encoder_of(model) != encoder:
        raise SettingError(f"{folder} holds a model of another encoder than {plan.encoder}: give another --out")
    model.cache = FactorCache(0)  # the supports of a test set are too many to keep, and met once
    dev_f1 = json.loads((folder / REPORT).read_text())["best_f1"]
    score_all(plan, model, {"row": row, "seed": seed, "dev_f1": dev_f1, "encoder": encoder}, folder)


def encoder_of(model: MetaNER) -> str:
    """What tells the encoders of models apart: a hash of the layers that training leaves as they are."""
    return fingerprint_of(model.vector_tensors())[:12]


def trained(plan: Plan, row: str, seed: int, batches: int | None = None) -> Path:
    """The folder of a model trained from the head of a seed, with batches of the same seed or of another."""
    batches = seed if batches is None else batches
    folder = plan.out / (f"{row}-{seed}" if batches == seed else f"{row}-{seed}-{batches}")
    changed, meta = ROWS[row]
    model = MetaNER.from_encoder(plan.encoder, TYPES, seed=seed).to(plan.device)
    look = max(1, plan.steps // 3)
    settings = TrainSettings(steps=plan.steps, seed=batches, evaluate_every=look, precision=plan.precision, **changed)
    source = spread(sentences(plan.data / "conll2003/en/train.txt"), plan.source)
    train(model, source, folder, dev=english_dev(plan), settings=settings, meta=meta)  # or finds it finished
    return folder


def members(row: str, seed: int) -> list[tuple[str, int]]:
    """The runs, each a row and the seed of its batches, whose mean a row of `MEANS` is."""
    if row in MEMBERS:
        return [(member, seed) for member in MEMBERS[row]]
    return [("base", batches) for batches in (seed, *(s for s in SEEDS if s != seed))[: len(MEMBERS[AVERAGED])]]


def averaged(plan: Plan, row: str, seed: int) -> Path:
    """The folder of the mean of the `members` of a row."""
    folder = plan.out / f"{row}-{seed}"
    if not (folder / REPORT).exists():
        folders = [trained(plan, member, seed, batches) for member, batches in members(row, seed)]
        model = average([MetaNER.from_pretrained(member, device=plan.device) for member in folders])
        model.save_pretrained(folder)
        dev_f1 = evaluate(model, english_dev(plan), batch_size=64, precision=plan.precision).plain.f1
        write_atomically(
            folder / REPORT, json.dumps({"mean of": [f.name for f in folders], "best_f1": dev_f1}).encode()
        )
    return folder


def english_dev(plan: Plan) -> Sequence[Sentence]:
    """What picks the best weights."""
    return spread(sentences(plan.data / "conll2003/en/dev.txt"), plan.source and plan.source // 4)


def score_all(plan: Plan, model: MetaNER, note: dict[str, Any], folder: Path) -> None:
    """Scores a model plain, adapted on English supports, and self-trained on text of each language."""
    done = known(plan.results, plan.most)
    ways: list[Way] = [(None, 0), *(("english", k) for k in plan.ks)]
    if plan.texts:
        ways.append(("unlabelled", "all"))
    for language in plan.languages:
        missing = [way for way in ways if (note["row"], note["seed"], language, *way) not in done]
        test = spread(sentences(plan.data / TEST[language]), plan.most) if missing else []
        for way in missing:
            found, how = evaluated(plan, model, language, way, test)
            counts = sentence_counts(found.gold, found.adapted_tags)
            correct, predicted, labelled = (int(total) for total in counts.sum(0))
            memory, k = way
            np.save(folder / counts_file(language, way, plan.most), counts)
            f1 = round(200 * correct / max(1, predicted + labelled), 3)
            line = {**note, "lang": language, "adapted": memory is not None, "memory": memory, "k": k, "f1": f1}
            line |= {} if plan.most is None else {"sentences": plan.most}
            append(plan.results, {**line, **how, "commit": commit()})


def evaluated(
    plan: Plan, model: MetaNER, language: str, way: Way, test: Sequence[Sentence]
) -> tuple[Evaluation, dict[str, Any]]:
    """The tags of a test set, and what was learned from before."""
    memory, k = way
    if memory is None:
        return evaluate(model, test, batch_size=256, precision=plan.precision), {}
    if memory == "unlabelled":
        texts = unlabelled(plan.data / UNLABELLED[language], plan.texts, test)
        found = evaluate(
            self_train(model, texts, precision=plan.precision), test, batch_size=256, precision=plan.precision
        )
        return found, {"texts": len(texts)}
    if not len(model.memory):
        source = [sentence for sentence in sentences(plan.data / "conll2003/en/train.txt") if sentence.words]
        model.memory.add(spread(source, plan.source))
    inner = inner_step(model, None, 1, "sgd")
    found = evaluate(
        model,
        test,
        learning=Learning(model.memory, k, inner),
        batch_size=256,
        precision=plan.precision,
        memory_bytes=MEMORY_BYTES,
    )
    return found, {"lr": inner.lr, "steps": inner.steps, "supports": len(model.memory)}


def scored(results: Path, most: int | None) -> list[dict[str, Any]]:
    """The lines for so many test sentences of a language; None for whole test sets."""
    return [line for line in lines(results) if line.get("sentences") == most]


def known(results: Path, most: int | None) -> set[tuple[Any, ...]]:
    """(row, seed, language, memory, k) of every such line."""
    found = scored(results, most)
    return {(line["row"], line["seed"], line["lang"], line.get("memory"), line["k"]) for line in found}


def counts_file(language: str, way: Way, most: int | None) -> str:
    """The file, in a model's folder, of the counts of each test sentence."""
    memory, k = way
    return f"{language}-{memory}-{k}.npy" if most is None else f"{language}-{memory}-{k}-{most}.npy"


def sentences(path: Path) -> list[Sentence]:
    """The labelled sentences of a file, Chinese ones cut into words unless they are to be scored by character."""
    found = list(read(path))
    return found if path.name == "test.txt" else [regroup(sentence) for sentence in found]


def unlabelled(path: Path, texts: int, unseen: Iterable[Sentence]) -> list[Sentence]:
    """Sentences spread over a file, without their tags, and none with the words of an unseen one."""
    pool = [sentence for sentence in without(sentences(path), unseen) if sentence.words]
    return [sentence.with_tags(None) for sentence in spread(pool, texts)]


def run_apart(threads: int, plan: Plan, row: str, seed: int) -> None:
    """`run` in a process of its own, which shares the cores with others."""
    torch.set_num_threads(threads)
    run(plan, row, seed)
