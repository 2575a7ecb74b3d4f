"""masked_token_loss: the kernel and its reference against the formula, written out token by token."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_backends import BACKENDS, using

from pymetaner import _cpu, ops
from pymetaner.errors import InputError, SettingError

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def example(seed, shape, dtype=torch.float64, ignored=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    labels = torch.randint(0, shape[2], shape[:2], generator=generator)
    labels[torch.rand(shape[:2], generator=generator) < ignored] = -100
    return logits, labels


def oracle(logits, labels, lambda_max, ignore_index=-100):
    """Losses and gradients in float64, one token at a time."""
    logits = logits.double().numpy()
    losses, gradients = np.zeros(len(logits)), np.zeros_like(logits)
    for b in range(len(logits)):
        places = [t for t in range(logits.shape[1]) if labels[b, t] != ignore_index]
        if not places:
            continue
        entropies = []
        for t in places:
            row = logits[b, t]
            log_sum = max(row) + math.log(math.fsum(math.exp(x - max(row)) for x in row))
            entropies.append(log_sum - row[labels[b, t]])
            gradients[b, t] = np.exp(row - log_sum)
            gradients[b, t, labels[b, t]] -= 1
        losses[b] = math.fsum(entropies) / len(places) + lambda_max * max(entropies)
        worst = places[entropies.index(max(entropies))]
        scale = np.full((logits.shape[1], 1), 1 / len(places))
        scale[worst] += lambda_max
        gradients[b] *= scale
    return losses, gradients


def loss_and_gradient(logits, labels, lambda_max, **settings):
    logits = logits.detach().requires_grad_()
    loss = ops.masked_token_loss(logits, labels, lambda_max, **settings)
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(0, 5), st.integers(0, 17), st.integers(1, 14)),
    dtype=st.sampled_from(DTYPES),
    lambda_max=st.sampled_from([0.0, 0.5, 2.0]),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_equals_the_oracle(backend, seed, shape, dtype, lambda_max, ignored):
    logits, labels = example(seed, shape, dtype, ignored)
    with using(backend):
        loss, gradient = loss_and_gradient(logits, labels, lambda_max)
    losses, gradients = oracle(logits, labels, lambda_max)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and gradient.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 1e-2)
    np.testing.assert_allclose(loss.double().numpy(), losses, rtol=1e-12 if dtype == torch.float64 else 2e-6, atol=1e-6)
    np.testing.assert_allclose(gradient.double().numpy(), gradients, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    logits, labels = example(0, (3, 4, 3))
    labels[2] = -100
    logits.requires_grad_()
    weights = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64, requires_grad=True)

    def loss(x, w):
        return ops.masked_token_loss(x, labels, 1.5, sentence_weights=w)

    with using(backend):
        assert torch.autograd.gradcheck(loss, (logits, weights))
        assert torch.autograd.gradgradcheck(loss, (logits, weights))


@pytest.mark.parametrize("backend", BACKENDS)
def test_operator_registrations(backend):
    logits, labels = example(1, (3, 4, 5), torch.float32)
    with using(backend):
        other = (logits.double(), labels.masked_fill(labels == -100, 7), 0.0, 7)
        for arguments in ((logits.requires_grad_(), labels, 2.0), other):
            torch.library.opcheck(torch.ops.pymetaner.masked_token_loss, arguments)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_gives_loss_and_gradient(backend, dtype):
    logits, labels = example(2, (6, 9, 4), dtype)
    losses, gradients = oracle(logits, labels, 2.0)
    with using(backend):
        loss, gradient = torch.ops.pymetaner.masked_token_loss(logits, labels, 2.0)
    np.testing.assert_allclose(loss.double().numpy(), losses, rtol=1e-6)
    np.testing.assert_allclose(gradient.double().numpy(), gradients, atol=5e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradient_in_one_pass(backend, dtype):
    logits, labels = example(9, (5, 21, 13), dtype)
    losses, gradients = oracle(logits, labels, 2.0)
    with using(backend):
        loss, gradient = ops.masked_token_loss_with_gradient(logits.requires_grad_(), labels, 2.0)
    assert not loss.requires_grad and not gradient.requires_grad
    assert loss.dtype == gradient.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(loss.double().numpy(), losses, rtol=1e-6)
    np.testing.assert_allclose(gradient.double().numpy(), gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS[1:-1])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 80)),
    dtype=st.sampled_from(DTYPES),
    spread=st.sampled_from([1e-3, 1.0, 60.0]),
)
def test_every_instruction_set_gives_the_bits_of_the_scalar_path(backend, seed, shape, dtype, spread):
    logits, labels = example(seed, shape, torch.float64)
    logits = (logits * spread).to(dtype)
    with using("scalar"):
        expected = ops.masked_token_loss_with_gradient(logits, labels, 2.0)
    with using(backend):
        for actual, wanted in zip(ops.masked_token_loss_with_gradient(logits, labels, 2.0), expected, strict=True):
            assert torch.equal(actual, wanted)


def test_every_number_of_16_bits_is_read_right():
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    labels = torch.zeros(2**16, 1, dtype=torch.int64)
    for dtype in (torch.bfloat16, torch.float16):
        logits = torch.stack([torch.zeros_like(bits), bits], dim=-1).view(dtype)[:, None]
        expected = ops.masked_token_loss_with_gradient(logits.float(), labels, 0.0)
        for actual, wanted in zip(ops.masked_token_loss_with_gradient(logits, labels, 0.0), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0, equal_nan=True)


def test_torch_func_differentiates_it():
    logits, labels = example(10, (3, 6, 5), torch.float32)
    gradient = torch.func.grad(lambda x: ops.masked_token_loss(x, labels, 2.0).sum())(logits)
    torch.testing.assert_close(gradient, loss_and_gradient(logits, labels, 2.0)[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_tokens_the_first_takes_the_maximum(backend):
    logits = torch.tensor([[[0.0, 1.0], [2.0, 1.0], [2.0, 1.0], [5.0, 9.0]]])
    labels = torch.tensor([[1, 1, 1, -100]])
    with using(backend):
        _, gradient = loss_and_gradient(logits, labels, 3.0)
    torch.testing.assert_close(gradient[0, 1], gradient[0, 2] * 10)  # 1/3 + 3 against 1/3
    assert gradient[0, 3].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_that_are_not_counted_give_nothing(backend):
    logits, labels = example(3, (3, 4, 5), torch.float32, ignored=0.0)
    labels[0] = -100
    labels[1, 2] = -100
    logits[0] = math.nan
    logits[1, 2] = math.inf
    with using(backend):
        loss, gradient = loss_and_gradient(logits, labels, 2.0)
        assert loss[0] == 0 and loss.isfinite().all() and gradient.isfinite().all()
        assert not gradient[0].any() and not gradient[1, 2].any() and gradient[1:].any()
        renamed = torch.where(labels == -100, 9, labels)
        assert torch.equal(ops.masked_token_loss(logits, renamed, 2.0, ignore_index=9), loss)
        without_zeros = ops.masked_token_loss(logits, labels.masked_fill(labels == 0, -100), 2.0)
        assert torch.equal(ops.masked_token_loss(logits, labels.clamp(min=0), 2.0, ignore_index=0), without_zeros)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_logits_do_not_overflow(backend, dtype):
    logits = torch.tensor([[[1e4, 0.0, -math.inf], [-1e4, 1e4, 0.0]]], dtype=dtype)
    with using(backend):
        loss, gradient = loss_and_gradient(logits, torch.tensor([[0, 0]]), 1.0)
    torch.testing.assert_close(loss, torch.tensor([3e4], dtype=dtype))
    torch.testing.assert_close(gradient, torch.tensor([[[0.0, 0, 0], [-1.5, 1.5, 0]]], dtype=dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sentence_weights_scale_each_sentence(backend):
    logits, labels = example(4, (3, 5, 4), torch.float32)
    weights = torch.tensor([2.0, 0.0, 0.5])
    with using(backend):
        loss, gradient = loss_and_gradient(logits, labels, 2.0)
        weighted, weighted_gradient = loss_and_gradient(logits, labels, 2.0, sentence_weights=weights)
    torch.testing.assert_close(weighted, loss * weights)
    torch.testing.assert_close(weighted_gradient, gradient * weights[:, None, None])


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts(backend):
    logits, labels = example(5, (4, 6, 7), torch.float32)
    with using(backend):
        expected = loss_and_gradient(logits, labels, 2.0)
        transposed = logits.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        columns = labels.T.contiguous().T
        assert not transposed.is_contiguous() and not columns.is_contiguous()
        for actual, wanted in zip(loss_and_gradient(transposed, columns, 2.0), expected, strict=True):
            torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 7, 60])
def test_same_bits_for_any_threads_and_batches(threads, batch):
    logits, labels = (x.numpy() for x in example(6, (60, 64, 13), torch.float32))
    expected = _cpu.masked_token_loss(logits, labels, 2.0, -100, 1)
    parts = [
        _cpu.masked_token_loss(logits[i : i + batch], labels[i : i + batch], 2.0, -100, threads)
        for i in range(0, 60, batch)
    ]
    for j in (0, 1):
        np.testing.assert_array_equal(np.concatenate([part[j] for part in parts]), expected[j], strict=True)


def test_python_threads_may_call_at_once():
    logits, labels = example(7, (40, 64, 13), torch.float32)
    expected = loss_and_gradient(logits, labels, 2.0)
    with ThreadPoolExecutor(8) as pool:
        for loss, gradient in pool.map(lambda _: loss_and_gradient(logits, labels, 2.0), range(24)):
            assert torch.equal(loss, expected[0]) and torch.equal(gradient, expected[1])


LOGITS, LABELS = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("logits", "labels", "options", "error", "words"),
    [
        (LOGITS[0], LABELS, {}, InputError, r"shape \(3, 4\): expected floating point of shape \(B, T, C\)"),
        (LOGITS.long(), LABELS, {}, InputError, "int64"),
        (LOGITS[..., :0], LABELS, {}, InputError, "C at least 1"),
        (LOGITS, LABELS[:, :2], {}, InputError, r"expected torch.int64 of shape \(2, 3\)"),
        (LOGITS, LABELS.int(), {}, InputError, "int32"),
        (LOGITS, LABELS + 4, {}, InputError, r"labels\[0, 0\] is 4: expected a class from 0 to 3"),
        (LOGITS, torch.tensor([[0, 1, 2], [3, -100, -1]]), {}, InputError, r"labels\[1, 2\] is -1"),
        (LOGITS, LABELS, {"lambda_max": -0.1}, SettingError, "lambda_max is -0.1"),
        (LOGITS, LABELS, {"lambda_max": math.nan}, SettingError, "lambda_max is nan"),
        (LOGITS, LABELS, {"lambda_max": math.inf}, SettingError, "lambda_max is inf"),
        (LOGITS, LABELS, {"lambda_max": 10**400}, SettingError, "lambda_max is 1000"),
        (LOGITS, LABELS, {"ignore_index": 1.0}, SettingError, "ignore_index is 1.0"),
        (LOGITS, LABELS, {"ignore_index": 2**70}, SettingError, "ignore_index is 1180"),
        (LOGITS, LABELS, {"sentence_weights": torch.ones(3)}, InputError, r"expected a tensor of shape \(2,\)"),
        (LOGITS, LABELS, {"sentence_weights": [1, 1]}, InputError, r"\[1, 1\]"),
    ],
)
def test_errors(backend, logits, labels, options, error, words):
    with using(backend), pytest.raises(error, match=words):
        ops.masked_token_loss(logits, labels, **{"lambda_max": 1.0, **options})


def test_the_extension_checks_what_it_is_given():
    logits, labels = LOGITS.numpy(), LABELS.numpy()
    for arguments, words in [
        ((logits[0], labels, 1.0), "logits has 2 dimensions of dtype float32"),
        ((logits, labels[:1], 1.0), r"labels of shape \(1, 3\)"),
        ((logits, labels.astype(np.int32), 1.0), "dtype int32: expected 2 of int64"),
        ((logits.transpose(0, 2, 1), labels, 1.0), "not contiguous"),
        ((logits, labels, 1.0, -100, 0), "threads is 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            _cpu.masked_token_loss(*arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_into_one_graph(backend):
    logits, labels = example(8, (3, 6, 5), torch.float32)
    with using(backend):
        expected = loss_and_gradient(logits, labels, 2.0)
        compiled = torch.compile(ops.masked_token_loss, backend="aot_eager", fullgraph=True)
        logits.requires_grad_()
        loss = compiled(logits, labels, 2.0)
        torch.testing.assert_close(loss, expected[0])
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), logits)[0], expected[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_infinite_loss_is_infinite(backend, dtype):
    logits, labels = torch.zeros(1, 3, 4, dtype=dtype), torch.tensor([[0, 2, 1]])
    logits[0, 1, 2] = -torch.inf
    with using(backend):
        for lambda_max in (0.0, 2.0):
            assert ops.masked_token_loss(logits, labels, lambda_max).tolist() == [math.inf]


def test_forward_mode_and_vmap_see_through_it():
    logits, labels = example(3, (4, 5, 3))
    tangent = torch.randn(logits.shape, dtype=logits.dtype)
    _, wanted = torch.func.jvp(lambda x: ops.masked_token_loss_reference(x, labels, 2.0), (logits,), (tangent,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, tangent)
        loss = ops.masked_token_loss(dual, labels, 2.0)
        found = torch.autograd.forward_ad.unpack_dual(loss).tangent
    torch.testing.assert_close(found, wanted)
    one = torch.func.grad(lambda x, y: ops.masked_token_loss(x[None], y[None], 2.0).sum())
    each = torch.func.vmap(one)(logits, labels)
    torch.testing.assert_close(each, ops.masked_token_loss_with_gradient(logits, labels, 2.0)[1])


def test_types_that_only_the_reference_reads():
    logits = torch.zeros(1, 2, 3).to(torch.float8_e4m3fn)
    loss = ops.masked_token_loss(logits, torch.tensor([[0, 1]]), 1.0)
    assert loss.tolist() == pytest.approx([2 * math.log(3)])
    with pytest.raises(ValueError, match="byte order"):
        _cpu.masked_token_loss(np.zeros((1, 1, 2), ">f2"), np.zeros((1, 1), np.int64), 0.0)
