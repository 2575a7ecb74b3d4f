"""The factor cache: it saves passes, never changes an answer, stays within its bounds and notices what changed."""

from __future__ import annotations

import copy

import pytest
import torch
from tasks import TASKS, batched, largest_difference
from tiny import CORPUS, model_of

from pymetaner.adaptation import adapt, predict
from pymetaner.cache import FactorCache
from pymetaner.engine import Computation, InnerStep, Work, batched_logits
from pymetaner.engine.batched.factors import SupportFactors, WindowFactors
from pymetaner.errors import SettingError

SGD = InnerStep(lr=0.1)


def supports_computed(model, inner, cache, **computation):
    work = Work()
    logits = batched_logits(model, TASKS, inner, Computation(cache=cache, **computation), work)
    return work.supports - work.cached, logits


@pytest.mark.parametrize("inner", [SGD, InnerStep(lr=0.01, steps=2, optimizer="bertadam")], ids=["sgd", "bertadam"])
def test_a_second_call_computes_no_support_again(inner):
    model, cache = model_of("bert"), FactorCache()
    expected = batched(model, TASKS, inner)
    computed, cold = supports_computed(model, inner, cache)
    assert computed == len({support for task in TASKS if task.query.words for support in task.supports}) == len(cache)
    again, warm = supports_computed(model, inner, cache)
    assert again == 0
    assert largest_difference(cold, expected) < 1e-5 and largest_difference(warm, expected) < 1e-5
    assert cache.hits == computed and 0 < cache.nbytes <= cache.cache_bytes
    assert "bytes" in repr(cache)


def test_step_sizes_optimisers_and_k_share_factors():
    model, cache = model_of("bert"), FactorCache()
    supports_computed(model, SGD, cache)
    for inner in (InnerStep(lr=0.3), InnerStep(lr=0.01, optimizer="bertadam"), InnerStep(lr=0.1, steps=2)):
        computed, found = supports_computed(model, inner, cache)
        assert computed == 0
        assert largest_difference(found, batched(model, TASKS, inner)) < 1e-4


def change_weights(model):
    with torch.no_grad():
        model.network.bert.encoder.layer[0].output.dense.weight.add_(0.1)
    return SGD, {}


@pytest.mark.parametrize(
    "change",
    [
        change_weights,
        lambda model: (InnerStep(lr=0.1, lambda_max=1.0), {}),
        lambda model: (InnerStep(lr=(0.1, 0.0, 0.1)), {}),
        lambda model: (SGD, {"precision": "bf16"}),
        lambda model: (model.double() and SGD, {}),
    ],
    ids=["weights", "max term", "layers", "precision", "dtype"],
)
def test_what_changes_factors_empties_the_cache(change):
    model, cache = model_of("bert"), FactorCache()
    first, _ = supports_computed(model, SGD, cache)
    inner, computation = change(model)
    computed, found = supports_computed(model, inner, cache, **computation)
    assert computed == first == len(cache)
    near = 0.1 if computation else 1e-4
    assert largest_difference(found, batched(model, TASKS, inner, **computation)) < near


def test_an_interrupt_leaves_a_cache_that_goes_on(monkeypatch):
    model, cache = model_of("bert"), FactorCache()
    supports_computed(model, SGD, cache)
    full, count = cache.nbytes, FactorCache._count
    cache.cache_bytes = full // 2

    def interrupted(self, windows, by):
        if by < 0:
            raise KeyboardInterrupt
        count(self, windows, by)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FactorCache, "_count", interrupted)
        supports_computed(model, InnerStep(lr=0.1, lambda_max=1.0), cache)
    cache.cache_bytes = full
    _, found = supports_computed(model, SGD, cache)
    assert cache.nbytes == full
    assert largest_difference(found, batched(model, TASKS, SGD)) < 1e-5


def test_the_least_recently_used_goes_first():
    model = model_of("bert")
    whole = FactorCache()
    supports_computed(model, SGD, whole)
    small = FactorCache(whole.nbytes // 2)
    supports_computed(model, SGD, small)
    assert 0 < len(small) < len(whole) and small.nbytes <= small.cache_bytes
    computed, found = supports_computed(model, SGD, small)
    assert computed > 0
    assert largest_difference(found, batched(model, TASKS, SGD)) < 1e-5


def windows_of(*lengths):
    """Windows that passed together: 100 bytes a window, and as many windows as lengths."""
    batch = SupportFactors((torch.zeros(len(lengths), 5, 4),), torch.zeros(len(lengths), 1, 5), lengths, lengths)
    return [WindowFactors(batch, row) for row in range(len(lengths))]


def test_bytes_are_those_of_the_tensors_that_stay():
    cache, state = FactorCache(1000), "weights"
    assert windows_of(5)[0].batch.nbytes == 100
    one, two = windows_of(5, 5)
    cache.put(state, {"one": [one], "two": [two]})
    assert cache.nbytes == 200
    for number in range(8):
        cache.put(state, {number: windows_of(5)})
    assert cache.nbytes == 1000 and len(cache) == 10
    assert cache.get(state, "two") is not None
    cache.put(state, {8: windows_of(5)})  # "one" goes, but lies in the tensors of "two"; so 0 goes too
    assert cache.get(state, "one") is None and cache.get(state, 0) is None and cache.get(state, "two") is not None
    assert cache.nbytes == 1000
    cache.put(state, {1: windows_of(5)})  # again: what was there is replaced
    assert cache.nbytes == 1000 and len(cache) == 9


def test_what_never_fits_drives_nothing_out():
    cache, state = FactorCache(250), "weights"
    cache.put(state, {"small": windows_of(5)})
    large = windows_of(5, 5, 5)
    kept = cache.put(state, {"large": large})
    assert [window.pieces for window in kept["large"]] == [5, 5, 5]
    assert cache.get(state, "large") is None and cache.get(state, "small") is not None
    assert cache.get("other weights", "small") is None
    cache.clear()
    assert len(cache) == cache.nbytes == 0


def test_a_cache_of_half_the_bytes_rounds_and_answers_the_same_each_time():
    model, whole, half = model_of("bert"), FactorCache(), FactorCache(dtype=torch.bfloat16, device="cpu")
    _, exact = supports_computed(model, SGD, whole)
    _, cold = supports_computed(model, SGD, half)
    _, warm = supports_computed(model, SGD, half)
    assert half.nbytes * 2 == whole.nbytes
    assert largest_difference(cold, warm) < 1e-6
    assert 0 < largest_difference(cold, exact) < 0.3


def test_no_bytes_keep_nothing():
    model, cache = model_of("bert"), FactorCache(0)
    first, _ = supports_computed(model, SGD, cache)
    assert supports_computed(model, SGD, cache)[0] == first
    assert len(cache) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"cache_bytes": -1}, {"cache_bytes": 1.5}, {"dtype": torch.int8}, {"device": "cuda:99"}, {"device": "hpu"}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingError, match="expected"):
        FactorCache(**wrong)


def test_the_profile_tells_hits_and_bytes():
    model = model_of("bert")
    model.memory.add(CORPUS)
    texts = [sentence.text for sentence in CORPUS[:5]]
    cold = adapt(model, texts, lr=0.1)[0].profile
    warm = adapt(model, texts, lr=0.1)[0].profile
    assert cold.hit_rate == 0 and warm.hit_rate == 1 and warm.supports == cold.supports > 0
    assert warm.cache_bytes == cold.cache_bytes == model.cache.nbytes > 0
    assert warm.engine == "batched" and set(warm.seconds) == {"reading", "searching", "adapting"}
    assert "100% from the cache" in str(warm)
    model.cache = FactorCache(0)
    assert adapt(model, texts, lr=0.1)[0].profile.cache_bytes == 0


def test_a_copied_model_starts_with_an_empty_cache_of_its_own():
    model = model_of("bert")
    model.cache = FactorCache(1 << 20, dtype=torch.bfloat16)
    batched(model, TASKS, InnerStep(lr=0.1), cache=model.cache)
    copied = copy.deepcopy(model)
    assert (len(copied.cache), copied.cache.cache_bytes, copied.cache.dtype) == (0, 1 << 20, torch.bfloat16)
    assert len(model.cache) > 0
    assert predict(copied, ["Ada slept"]) == predict(model, ["Ada slept"])
