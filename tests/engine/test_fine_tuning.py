"""Fine-tuning a copy on one set of supports: held to a plain loop of autograd and torch's AdamW in float64."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from tasks import TASKS, largest_difference
from tiny import ARCHITECTURES, CORPUS, model_of
from torch.nn import functional

from pymetaner.engine import Computation, FineTuning, Task, Work, fine_tuned_logits, fine_tuned_model
from pymetaner.errors import SettingError
from pymetaner.model import MetaNER
from pymetaner.network import adapted_parameters
from pymetaner.objective import Batches
from pymetaner.windows import IGNORE, make_batch

SUPPORTS = tuple(CORPUS[::2])
# The masks of probability 1 are no chance, so the plain loop has the same.
WAYS = {
    "one batch": FineTuning(lr=0.003, steps=3, batch_size=50, mask_probability=0.0, interpolation=0.6),
    "masked": FineTuning(lr=0.003, steps=6, batch_size=50, mask_probability=1.0, interpolation=1.0),
    "batches, max term": FineTuning(lr=0.003, steps=9, batch_size=3, mask_probability=1.0, lambda_max=0.7, seed=5),
}


def without_dropout(model):
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attention_probs_dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    for name in ("attention_probs_dropout_prob", "attention_dropout", "hidden_dropout_prob"):
        if hasattr(model.network.config, name):
            setattr(model.network.config, name, 0.0)
    return model


def plain_loop(model, supports, how):
    """A copy of the model, fine-tuned the long way."""
    network = copy.deepcopy(model.network)
    learner = MetaNER(network, model.tokenizer, labels=model.labels, settings=model.settings)
    windows = model.words.windows(supports)
    tag_ids = [model.labels.encode(support.tags) for support in supports]
    batches = Batches(windows, how)
    weights = adapted_parameters(learner.network, model.settings.freeze_layers)
    optimizer = torch.optim.AdamW(weights.values(), lr=how.lr, weight_decay=0.0)
    kept = []
    for step in range(how.steps):
        batch = make_batch(batches[step], model.pad_id)
        labels = batch.labels(tag_ids, None)
        ids = batch.input_ids.clone()
        if how.mask_probability:
            inside = [i for i, tag in enumerate(model.labels.tags) if tag != "O"]
            ids[torch.isin(labels, torch.tensor(inside))] = model.tokenizer.mask_token_id
        losses = functional.cross_entropy(
            learner(ids, batch.attention_mask).transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
        )
        loss = losses.sum() / (labels != IGNORE).sum() + how.lambda_max * losses.max(1).values.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = how.lr * min(1.0, (step + 1) / 5)
        optimizer.step()
        if step >= how.steps // 4:
            kept.append({name: weight.detach().clone() for name, weight in weights.items()})
    own = model.network.state_dict()
    far = how.interpolation_on(len(windows))
    with torch.no_grad():
        for name, weight in weights.items():
            mean = torch.stack([each[name] for each in kept]).mean(0)
            weight.copy_((1 - far) * own[name] + far * mean)
    return learner


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_it_is_the_plain_loop(name, how, monkeypatch):
    monkeypatch.setattr("pymetaner.objective._PART", 60)  # several parts a step
    model = without_dropout(model_of(name).double())
    expected = plain_loop(model, SUPPORTS, how)
    queries = [task.query for task in TASKS]
    logits = [reading.logits for reading in expected.read(queries)]
    learned = fine_tuned_model(model, SUPPORTS, how, Computation())
    lower = [reading.lower for reading in model.read(queries, keep_lower=True)]
    # A key's bias has a gradient of 0 but for rounding, of which Adam makes a whole step; it changes no logits. Where
    # transformers rotates queries in float32 (ModernBERT), rounding is that of float32.
    tolerance = 1e-4 if name == "modernbert" else 1e-9
    for known in (lower, [()] * len(queries)):
        tasks = [Task(query, (), hidden) for query, hidden in zip(queries, known, strict=True)]
        assert largest_difference(fine_tuned_logits(learned, tasks, Computation(), Work()), logits) < tolerance
    assert largest_difference([reading.logits for reading in model.read(queries)], logits) > 0.05


def test_the_model_and_torchs_random_numbers_stay_as_they_are():
    model = model_of("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with torch.inference_mode():
        learned = fine_tuned_model(model, SUPPORTS, FineTuning(steps=2), Computation())
    assert (torch.rand(4) == expected).all()
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())
    assert not any(module.training for module in [*model.network.modules(), *learned.network.modules()])
    assert not any(weight.requires_grad for weight in learned.network.parameters())
    embeddings = [each.network.get_input_embeddings().weight for each in (model, learned)]
    assert embeddings[0].data_ptr() == embeddings[1].data_ptr()  # what stands still is shared


def test_a_seed_fixes_masks_dropout_and_order():
    def logits(seed):
        model = model_of("bert")
        for module in model.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        learned = fine_tuned_model(model, SUPPORTS, FineTuning(0.01, 4, batch_size=3, seed=seed), Computation())
        return np.concatenate([reading.logits for reading in learned.read(CORPUS)])

    assert (logits(1) == logits(1)).all()
    assert np.abs(logits(1) - logits(2)).max() > 1e-3


def test_threads_that_learn_at_once_learn_what_each_alone_does():
    model = model_of("bert")
    ways = [FineTuning(lr=0.003, steps=8, batch_size=2, mask_probability=0.5, seed=seed) for seed in range(4)]

    def learned(how):
        tuned = fine_tuned_model(model, SUPPORTS, how, Computation())
        return torch.cat([weight.flatten() for weight in adapted_parameters(tuned.network, 0).values()])

    alone = [learned(how) for how in ways]
    with ThreadPoolExecutor(4) as pool:
        for expected, found in zip(alone, pool.map(learned, ways), strict=True):
            assert torch.equal(expected, found)


def test_dropout_is_on_while_it_learns(monkeypatch):
    model = model_of("bert")
    seen = []
    module = next(m for m in model.network.modules() if isinstance(m, torch.nn.Dropout))
    monkeypatch.setattr(type(module), "forward", lambda self, x: seen.append(self.training) or x)
    fine_tuned_model(model, SUPPORTS, FineTuning(steps=1), Computation())
    assert any(seen)  # besides the passes that study the network


def test_step_sizes_of_layers_and_steps_by_size():
    model = model_of("bert")
    groups = len(model.settings.lr) and 1 + model.network.config.num_hidden_layers - model.settings.freeze_layers
    rates = (0.0,) * (groups - 1) + (0.01,)
    learned = fine_tuned_model(model, SUPPORTS, FineTuning(rates, 2), Computation())
    moved = {n for n, t in learned.network.state_dict().items() if (t != model.network.state_dict()[n]).any()}
    assert moved == {"classifier.weight", "classifier.bias"}
    with pytest.raises(SettingError, match="step sizes"):
        fine_tuned_model(model, SUPPORTS, FineTuning((0.1,) * (groups + 1)), Computation())
    assert [FineTuning().steps_on(n) for n in (1, 33, 128, 500, 100_000)] == [8, 16, 24, 94, 320]
    assert [FineTuning(passes=2).steps_on(n) for n in (1, 128, 500, 1000)] == [8, 24, 32, 63]
    assert FineTuning(steps=7).steps_on(1000) == 7
    ways = [FineTuning().interpolation_on(n) for n in (1, 10, 25, 75, 475)]
    assert ways == [0.3, 0.3, 0.5, 0.75, 0.95] and FineTuning(interpolation=1.0).interpolation_on(1) == 1.0


def test_a_tokenizer_without_a_mask_piece_masks_nothing():
    model = model_of("bert")
    how = FineTuning(0.01, 2, mask_probability=1.0)
    expected = fine_tuned_model(without_dropout(model), SUPPORTS, replace(how, mask_probability=0.0), Computation())
    model.tokenizer = copy.deepcopy(model.tokenizer)  # other tests have the same
    model.tokenizer.mask_token = None
    found = fine_tuned_model(model, SUPPORTS, how, Computation())
    assert largest_difference([r.logits for r in found.read(CORPUS)], [r.logits for r in expected.read(CORPUS)]) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"steps": 0},
        {"batch_size": 0},
        {"mask_probability": 1.5},
        {"interpolation": 0},
        {"lambda_max": -1},
    ],
)
def test_what_it_cannot_do_is_refused(wrong):
    with pytest.raises(SettingError, match="expected"):
        FineTuning(**wrong)
