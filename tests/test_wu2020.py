"""The preset `wu2020` against the official procedure written out: task after task, on copies of the network."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import assert_same, weights_of
from tiny import CORPUS, TAGS, model_of, network_of, tokenizer_of
from torch import Tensor, nn

from pymetaner import adapt, evaluate
from pymetaner.engine import Computation, InnerStep, MetaLearner, Task
from pymetaner.engine.bertadam import BertAdam
from pymetaner.errors import SettingError
from pymetaner.model import MetaNER
from pymetaner.objective import Batches
from pymetaner.scoring import score
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings
from pymetaner.training import MetaSettings, TrainSettings, train, wu2020
from pymetaner.training.meta import MetaObjective
from pymetaner.training.state import TrainingState
from pymetaner.windows import IGNORE, make_batch

OFFICIAL = (*TAGS, "X", "[CLS]", "[SEP]")


def official_model(dropout: float = 0.0) -> MetaNER:
    network = network_of(
        "bert", tags=OFFICIAL, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, hidden_size=16
    )
    settings = Settings(window=64, overlap=10, freeze_layers=1, pooling="cls", decoding="argmax")
    return MetaNER(network, tokenizer_of("wordpiece"), settings=settings)


# ---- the official procedure ----


def pieces_of(sentence: Sentence) -> tuple[list[int], list[str]]:
    """Ids and labels of all pieces, as the official preprocessor writes them."""
    tokenizer = tokenizer_of("wordpiece")
    pieces, labels = ["[CLS]"], ["[CLS]"]
    for word, tag in zip(sentence.words, sentence.tags or (), strict=True):
        split = tokenizer.tokenize(word)
        pieces += split
        labels += [tag] + ["X"] * (len(split) - 1)
    return tokenizer.convert_tokens_to_ids([*pieces, "[SEP]"]), [*labels, "[SEP]"]


def loss_of(network: nn.Module, sentences: list[Sentence], lambda_max: float, masked: bool = False) -> Tensor:
    every = []
    for sentence in sentences:
        ids, labels = pieces_of(sentence)
        if masked:
            mask = tokenizer_of("wordpiece").mask_token_id
            ids = [mask if label[1:2] == "-" else i for i, label in zip(ids, labels, strict=True)]
        logits = network(input_ids=torch.tensor([ids])).logits[0]
        target = torch.tensor([OFFICIAL.index(label) for label in labels])
        every.append(nn.functional.cross_entropy(logits, target, reduction="none"))
    return torch.cat(every).mean() + lambda_max * torch.stack([losses.max() for losses in every]).mean()


class OfficialBertAdam:
    def __init__(self) -> None:
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}

    def step(self, parameters: dict[str, nn.Parameter], gradients: tuple[Tensor, ...], lr: float) -> None:
        with torch.no_grad():
            for (name, weight), gradient in zip(parameters.items(), gradients, strict=True):
                gradient = gradient * min(1.0, 1.0 / (gradient.norm().item() + 1e-6))
                m, v = self.moments.get(name, (0.0, 0.0))
                m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
                self.moments[name] = m, v
                update = m / (v.sqrt() + 1e-6)
                if not name.endswith("bias") and "LayerNorm" not in name:
                    update = update + 0.01 * weight
                weight -= lr * update


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in network.named_parameters() if "embeddings" not in name and ".layer.0." not in name}


def official_tasks(network: nn.Module, k: int) -> list[Task]:
    with torch.no_grad():
        vectors = torch.stack([network.bert(torch.tensor([pieces_of(s)[0]]))[0][0, 0] for s in CORPUS]).numpy()
    cosines = (vectors @ vectors.T) / np.linalg.norm(vectors, axis=1)
    order = np.argsort(cosines, axis=1)
    return [Task(CORPUS[i], tuple(CORPUS[j] for j in order[i][-(k + 1) : -1])) for i in range(len(CORPUS))]


def official_steps(network: nn.Module, settings: TrainSettings, lr_inner: float) -> None:
    """The first steps of `forward_meta`: for each task a copy of the network, its steps, the gradient of its query."""
    batches = Batches(official_tasks(network, k=2), settings)
    outer = OfficialBertAdam()
    for step in range(settings.steps):
        share = 1.0 if step == 0 else (settings.steps - step) / (settings.steps - 1)
        total = [torch.zeros_like(p) for p in trainable(network).values()]
        for task in batches[step]:
            adapted = copy.deepcopy(network)
            weights = trainable(adapted)
            inner = OfficialBertAdam()
            for _ in range(2):
                loss = loss_of(adapted, list(task.supports), 2.0)
                inner.step(weights, torch.autograd.grad(loss, list(weights.values())), lr_inner * share)
            loss = loss_of(adapted, [task.query], 2.0, masked=True)
            for sum_, gradient in zip(total, torch.autograd.grad(loss, list(weights.values())), strict=True):
                sum_ += gradient
        outer.step(trainable(network), tuple(total), settings.lr * share)


@pytest.mark.parametrize(("lr", "within"), [(3e-5, 1e-9), (1e-3, 1e-7)])
def test_steps_are_those_of_the_official_loop(tmp_path, lr, within):
    settings = replace(wu2020.TRAIN, steps=3, batch_size=5, lr=lr, mask_probability=1.0, checkpoint_every=1)
    model = official_model().double()
    expected = official_model().double().network
    before = weights_of(model)
    official_steps(expected, settings, lr)
    train(model, CORPUS, tmp_path, settings=settings, meta=replace(wu2020.META, lr=lr))
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], weight, rtol=0, atol=within, msg=name)
    moved = max(float((weights_of(model)[name] - before[name]).abs().max()) for name in before)
    assert moved > lr  # far more than what is allowed to differ


def test_the_preset_has_every_official_setting():
    assert wu2020.META.inner() == InnerStep(lr=3e-5, steps=2, optimizer="bertadam", lambda_max=2.0)
    assert InnerStep(lr=1e-5, steps=1, optimizer="bertadam") == wu2020.TEST
    run = wu2020.TRAIN
    assert (run.steps, run.batch_size, run.optimizer, run.lr) == (3001, 32, "bertadam", 3e-5)
    assert (run.warmup, run.weight_decay, run.clip, run.mask_probability, run.lambda_max) == (0.1, 0.01, 1.0, 0.2, 2.0)


# ---- its parts ----


def test_every_piece_is_labelled():
    model = official_model()
    tag_ids = [model.labels.encode(s.tags or ()) for s in CORPUS]
    windows = model.words.windows(CORPUS)
    batch = make_batch(windows, model.pad_id)
    labels = batch.labels(tag_ids, model.words.others)
    for row, window in zip(labels.tolist(), windows, strict=True):
        expected = [OFFICIAL.index(label) for label in pieces_of(CORPUS[window.sentence])[1]]
        assert row == expected + [IGNORE] * (len(row) - len(expected))
        assert window.labelled(model.words.others) == len(expected)
    # In a sentence of several windows, every piece of a word is labelled once.
    model = model_of("bert", tags=OFFICIAL, window=20, overlap=6)
    for sentence in CORPUS:
        windows = [replace(w, sentence=0) for w in model.words.windows([sentence])]
        labels = make_batch(windows, model.pad_id).labels([model.labels.encode(sentence.tags)], model.words.others)
        count = int((labels != IGNORE).sum())
        assert count == len(pieces_of(sentence)[1]) - 2 + 2 * len(windows)
        assert count == sum(window.labelled(model.words.others) for window in windows)


def test_no_word_is_tagged_with_a_label_of_other_pieces():
    model = official_model()
    with torch.no_grad():
        model.network.classifier.bias[-3:] += 100
    model.memory.add(CORPUS)
    result = evaluate(model, CORPUS).plain
    assert result.predicted == 0
    assert model.types == {"PER", "ORG", "LOC"}
    assert not adapt(model, CORPUS[0].text, inner_optimizer="bertadam").entities


def test_bertadam_of_a_run_is_the_official_one():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    expected = copy.deepcopy(model)
    matrix, vector = model.weight, model.bias
    groups = [{"params": [matrix], "weight_decay": 0.01}, {"params": [vector], "weight_decay": 0.0}]
    optimizer, official = BertAdam(groups, lr=0.1), OfficialBertAdam()
    for _ in range(5):
        gradients = (3 * torch.randn(2, 3, dtype=torch.float64), 0.1 * torch.randn(2, dtype=torch.float64))
        matrix.grad, vector.grad = (gradient.clone() for gradient in gradients)  # clipped in place
        optimizer.step()
        official.step(dict(expected.named_parameters()), gradients, 0.1)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-12, atol=1e-14)


def test_dropout_is_on_where_it_is_asked_for():
    model = official_model(dropout=0.3)
    tasks = [Task(CORPUS[0], (CORPUS[1], CORPUS[2]))]

    def logits(**options) -> Tensor:
        learner = MetaLearner(model, InnerStep(lr=0.1, steps=2), computation=Computation(), **options)
        return next(iter(learner.logits(tasks)))[1].detach()

    assert torch.equal(logits(), logits())
    assert not torch.allclose(logits(dropout="all"), logits(dropout="all"))
    assert not model.network.training


def test_the_loss_of_a_step_is_the_mean_or_the_sum():
    model = official_model()
    tag_ids = [model.labels.encode(s.tags or ()) for s in CORPUS]
    settings = TrainSettings(steps=1, batch_size=len(CORPUS), mask_probability=0.0, lambda_max=0.0)

    def loss(reduction) -> float:
        objective = MetaObjective(model, CORPUS, tag_ids, settings, MetaSettings(lr=1e-9, reduction=reduction))
        return objective.backward(0, 1.0)

    with torch.no_grad():
        each = [float(loss_of(model.network, [s], 0.0)) for s in CORPUS]
        whole = float(loss_of(model.network, CORPUS, 0.0))
    assert loss("sum") == pytest.approx(sum(each), rel=1e-4)
    assert loss("mean") == pytest.approx(whole, rel=1e-4)


# ---- whole runs ----


def run(folder, steps: int = 6) -> MetaNER:
    model = official_model(dropout=0.1)
    settings = replace(wu2020.TRAIN, steps=steps, batch_size=6, evaluate_every=3, checkpoint_every=2)
    train(model, CORPUS, folder, dev=CORPUS, settings=settings, meta=wu2020.META)
    return model


def test_a_killed_run_goes_on_and_its_model_loads(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    save = TrainingState.save

    def killed(self, step):
        save(self, step)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    resumed = run(tmp_path / "killed")
    assert_same(weights_of(resumed), weights_of(whole))
    loaded = MetaNER.from_pretrained(tmp_path / "whole")
    assert_same(weights_of(loaded), weights_of(whole))
    assert (loaded.labels, loaded.settings) == (whole.labels, whole.settings)
    assert loaded.labels.tags == OFFICIAL and loaded.words.others == whole.words.others
    assert loaded.settings.lr["bertadam"] == 1e-5
    report = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert report["meta"]["reduction"] == "sum" and report["settings"]["optimizer"] == "bertadam"


def test_the_official_test_drops_the_best_hit_of_the_raw_encoder():
    raw, model = official_model(), official_model()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in trainable(model.network).values():
            weight += 0.1 * torch.randn_like(weight)
        model.network.classifier.bias[1:7] += 1.0  # entities, so that there is something to score
    inner = replace(wu2020.TEST, lr=0.05)
    with torch.inference_mode():  # a caller's own is of no concern
        found = wu2020.adapted_score(model, raw, CORPUS, CORPUS, inner=inner)
    tagged = []
    for task in official_tasks(raw.network, k=2):
        adapted = copy.deepcopy(model.network)
        weights = trainable(adapted)
        gradients = torch.autograd.grad(loss_of(adapted, list(task.supports), 0.0), list(weights.values()))
        OfficialBertAdam().step(weights, gradients, 0.05)
        ids, labels = pieces_of(task.query)
        best = adapted(input_ids=torch.tensor([ids])).logits[0].argmax(1).tolist()
        words = [i for i, label in zip(best, labels, strict=True) if label not in OFFICIAL[-3:]]
        tagged.append(model.labels.decode(words))
    expected = score([s.tags or () for s in CORPUS], tagged, scoring="conlleval")
    assert found == expected
    assert expected.predicted > 0


@pytest.mark.parametrize(
    "wrong", [{"reduction": "max"}, {"vectors": "mean"}, {"leave_out": 1}, {"dropout": True}, {"plain_share": 1.5},
              {"final_lr": 0},
              {"final_lr": 0.1, "learn_rates": True}],
)  # fmt: skip
def test_meta_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match="expected"):
        MetaSettings(**wrong)


@pytest.mark.parametrize("wrong", [{"optimizer": "sgd"}, {"scoring": "seqeval"}])
def test_train_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match="expected"):
        TrainSettings(**wrong)
