"""The preset `wu2020`: every setting of the official code of Wu et al. (2020), training and test.

    from pymetaner.training import train, wu2020

    model = wu2020.new_model("bert-base-multilingual-cased", ["PER", "ORG", "LOC", "MISC"])
    train(model, sentences, "runs/wu2020", dev=dev, settings=wu2020.TRAIN, meta=wu2020.META)
    raw = wu2020.new_model("bert-base-multilingual-cased", ["PER", "ORG", "LOC", "MISC"])
    print(wu2020.adapted_score(model, raw, sentences, test).f1)

What still differs from that code is listed in docs/training.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from typing import Any

from pymetaner.decode import decode
from pymetaner.engine import Computation, InnerStep, Task, Work, batched_logits
from pymetaner.model import MetaNER
from pymetaner.ops import cosine_topk
from pymetaner.scoring import Score, score
from pymetaner.sentence import Sentence, check_sentences
from pymetaner.settings import Settings
from pymetaner.training.meta import cls_vectors
from pymetaner.training.settings import MetaSettings, TrainSettings

__all__ = ["META", "TEST", "TRAIN", "adapted_score", "as_official", "new_model"]

TRAIN = TrainSettings(
    steps=3001,
    batch_size=32,
    optimizer="bertadam",
    lr=3e-5,
    warmup=0.1,
    weight_decay=0.01,
    clip=1.0,
    mask_probability=0.2,
    lambda_max=2.0,
    scoring="conlleval",
    evaluate_every=300,
    seed=95,  # and 495, 539, 667, 806
)
META = MetaSettings(
    k=2,
    optimizer="bertadam",
    lr=3e-5,
    steps=2,
    lambda_max=2.0,
    order=1,
    scheduled=True,
    dropout="all",
    plain_share=0.0,
    average=False,
    reduction="sum",
    vectors="cls",
    leave_out="best",
    final_lr=1e-5,
)
TEST = InnerStep(lr=1e-5, steps=1, optimizer="bertadam", lambda_max=0.0)


def new_model(encoder: str | PathLike[str], types: Iterable[str], *, seed: int = 95, **hub: Any) -> MetaNER:
    """A model to be trained: the encoder with a new head that labels every piece, set as the official code sets it.

    Args:
        encoder: folder or hub id.
        types: the entity types.
        seed: fixes the weights of the new head.
        hub: as for `MetaNER.from_encoder`.
    """
    model = MetaNER.from_encoder(encoder, types, seed=seed, label_all_pieces=True, **hub)
    model.settings = as_official(model.settings)
    return model


def as_official(settings: Settings) -> Settings:
    """A model's settings with those of the official code: four frozen layers, vectors of [CLS], no Viterbi."""
    return replace(settings, freeze_layers=4, pooling="cls", decoding="argmax")


def adapted_score(
    model: MetaNER,
    raw: MetaNER,
    source: Iterable[Sentence],
    test: Iterable[Sentence],
    *,
    k: int = 2,
    inner: InnerStep = TEST,
    computation: Computation | None = None,
) -> Score:
    """The score, conlleval's, of the official test: each sentence tagged after a step on its neighbours in the source.

    Neighbours are those whose [CLS] after the last layer of the raw encoder is most similar, less the best one (which
    the official code drops at the test too, where it is no copy of the query).

    Args:
        model: the trained model; nothing of it is changed.
        raw: the encoder as it was before training, e.g. from `new_model`.
        source: the labelled sentences that the model was trained on, k + 1 or more.
        test: labelled sentences to score on.
        k: supports of a sentence.
        inner: the step taken on them.
        computation: batch size, precision and memory.
    """
    source, test = check_sentences(source), check_sentences(test)
    bank, queries = cls_vectors(raw, source), cls_vectors(raw, test)
    nearest = cosine_topk(queries, bank, k + 1)[1][:, 1:]
    tasks = [
        Task(sentence, tuple(source[i] for i in found if i >= 0))
        for sentence, found in zip(test, nearest.tolist(), strict=True)
    ]
    logits = batched_logits(model, tasks, inner, computation or Computation(), Work())
    tagged = decode(logits, model.labels, model.settings.decoding)
    return score([sentence.tags or () for sentence in test], [tags for tags, _ in tagged], scoring="conlleval")
