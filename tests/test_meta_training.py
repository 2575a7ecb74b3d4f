"""Meta-training: its tasks, its gradient against plain autograd one task at a time, and whole runs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import SHORT, assert_same, weights_of
from tiny import CORPUS, OVERLAP, WINDOW, model_of, network_of, tokenizer_of
from torch.func import functional_call

from pymetaner import adapt, evaluate
from pymetaner.engine import Computation, InnerStep, MetaLearner, SequentialMetaLearner, Task
from pymetaner.errors import EmptyDataError, SettingError
from pymetaner.files import CHECKPOINT, PLAIN, REPORT
from pymetaner.learning import Learning, inner_step
from pymetaner.model import MetaNER
from pymetaner.network import adapted_groups, adapted_parameters
from pymetaner.objective import BaseObjective
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings
from pymetaner.training import MetaSettings, TrainSettings, loop, train
from pymetaner.training.meta import MetaObjective, pseudo_tasks
from pymetaner.training.state import TrainingState
from pymetaner.windows import IGNORE


def test_supports_are_the_nearest_other_sentences():
    model = model_of("bert")
    vectors = model.embed(CORPUS)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    tasks = pseudo_tasks(CORPUS, vectors, 3)
    for i, task in enumerate(tasks):
        assert task.query == CORPUS[i]
        assert list(task.supports) == [CORPUS[j] for j in np.argsort(-similar[i], kind="stable")[:3]]
    assert len(pseudo_tasks(CORPUS[:2], vectors[:2], 5)[0].supports) == 1
    with pytest.raises(EmptyDataError, match="two or more"):
        pseudo_tasks(CORPUS[:1], vectors[:1], 2)


@pytest.mark.parametrize(
    "meta",
    [
        MetaSettings(lr=0.1, lambda_max=2.0, dropout="none", plain_share=0),
        MetaSettings(lr=0.1, order=2, lambda_max=0.0, k=3, dropout="none", plain_share=0),
    ],
)
def test_the_gradient_is_that_of_one_task_after_the_other(meta):
    model = model_of("bert", window=64).double()
    settings = TrainSettings(steps=3, batch_size=5, mask_probability=0.0, lambda_max=2.0)
    tag_ids = [model.labels.encode(s.tags or ()) for s in CORPUS]
    objective = MetaObjective(model, CORPUS, tag_ids, settings, meta)
    parameters = adapted_parameters(model.network, model.settings.freeze_layers)
    for parameter in parameters.values():
        parameter.grad = None
    loss = objective.backward(1, share=1.0)
    drawn = [task for task, _ in objective.batches[1]]

    def losses(weights: dict[str, torch.Tensor], sentence: Sentence) -> torch.Tensor:
        (window,) = model.words.windows([sentence])
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            logits = functional_call(model.network, weights, (torch.tensor([window.ids]),)).logits[0]
        tags = torch.tensor(model.labels.encode(sentence.tags or ()))
        return torch.nn.functional.cross_entropy(logits[list(window.positions)], tags, reduction="none")

    start = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    every, largest = [], []
    for task in drawn:
        support = [losses(start, s) for s in task.supports]
        inner = torch.cat(support).mean() + meta.lambda_max * torch.stack([each.max() for each in support]).mean()
        gradients = torch.autograd.grad(inner, list(start.values()), create_graph=True)
        moved = {
            name: weight - 0.1 * (gradient if meta.order == 2 else gradient.detach())
            for (name, weight), gradient in zip(start.items(), gradients, strict=True)
        }
        query = losses(moved, task.query)
        every.append(query)
        largest.append(query.max())
    expected = torch.cat(every).mean() + 2.0 * torch.stack(largest).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    for (name, _), gradient in zip(start.items(), torch.autograd.grad(expected, list(start.values())), strict=True):
        torch.testing.assert_close(parameters[name].grad, gradient, rtol=1e-6, atol=1e-9)


def run(folder, meta: MetaSettings | None, model: MetaNER | None = None, **changes) -> tuple[MetaNER, float | None]:
    model = model or model_of("bert")
    settings = replace(SHORT, steps=12, batch_size=8, evaluate_every=6, checkpoint_every=4, lr=3e-3)
    report = train(model, CORPUS, folder, dev=CORPUS, settings=replace(settings, **changes), meta=meta)
    return model, report.best_f1


def test_the_trained_step_size_becomes_the_models_own(tmp_path):
    model, _ = run(tmp_path / "fixed", MetaSettings(lr=0.05))
    assert model.settings.lr == {**Settings().lr, "sgd": 0.05}
    assert MetaNER.from_pretrained(tmp_path / "fixed").settings == model.settings
    assert json.loads((tmp_path / "fixed" / "training.json").read_text())["meta"]["lr"] == 0.05

    learned, _ = run(tmp_path / "learned", MetaSettings(lr=0.05, learn_rates=True))
    rates = learned.settings.lr["sgd"]
    groups = adapted_groups(learned.network, learned.settings.freeze_layers)
    assert isinstance(rates, tuple) and len(rates) == len(groups) == 3
    assert len({round(rate, 6) for rate in rates}) == 3 and all(0 < rate < 0.5 for rate in rates)
    again = MetaNER.from_pretrained(tmp_path / "learned")
    assert again.settings == learned.settings
    again.memory.add(CORPUS)
    assert adapt(again, CORPUS[0].text) == adapt(again, CORPUS[0].text, lr=list(rates))


@pytest.mark.parametrize(
    "meta",
    [
        MetaSettings(lr=0.05, learn_rates=True, k=3, steps=2),
        MetaSettings(optimizer="bertadam", scheduled=True),
        MetaSettings(order=2),
    ],
    ids=["learned", "bertadam", "second order"],
)
def test_a_killed_run_ends_with_the_same_weights(tmp_path, monkeypatch, meta):
    whole, _ = run(tmp_path / "whole", meta)
    save = TrainingState.save

    def killed(self, step):
        save(self, step)
        if step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", meta)
    resumed, _ = run(tmp_path / "killed", meta)
    assert_same(weights_of(resumed), weights_of(whole))
    assert resumed.settings == whole.settings
    assert any(
        not torch.equal(a, b) for a, b in zip(weights_of(whole).values(), weights_of(model_of()).values(), strict=True)
    )


def test_what_is_kept_is_the_mean_of_a_run_with_inner_steps_and_of_one_without(tmp_path):
    of_both, f1 = run(tmp_path / "both", MetaSettings(lr=0.05, learn_rates=True))
    adapting, _ = run(tmp_path / "adapting", MetaSettings(lr=0.05, learn_rates=True, average=False))
    plain, plain_f1 = run(tmp_path / "plain", None)
    found, one, other = (weights_of(model) for model in (of_both, adapting, plain))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    for name, weight in found.items():
        torch.testing.assert_close(weight, (one[name] + other[name]) / 2, rtol=1e-6, atol=1e-7)
    assert of_both.settings == adapting.settings
    assert_same(weights_of(MetaNER.from_pretrained(tmp_path / "both")), found)
    report = json.loads((tmp_path / "both" / REPORT).read_text())
    assert f1 == report["best_f1"] == evaluate(of_both, CORPUS).plain.f1
    assert report["averaged with"]["best_f1"] == plain_f1
    assert not (tmp_path / "both" / PLAIN).exists()


@pytest.mark.parametrize("model", [None, model_of("bert")], ids=["loaded anew", "as it was left"])
def test_an_averaged_run_goes_on_wherever_it_was_killed(tmp_path, monkeypatch, model):
    whole, _ = run(tmp_path / "whole", MetaSettings(lr=0.05))
    save, written, resumed = TrainingState.save, set(), None

    def killed(self, step):
        save(self, step)
        if (self.path, step) not in written:
            written.add((self.path, step))
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", killed)
        while resumed is None:
            with contextlib.suppress(KeyboardInterrupt):
                resumed, _ = run(tmp_path / "killed", MetaSettings(lr=0.05), model)
    assert len(written) > 5 and {path.parent.name for path, _ in written} == {"killed", PLAIN}
    assert_same(weights_of(resumed), weights_of(whole))
    assert not (tmp_path / "killed" / PLAIN).exists()


def plain_run_killed(tmp_path, monkeypatch, model, step, **options):
    """Leaves the plain run of an averaged one at a checkpoint."""
    save = TrainingState.save

    def killed(self, at):
        save(self, at)
        if at == step and self.path.parent.name == PLAIN:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingState, "save", killed)
        train(model, CORPUS, tmp_path, settings=SHORT, meta=MetaSettings(), **options)


def test_an_averaged_run_that_replaces_another_goes_on_too(tmp_path, monkeypatch):
    whole = model_of("bert")
    train(whole, CORPUS, tmp_path / "whole", settings=SHORT, meta=MetaSettings())
    train(model_of("bert"), CORPUS, tmp_path / "run", settings=replace(SHORT, steps=2))
    plain_run_killed(tmp_path / "run", monkeypatch, model_of("bert"), 6, overwrite=True)
    assert not (tmp_path / "run" / REPORT).exists() and (tmp_path / "run" / PLAIN / CHECKPOINT).exists()
    resumed, steps, schedule = model_of("bert"), [], loop._schedule
    monkeypatch.setattr(loop, "_schedule", lambda step, settings: steps.append(step) or schedule(step, settings))
    train(resumed, CORPUS, tmp_path / "run", settings=SHORT, meta=MetaSettings())
    assert steps == [*range(6, 12), *range(12)]
    assert_same(weights_of(resumed), weights_of(whole))


def test_runs_that_started_from_other_heads_are_not_averaged(tmp_path, monkeypatch):
    plain_run_killed(tmp_path / "run", monkeypatch, model_of("bert"), 6)
    other = model_of("bert")
    with torch.no_grad():
        other.network.classifier.weight.mul_(-1)
    before = weights_of(other)
    with pytest.raises(SettingError, match="started from another head"):
        train(other, CORPUS, tmp_path / "run", settings=SHORT, meta=MetaSettings())
    assert_same(weights_of(other), before)
    train(other, CORPUS, tmp_path / "run", settings=SHORT, meta=MetaSettings(), overwrite=True)


def test_base_and_meta_runs_are_told_apart(tmp_path, monkeypatch):
    def killed(self, step):
        TrainingState_save(self, step)
        raise KeyboardInterrupt

    TrainingState_save = TrainingState.save
    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, MetaSettings(average=False))
    with pytest.raises(SettingError, match="other meta"):
        run(tmp_path, MetaSettings(k=1, average=False))


def test_meta_training_learns_to_adapt(tmp_path):
    network = network_of("bert", hidden_size=64, intermediate_size=128, initializer_range=0.1)
    settings = Settings(window=WINDOW, overlap=OVERLAP, freeze_layers=1)
    model = MetaNER(network, tokenizer_of("wordpiece"), settings=settings)
    run = replace(SHORT, steps=120, batch_size=8, lr=3e-3, mask_probability=0.0, lambda_max=0.5, evaluate_every=120)
    train(model, CORPUS, tmp_path, settings=run, meta=MetaSettings(lr=0.02, lambda_max=0.0))
    model.memory.add(CORPUS)
    learning = Learning(model.memory, 2, inner_step(model, None, 1, "sgd"), exclude_self=True)
    assert evaluate(model, CORPUS, learning=learning).adapted.f1 > 0.8


def meta_model(dropout: float) -> MetaNER:
    network = network_of("bert", hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return MetaNER(network, tokenizer_of("wordpiece"), settings=Settings(window=64, overlap=10, freeze_layers=1))


@pytest.mark.parametrize("learner_of", [MetaLearner, SequentialMetaLearner])
@pytest.mark.parametrize(("dropout", "passes"), [("none", [0, 0]), ("queries", [0, 1]), ("all", [1, 1])])
def test_dropout_is_on_in_the_passes_that_are_named(learner_of, dropout, passes):
    learner = learner_of(meta_model(0.3), InnerStep(lr=0.1), computation=Computation(), dropout=dropout)
    networks = [learner._view.network]
    if learner_of is SequentialMetaLearner:
        networks.append(learner._moving.network)
    seen: list[bool] = []
    for network in networks:
        network.base_model.encoder.layer[-1].register_forward_hook(lambda top, *_: seen.append(top.training))
    for _ in range(2):
        seen.clear()
        list(learner.logits([Task(CORPUS[0], (CORPUS[1], CORPUS[1]))]))
        assert [seen[0], seen[-1]] == passes


@pytest.mark.parametrize("optimizer", ["sgd", "bertadam"])
def test_the_first_steps_learn_the_queries_as_they_stand(optimizer):
    model = meta_model(0.0)
    tag_ids = [model.labels.encode(s.tags or ()) for s in CORPUS]
    settings = TrainSettings(steps=10, batch_size=4, mask_probability=0.0, lambda_max=0.0)

    def losses(**changes) -> list[float]:
        meta = MetaSettings(lr=0.5, optimizer=optimizer, **changes)
        objective = MetaObjective(model, CORPUS, tag_ids, settings, meta)
        return [objective.backward(step, 1.0) for step in range(3, 7)]

    plain = BaseObjective(model, model.words.windows(CORPUS), tag_ids, settings)
    adapting, half = losses(plain_share=0), losses(plain_share=0.5)
    assert half[2:] == adapting[2:]
    assert half[:2] == pytest.approx([plain.backward(step, 1.0) for step in (3, 4)], rel=1e-5)
    assert half[0] != pytest.approx(adapting[0], rel=1e-3)


def test_the_words_of_a_task_are_counted_exactly_in_bfloat16():
    model = model_of("bert").to(torch.bfloat16)
    for weight in model.network.classifier.parameters():
        weight.data.zero_()  # every word has a loss of log 7
    long = Sentence(("x",) * 259, ("O",) * 259)
    tag_ids = [model.labels.encode(s.tags) for s in (long, CORPUS[0])]
    settings = TrainSettings(steps=2, batch_size=2, mask_probability=0.0, lambda_max=0.0)
    objective = MetaObjective(model, [long, CORPUS[0]], tag_ids, settings, MetaSettings(lr=0.1, reduction="sum"))
    assert objective.backward(0, share=1.0) == pytest.approx(2 * np.log(7), rel=1e-6)


def test_queries_are_masked_and_supports_are_not(monkeypatch):
    model = model_of("bert")
    settings = TrainSettings(steps=3, batch_size=4, mask_probability=1.0)
    tag_ids = [model.labels.encode(s.tags or ()) for s in CORPUS]
    objective = MetaObjective(model, CORPUS, tag_ids, settings, MetaSettings(lr=0.1, plain_share=0))
    mask, seen = model.tokenizer.mask_token_id, []
    upper = type(objective.learner._view).upper

    def noted(self, ids, attention_mask, lower, listener=None):
        seen.append((ids, torch.is_grad_enabled(), listener))
        return upper(self, ids, attention_mask, lower, listener)

    monkeypatch.setattr(type(objective.learner._view), "upper", noted)
    objective.backward(0, 1.0)
    queries = [ids for ids, _, listener in seen if type(listener).__name__ == "TakenSteps"]
    supports = [ids for ids, _, listener in seen if type(listener).__name__ != "TakenSteps"]
    assert queries and supports
    assert any((ids == mask).any() for ids in queries) and not any((ids == mask).any() for ids in supports)
    assert IGNORE not in {int(i) for ids in queries for i in ids.flatten()}


@pytest.mark.parametrize(("optimizer", "lr", "lambda_max"), [("sgd", 0.02, 0.0), ("bertadam", 3e-5, 2.0)])
def test_each_inner_optimizer_has_a_step_size_and_a_max_term_of_its_own(optimizer, lr, lambda_max):
    assert MetaSettings(optimizer=optimizer).inner() == InnerStep(lr, optimizer=optimizer, lambda_max=lambda_max)
    given = MetaSettings(optimizer=optimizer, lr=0.5, lambda_max=0.0 if lambda_max else 1.0).inner()
    assert (given.lr, given.lambda_max) == (0.5, 0.0 if lambda_max else 1.0)


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"k": 1.5}, {"order": 3}, {"learn_rates": 1}, {"steps": 0}, {"lr": -1.0}, {"lr": (0.1, 0.1)},
     {"optimizer": "adam"}, {"lambda_max": -1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match="expected"):
        MetaSettings(**wrong)


def test_neighbours_of_weights_that_have_moved_meanwhile_are_not_taken(tmp_path, monkeypatch):
    """With [CLS] of the last layer they say who is near, and a run that was stopped has moved them."""
    meta = MetaSettings(vectors="cls", average=False)
    model = model_of()
    save = TrainingState.save

    def killed(self, step):
        save(self, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(model, CORPUS, tmp_path, settings=SHORT, meta=meta)
    with pytest.raises(SettingError, match="other starting weights"):
        train(model, CORPUS, tmp_path, settings=SHORT, meta=meta)
    train(model_of(), CORPUS, tmp_path, settings=SHORT, meta=meta)
