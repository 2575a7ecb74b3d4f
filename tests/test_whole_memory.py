"""k="all": one model for all queries, fine-tuned on the whole memory and kept until something changes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tiny import CORPUS, model_of

from pymetaner import Memory, MetaNER, Sentence, adapt, fine_tune, predict
from pymetaner.engine import Computation, FineTuning, InnerStep, fine_tuned_model
from pymetaner.errors import DataError, EmptyDataError, LabelMismatchError, SettingError
from pymetaner.learning import Learning
from pymetaner.whole_memory import model_of_memory

LONG = Sentence(tuple(word for sentence in CORPUS for word in sentence.words))


@pytest.fixture
def model():
    tiny = model_of("bert")
    tiny.memory.add(CORPUS)
    return tiny


def tags(results):
    return [[(e.start, e.end, e.label) for e in result.entities] for result in results]


def test_adapt_tags_as_the_fine_tuned_model_does_and_moves_nothing(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = adapt(model, [*CORPUS, LONG], k="all", lr=0.003, steps=3)
    learned = fine_tuned_model(model, [s for _, s in model.memory], FineTuning(0.003, 3), Computation())
    expected = predict(learned, [*CORPUS, LONG])
    assert tags(found) == tags(expected) != tags(predict(model, [*CORPUS, LONG]))
    for ours, theirs in zip(found, expected, strict=True):
        assert [e.score for e in ours.entities] == pytest.approx([e.score for e in theirs.entities], abs=1e-4)
        assert len(ours.supports) == 3
    assert found[0].profile.engine == "fine-tuned"
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


def test_its_own_settings_are_the_default(model):
    lr = model.settings.lr["adamw"]
    steps = FineTuning().steps_on(len(CORPUS))
    found = adapt(model, CORPUS, k="all")
    assert found == adapt(model, CORPUS, k="all", lr=lr, steps=steps)
    assert found != adapt(model, CORPUS, k="all", lr=2 * lr)


def test_it_is_learned_again_only_when_something_changed(model):
    def learned(**changes):
        return model_of_memory(model, model.memory, replace(inner, **changes), Computation())

    inner = FineTuning(lr=0.003, steps=2)
    first = learned()
    assert learned() is first
    assert learned(lr=0.004) is not first
    first = learned()
    [added] = model.memory.add(Sentence(("Bo", "ran"), ("B-PER", "O")))
    second = learned()
    assert second is not first
    model.memory.remove([added])
    assert learned() is not second
    third = learned()
    with torch.no_grad():
        model.network.classifier.bias.add_(1.0)
    assert learned() is not third


def test_what_is_removed_is_not_kept_however_it_came(model, monkeypatch):
    """A sentence that was added between looking what there is and reading it, say."""
    memory = Memory(model)
    memory.add(CORPUS[:6])
    version, added = Memory.version, []

    def then_added(self):
        found = version(self)
        if not added:
            added.extend(self.add(CORPUS[6:]))
        return found

    how = FineTuning(lr=0.003, steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(Memory, "version", then_added)
        first = model_of_memory(model, memory, how, Computation())
    assert model_of_memory(model, memory, how, Computation()) is first
    memory.remove(added)
    assert model_of_memory(model, memory, how, Computation()) is not first


def test_what_was_added_is_used_by_the_next_call(model):
    memory = Memory(model)
    memory.add(CORPUS[:3])
    settings = {"memory": memory, "k": "all", "lr": 0.003}
    before = adapt(model, CORPUS, **settings)
    memory.add(CORPUS[3:])
    after = adapt(model, CORPUS, **settings)
    assert after != before
    assert [r.entities for r in after] == [r.entities for r in adapt(model, CORPUS, k="all", lr=0.003)]


def test_threads_learn_it_once(model, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "pymetaner.whole_memory.fine_tuned_model",
        lambda *a: calls.append(threading.get_ident()) or fine_tuned_model(*a),
    )
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: adapt(model, CORPUS, k="all", lr=0.003), range(8)))
    assert len(calls) == 1
    assert all(results == found[0] for results in found)


def test_an_empty_memory_is_told_and_leaves_the_model_as_it_is():
    model = model_of("bert")
    with pytest.warns(UserWarning, match="empty"):
        results = adapt(model, CORPUS[:3], k="all")
    assert [r.entities for r in results] == [r.entities for r in predict(model, CORPUS[:3])]


def test_neighbours_vote_on_top_of_it(model):
    settings = {"k": "all", "lr": 0.003}
    assert adapt(model, CORPUS, knn=1.0, **settings) != adapt(model, CORPUS, **settings)


def test_how_it_learns_goes_with_what_it_learns_from(model):
    for k, inner in (("all", InnerStep(0.1)), (2, FineTuning())):
        with pytest.raises(SettingError, match="expected a FineTuning"):
            Learning(model.memory, k, inner)


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": "some"},
        {"k": "all", "exclude_self": True},
        {"k": "all", "lr": (0.1, 0.1)},
        {"k": "all", "inner_optimizer": "sgd"},
        {"k": "all", "engine": "reference"},
        {"k": "all", "steps": 0},
    ],
)
def test_what_it_cannot_do_is_refused(model, wrong):
    with pytest.raises(SettingError, match=r"expected|leave (it|engine) out|exclude_self"):
        adapt(model, CORPUS[0], **wrong)


# ---- fine_tune ----


def logits_of(model):
    return torch.cat([torch.from_numpy(reading.logits) for reading in model.read(CORPUS)])


def test_the_new_model_is_what_adapt_tags_with_and_can_be_saved(model, tmp_path):
    before = logits_of(model)
    tuned = fine_tune(model, lr=0.003, steps=3)
    assert tags(predict(tuned, CORPUS)) == tags(adapt(model, CORPUS, k="all", lr=0.003, steps=3))
    assert (logits_of(model) == before).all()
    assert [s for _, s in tuned.memory] == [s for _, s in model.memory]
    tuned.save_pretrained(tmp_path / "tuned")
    assert (logits_of(MetaNER.from_pretrained(tmp_path / "tuned")) == logits_of(tuned)).all()


def test_it_learns_from_sentences_or_from_another_memory(model):
    other = Memory(model)
    other.add(CORPUS[:4])
    tuned = [fine_tune(model, source, lr=0.003, steps=2) for source in (other, CORPUS[:4], iter(CORPUS[:4]))]
    assert all((logits_of(each) == logits_of(tuned[0])).all() for each in tuned)
    assert [len(each.memory) for each in tuned] == [4, len(model.memory), len(model.memory)]
    new = Sentence(("Bo", "ran"), ("B-PER", "O"))
    assert len(fine_tune(model, [new], steps=1).memory) == len(model.memory) + 1


def test_seeds_and_defaults(model):
    steps = FineTuning().steps_on(len(CORPUS))
    expected = logits_of(fine_tune(model, lr=model.settings.lr["adamw"], steps=steps, lambda_max=0.0, seed=0))
    assert (logits_of(fine_tune(model)) == expected).all()
    assert not (logits_of(fine_tune(model, seed=1)) == expected).all()


def test_what_was_calibrated_is_used_and_does_not_stay(model, monkeypatch):
    found = {"k": "all", "lr": 0.003, "steps": 2, "lambda_max": 0.5, "knn": 0.0}
    monkeypatch.setattr(Memory, "calibration", property(lambda self: found if self is model.memory else None))
    expected = logits_of(fine_tune(model, lr=0.003, steps=2, lambda_max=0.5))
    assert (logits_of(fine_tune(model)) == expected).all()
    assert not (logits_of(fine_tune(model, steps=2)) == expected).all()
    found["k"] = 2
    assert not (logits_of(fine_tune(model)) == expected).all()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ([], EmptyDataError),
        ([Sentence(("Ada",))], DataError),
        ([Sentence(("Ada",), ("B-DRUG",))], LabelMismatchError),
        (["Ada"], DataError),
    ],
)
def test_sentences_that_teach_nothing_are_told(model, source, error):
    with pytest.raises(error):
        fine_tune(model, source)
    with pytest.raises(EmptyDataError):
        fine_tune(model_of("bert"))


def test_a_memory_that_is_emptied_while_a_call_waits_leaves_the_model_as_it_is(model):
    assert model_of_memory(model, Memory(model), FineTuning(), Computation()) is model
    with pytest.raises(EmptyDataError, match="no sentence with a word"):
        fine_tuned_model(model, [], FineTuning(), Computation())
