"""Base training: its loss, its schedule, resuming after a kill to the bit, and picking the best weights."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import CORPUS, OVERLAP, WINDOW, model_of, network_of, parse, tokenizer_of
from torch.nn import functional

from pymetaner import evaluate
from pymetaner.errors import EmptyDataError, LabelMismatchError, ModelFileError, NumericsError, SaveError, SettingError
from pymetaner.files import MEMORY, REPORT
from pymetaner.model import MetaNER
from pymetaner.objective import Batches, batch_loss, mask_entities
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings
from pymetaner.training import MetaSettings, TrainSettings, loop, train
from pymetaner.windows import IGNORE

SHORT = TrainSettings(steps=12, batch_size=4, lr=1e-2, evaluate_every=4, checkpoint_every=3, seed=7)


class Killed(Exception):
    pass


def weights_of(model: MetaNER) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# ---- the loss ----


@pytest.mark.parametrize("lambda_max", [0.0, 2.0])
def test_the_parts_of_a_batch_add_up_to_its_loss(lambda_max):
    torch.manual_seed(0)
    logits = torch.randn(5, 6, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 7, (5, 6))
    labels[torch.rand(5, 6) < 0.4] = IGNORE
    labels[3] = IGNORE  # a window whose words all belong to others
    every, largest = [], []
    for row in range(5):
        losses = [
            functional.cross_entropy(logits[row, t], labels[row, t]) for t in range(6) if labels[row, t] != IGNORE
        ]
        every += losses
        largest.append(max(losses) if losses else torch.zeros((), dtype=torch.float64))
    expected = sum(every) / len(every) + lambda_max * sum(largest) / 5
    (gradient,) = torch.autograd.grad(expected, logits)
    parts = [slice(0, 2), slice(2, 5)]
    found = sum(batch_loss(logits[p], labels[p], lambda_max, pieces=len(every), sentences=5) for p in parts)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], gradient)


def test_words_are_counted_exactly_in_bfloat16():
    logits, labels = torch.zeros(1, 259, 7, dtype=torch.bfloat16), torch.zeros(1, 259, dtype=torch.int64)
    assert float(batch_loss(logits, labels, 0.0, pieces=259, sentences=1)) == pytest.approx(math.log(7), rel=1e-6)


def test_only_pieces_with_an_entity_tag_are_masked():
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (200, 50))
    labels[:, ::3] = IGNORE
    ids = torch.randint(10, 90, (200, 50))
    masked = mask_entities(ids, labels, outside=[2], mask_id=4, probability=0.2)
    entity = (labels != IGNORE) & (labels != 2)
    assert torch.equal(masked[~entity], ids[~entity])
    assert set(masked[entity & (masked != ids)].tolist()) == {4}
    assert (masked != ids).sum() / entity.sum() == pytest.approx(0.2, abs=0.02)
    assert not torch.equal(masked, mask_entities(ids, labels, [2], 4, 0.2))  # drawn anew
    assert torch.equal(mask_entities(ids, labels, [2], 4, 0.0), ids)
    assert (mask_entities(ids, labels, [2], 4, 1.0)[entity] == 4).all()


def test_a_seed_draws_the_same_masks_whatever_the_default_type_is():
    ids, labels, drawn = torch.arange(1000).view(10, 100), torch.zeros(10, 100, dtype=torch.int64), []
    for kind in (torch.float64, torch.float32):
        torch.set_default_dtype(kind)
        torch.manual_seed(0)
        drawn.append(mask_entities(ids, labels, [], -1, 0.5))
    assert torch.equal(*drawn)


def test_the_learning_rate_rises_and_falls_in_straight_lines():
    shares = [loop._schedule(step, replace(SHORT, steps=100, warmup=0.1)) for step in range(100)]
    assert shares[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert shares[10] == 1
    assert shares[-1] == pytest.approx(1 / 90)
    drops = [a - b for a, b in pairwise(shares[10:])]
    assert drops == pytest.approx([1 / 90] * 89)
    assert [loop._schedule(step, replace(SHORT, steps=1)) for step in range(1)] == [1]


def test_an_epoch_holds_every_window_once_in_a_new_order():
    windows = model_of("bert").words.windows(CORPUS)
    batches = Batches(windows, replace(SHORT, batch_size=5))
    epochs = [[id(w) for step in range(4 * epoch, 4 * epoch + 4) for w in batches[step]] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(map(id, windows)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = Batches(windows, replace(SHORT, batch_size=5))
    assert [id(w) for w in again[9]] == [id(w) for w in batches[9]]


# ---- runs ----


def test_training_learns_and_moves_only_what_is_not_frozen(tmp_path):
    network = network_of("bert", hidden_size=64, intermediate_size=128, initializer_range=0.1)
    settings = Settings(window=WINDOW, overlap=OVERLAP, freeze_layers=1)
    model = MetaNER(network, tokenizer_of("wordpiece"), settings=settings)
    before, memory_key = weights_of(model), model.fingerprint
    plain = evaluate(model, CORPUS).plain.f1
    run = replace(SHORT, steps=100, batch_size=8, lr=3e-3, mask_probability=0.1, lambda_max=0.5, evaluate_every=100)
    report = train(model, CORPUS, tmp_path, settings=run)
    trained = evaluate(model, CORPUS).plain.f1
    assert plain < 0.3 and trained > 0.8
    assert (report.best_step, report.best_f1, report.history) == (100, None, [])
    for name, tensor in weights_of(model).items():
        frozen = "embeddings" in name or "layer.0." in name
        assert torch.equal(tensor, before[name]) == frozen, name
    assert model.fingerprint == memory_key
    assert not model.network.training
    assert all(p.requires_grad for p in model.parameters())
    loaded = MetaNER.from_pretrained(tmp_path)
    assert_same(weights_of(loaded), weights_of(model))
    assert (loaded.labels, loaded.settings) == (model.labels, model.settings)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_the_best_weights_on_dev_are_kept(tmp_path, monkeypatch):
    scores, seen = iter([0.2, 0.6, 0.6, 0.1]), []

    def scored(model, sentences, **options):
        seen.append(weights_of(model))
        result = evaluate(model, sentences, **options)
        f1 = next(scores)
        plain = type("Score", (), {"f1": f1})()
        return replace(result, plain=plain)

    monkeypatch.setattr(loop, "evaluate", scored)
    model = model_of("bert")
    report = train(model, CORPUS, tmp_path, dev=CORPUS[:4], settings=replace(SHORT, steps=14))
    assert report.history == [(4, 0.2), (8, 0.6), (12, 0.6), (14, 0.1)]
    assert (report.best_step, report.best_f1) == (8, 0.6)
    assert_same(weights_of(model), seen[1])
    assert_same(weights_of(MetaNER.from_pretrained(tmp_path)), seen[1])
    summary = json.loads((tmp_path / "training.json").read_text())
    assert (summary["best_step"], summary["best_f1"], summary["settings"]["seed"]) == (8, 0.6, 7)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    model = model_of("bert")
    report = train(model, CORPUS, tmp_path_factory.mktemp("run"), dev=CORPUS[:6], settings=SHORT)
    return report, weights_of(model)


def test_a_seed_gives_the_same_run_and_another_seed_another(tmp_path, uninterrupted):
    report, weights = uninterrupted
    torch.manual_seed(1234)  # of no concern to a run
    state = torch.get_rng_state()
    model = model_of("bert")
    again = train(model, CORPUS, tmp_path / "a", dev=CORPUS[:6], settings=SHORT)
    assert (again.history, again.best_step) == (report.history, report.best_step)
    assert_same(weights_of(model), weights)
    assert torch.equal(torch.get_rng_state(), state)
    other = model_of("bert")
    train(other, CORPUS, tmp_path / "b", dev=CORPUS[:6], settings=replace(SHORT, seed=8))
    assert not torch.equal(other.network.classifier.weight, model.network.classifier.weight)


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path, monkeypatch, uninterrupted, killed_at):
    looks = []

    def dying(*arguments, **options):
        looks.append(1)
        if len(looks) == killed_at:
            raise Killed
        return evaluate(*arguments, **options)

    monkeypatch.setattr(loop, "evaluate", dying)
    with pytest.raises(Killed):
        train(model_of("bert"), CORPUS, tmp_path, dev=CORPUS[:6], settings=SHORT)
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["state"])["step"] == {1: 3, 2: 6, 3: 9}[killed_at]
    monkeypatch.setattr(loop, "evaluate", evaluate)
    steps, schedule = [], loop._schedule

    def noted(step, settings):
        steps.append(step)
        return schedule(step, settings)

    monkeypatch.setattr(loop, "_schedule", noted)
    model = model_of("bert")
    report = train(model, CORPUS, tmp_path, dev=CORPUS[:6], settings=SHORT)
    assert min(steps) == {1: 3, 2: 6, 3: 9}[killed_at]
    expected, weights = uninterrupted
    assert (report.history, report.best_step, report.best_f1) == (
        expected.history, expected.best_step, expected.best_f1
    )  # fmt: skip
    assert_same(weights_of(model), weights)
    assert_same(weights_of(MetaNER.from_pretrained(tmp_path)), weights)


def test_a_kill_while_the_report_is_written_leaves_nothing_behind(tmp_path, monkeypatch):
    plain = os.replace

    def killed(source, target):
        if Path(target).name == REPORT:
            raise Killed
        plain(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", killed)
        train(model_of("bert"), CORPUS, tmp_path, settings=SHORT)
    assert list(tmp_path.glob(".*"))
    train(model_of("bert"), CORPUS, tmp_path, settings=SHORT)
    assert (tmp_path / REPORT).exists() and not list(tmp_path.glob(".*"))


def test_the_same_model_object_goes_on_too(tmp_path, monkeypatch, uninterrupted):
    """What Ctrl-C in a notebook leaves behind."""
    model = model_of("bert")
    plain_step = torch.optim.AdamW.step
    steps = []

    def interrupted(self, *arguments):
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return plain_step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(model, CORPUS, tmp_path, dev=CORPUS[:6], settings=SHORT)
    train(model, CORPUS, tmp_path, dev=CORPUS[:6], settings=SHORT)
    assert_same(weights_of(model), uninterrupted[1])


@pytest.mark.parametrize("meta", [None, MetaSettings(average=False), MetaSettings()], ids=["base", "meta", "averaged"])
def test_a_model_whose_run_stopped_before_its_first_checkpoint_starts_anew(tmp_path, monkeypatch, meta):
    whole, stopped = model_of("bert"), model_of("bert")
    settings = replace(SHORT, checkpoint_every=100, evaluate_every=100)
    train(whole, CORPUS, tmp_path / "whole", settings=settings, meta=meta)
    plain_step, steps = torch.optim.AdamW.step, []
    last = 16 if meta is not None and meta.average else 4  # the plain run of twelve steps comes first

    def interrupted(self, *arguments):
        steps.append(1)
        if len(steps) == last:
            raise KeyboardInterrupt
        return plain_step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        train(stopped, CORPUS, tmp_path / "stopped", settings=settings, meta=meta)
    assert_same(weights_of(stopped), weights_of(model_of("bert")))
    train(stopped, CORPUS, tmp_path / "stopped", settings=settings, meta=meta)
    assert_same(weights_of(stopped), weights_of(whole))


def test_a_run_that_goes_astray_leaves_the_model_as_it_was(tmp_path):
    model = model_of("bert")
    with pytest.raises(NumericsError):
        train(model, CORPUS, tmp_path / "astray", settings=replace(SHORT, lr=1e30, checkpoint_every=1))
    assert (tmp_path / "astray" / "checkpoint.safetensors").exists()
    assert_same(weights_of(model), weights_of(model_of("bert")))


def test_layers_that_share_a_weight_train_it_once(tmp_path, monkeypatch):
    def tied():
        model = model_of("bert")
        layers = model.network.bert.encoder.layer
        layers[2].output.dense.weight = layers[1].output.dense.weight
        return model

    straight, stopped = tied(), tied()
    train(straight, CORPUS, tmp_path / "straight", settings=SHORT)
    save = loop.TrainingState.save

    def killed(state, step):
        save(state, step)
        if step == 6:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.TrainingState, "save", killed)
        train(stopped, CORPUS, tmp_path / "stopped", settings=SHORT)
    train(stopped, CORPUS, tmp_path / "stopped", settings=SHORT)  # the shared weight does not pass for a frozen one
    assert_same(weights_of(stopped), weights_of(straight))
    layers = straight.network.bert.encoder.layer
    assert layers[2].output.dense.weight is layers[1].output.dense.weight
    assert_same(weights_of(MetaNER.from_pretrained(tmp_path / "straight")), weights_of(straight))


KILL = """
    import sys
    sys.path.insert(0, {tests!r})
    import torch
    from tiny import CORPUS, model_of
    from pymetaner.training import TrainSettings, train

    torch.set_num_threads(1)
    train(model_of("bert"), CORPUS, {folder!r}, dev=CORPUS[:6], settings=TrainSettings(**{settings!r}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_real_kill(tmp_path):
    settings = replace(SHORT, steps=400, evaluate_every=100, checkpoint_every=5)
    script = KILL.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run"), settings=vars(settings))
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with safe_open(checkpoint, framework="pt") as file:
        done = json.loads(file.metadata()["state"])["step"]
    assert 0 < done < 400
    # The rest of 400 steps would take long: the weights at a later checkpoint tell as much.
    killed, straight = model_of("bert"), model_of("bert")
    stop = done + 10

    def until(model, folder):
        plain = loop.TrainingState.save

        def save(state, step):
            plain(state, step)
            if step >= stop:
                raise Killed

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(loop.TrainingState, "save", save)
            train(model, CORPUS, folder, dev=CORPUS[:6], settings=settings)
        return weights_of(model)

    assert_same(until(killed, tmp_path / "run"), until(straight, tmp_path / "other"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": replace(SHORT, lr=5e-3)}, "other lr"),
        ({"settings": replace(SHORT, seed=8, steps=13)}, "other seed, steps"),
        ({"sentences": [*CORPUS[:-1], CORPUS[0]]}, "other data"),
        ({"dev": CORPUS[:5]}, "other data"),
        ({"model": 1}, "other frozen weights"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, monkeypatch, change, says):
    def die(*arguments, **options):
        raise Killed

    monkeypatch.setattr(loop, "evaluate", die)
    with pytest.raises(Killed):
        train(model_of("bert"), CORPUS, tmp_path, dev=CORPUS[:6], settings=SHORT)
    arguments = {"sentences": CORPUS, "dev": CORPUS[:6], "settings": SHORT, **change}
    model = model_of("bert", seed=arguments.pop("model", 0))
    before = weights_of(model)
    with pytest.raises(SettingError, match=rf"checkpoint of a run with {says}.*another output folder"):
        train(model, arguments.pop("sentences"), tmp_path, **arguments)
    assert_same(weights_of(model), before)


def test_a_finished_run_is_taken_over_and_another_not_overwritten_unasked(tmp_path):
    few = replace(SHORT, steps=2, evaluate_every=1)
    trained = model_of("bert")
    report = train(trained, CORPUS, tmp_path, dev=CORPUS[:6], settings=few)
    before = (tmp_path / "model.safetensors").read_bytes()
    again = model_of("bert")
    assert train(again, CORPUS, tmp_path, dev=CORPUS[:6], settings=few) == report
    assert_same(weights_of(again), weights_of(trained))
    for data, settings, told in ((CORPUS, replace(few, steps=3), "steps"), (CORPUS[1:], few, "data")):
        with pytest.raises(SettingError, match=rf"holds a finished run with other .*{told}.*overwrite=True"):
            train(model_of("bert"), data, tmp_path, dev=CORPUS[:6], settings=settings)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    train(model_of("bert"), CORPUS, tmp_path, dev=CORPUS[:6], settings=replace(few, lr=1e-4), overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() != before
    (tmp_path / REPORT).write_text("{}")
    with pytest.raises(ModelFileError, match="is damaged"):
        train(model_of("bert"), CORPUS, tmp_path, settings=few)
    (tmp_path / REPORT).unlink()
    with pytest.raises(SettingError, match="a model without a run's report"):
        train(model_of("bert"), CORPUS, tmp_path, settings=few)


def test_a_finished_meta_run_gives_its_step_size_too(tmp_path):
    few, meta = replace(SHORT, steps=2), MetaSettings(lr=0.05)
    trained, again = model_of("bert"), model_of("bert")
    train(trained, CORPUS, tmp_path, settings=few, meta=meta)
    train(again, CORPUS, tmp_path, settings=few, meta=meta)
    assert again.settings == trained.settings != model_of("bert").settings
    assert_same(weights_of(again), weights_of(trained))


@pytest.mark.parametrize("how", ["truncated", "foreign", "no notes", "other tensors"])
def test_a_damaged_checkpoint_is_refused(tmp_path, how):
    path = tmp_path / "checkpoint.safetensors"
    notes = {"run": {}, "step": 3, "history": [], "best_f1": None, "best_step": 0}
    if how == "foreign":
        path.write_bytes(b"no tensors")
    else:
        metadata = None if how == "no notes" else {"state": json.dumps(notes)}
        save_file({"weight/x": torch.zeros(3)}, path, metadata=metadata)
        if how == "truncated":
            path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ModelFileError, match=r"checkpoint\.safetensors is damaged.*delete it"):
        train(model_of("bert"), CORPUS, tmp_path, settings=SHORT)


def test_a_memory_in_the_folder_is_not_left_to_rot(model, tmp_path):
    model.save_pretrained(tmp_path)
    before = (tmp_path / MEMORY).read_bytes()
    with pytest.raises(SettingError, match="holds a memory"):
        train(model, CORPUS, tmp_path, settings=SHORT)
    assert (tmp_path / MEMORY).read_bytes() == before
    # The model's own memory is no obstacle: it is not saved, and whether it still fits can be asked.
    train(model, CORPUS, tmp_path / "run", settings=replace(SHORT, steps=2))
    assert not (tmp_path / "run" / MEMORY).exists()
    model.memory.check(model)
    model.save_pretrained(tmp_path / "run")
    assert len(MetaNER.from_pretrained(tmp_path / "run").memory) == len(CORPUS)


def test_long_sentences_train_in_windows_and_parts(tmp_path, monkeypatch):
    long = Sentence(
        tuple(w for s in CORPUS[:6] for w in s.words), tuple(tag for s in CORPUS[:6] for tag in s.tags or ())
    )
    sentences = [long, *CORPUS[6:]]
    settings = replace(SHORT, steps=3, mask_probability=0, batch_size=50)
    one, other = (model_of("bert") for _ in range(2))
    for model in (one, other):  # dropout draws by the shape of a part
        for module in model.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.network.config.attention_probs_dropout_prob = 0.0
    assert len(one.words.windows(sentences)) > len(sentences) + 2
    train(one, sentences, tmp_path / "one", settings=settings)
    monkeypatch.setattr("pymetaner.objective._PART", 100)
    train(other, sentences, tmp_path / "other", settings=settings)
    for name, tensor in weights_of(one).items():
        if name.endswith("key.bias"):
            continue  # its gradient is 0 but for rounding, of which Adam makes a whole step
        torch.testing.assert_close(weights_of(other)[name], tensor, atol=1e-4, rtol=1e-4)


def test_bad_data_is_refused_before_a_step(tmp_path):
    model = model_of("bert")
    with pytest.raises(EmptyDataError, match="no labelled sentence to train on"):
        train(model, [Sentence(("Ada",)), Sentence((), ())], tmp_path)
    with pytest.raises(EmptyDataError, match="in `dev`"):
        train(model, CORPUS, tmp_path, dev=[Sentence(("Ada",))])
    with pytest.raises(LabelMismatchError, match="MISC"):
        train(model, [*CORPUS, parse("[Golden Gate|MISC] is red")], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SaveError):
        train(model, CORPUS, tmp_path / "file", settings=replace(SHORT, steps=1))
    tokenizer = model.tokenizer
    token, tokenizer.mask_token = tokenizer.mask_token, None
    try:
        with pytest.raises(SettingError, match="no mask piece: train with mask_probability=0"):
            train(model, CORPUS, tmp_path, settings=SHORT)
    finally:
        tokenizer.mask_token = token
    assert all(parameter.requires_grad for parameter in model.network.parameters())  # as before


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0}, {"steps": 1.5}, {"batch_size": "4"}, {"seed": 1.0}, {"lr": 0}, {"lr": float("nan")}, {"clip": -1},
        {"warmup": 1.1}, {"mask_probability": -0.1}, {"lambda_max": -1}, {"weight_decay": float("inf")},
        {"evaluate_every": 0}, {"checkpoint_every": True},
    ],
)  # fmt: skip
def test_settings_out_of_range(values):
    (name,) = values
    with pytest.raises(SettingError, match=f"{name}="):
        TrainSettings(**values)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
@pytest.mark.parametrize("earlier", [False, True], ids=["new folder", "folder of an earlier run"])
def test_a_kill_while_the_only_best_weights_are_saved(tmp_path, earlier, killed_at):
    """The checkpoint says that they are saved, and they are not: what is there is nothing, or of another run."""
    one_look = replace(SHORT, steps=4, evaluate_every=4, checkpoint_every=4)
    straight = model_of("bert")
    train(straight, CORPUS, tmp_path / "straight", dev=CORPUS[:6], settings=one_look)
    folder = tmp_path / "run"
    if earlier:
        train(model_of("bert"), CORPUS, folder, dev=CORPUS[:6], settings=replace(one_look, seed=7))
    child = os.fork()
    if child == 0:
        replaced, rename = [], os.replace

        def killed(source, target):
            replaced.append(target)
            if len(replaced) == killed_at:
                os._exit(9)
            rename(source, target)

        os.replace = killed
        torch.set_num_threads(1)
        train(model_of("bert"), CORPUS, folder, dev=CORPUS[:6], settings=one_look, overwrite=earlier)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    anew = earlier and killed_at == 1  # there is no checkpoint yet, so nothing says that the folder is of this run
    train(model_of("bert"), CORPUS, folder, dev=CORPUS[:6], settings=one_look, overwrite=anew)
    assert_same(weights_of(MetaNER.from_pretrained(folder)), weights_of(straight))
    if killed_at > 1:  # else there was no checkpoint yet, so nothing said that the folder was of this run
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
