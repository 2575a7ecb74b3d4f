"""cosine_topk: the kernel, its reference and an oracle in NumPy must give the same bits."""

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


def oracle(queries, bank, k, exclude=None):
    """Brute force: lanes of eight added in ascending order, folded in halves; a full sort of every row."""

    def dot(x, y):
        lanes = [0.0] * 8
        for i, (a, b) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
            lanes[i % 8] += a * b
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [lanes[j] + lanes[j + half] for j in range(half)]
        return lanes[0]

    scores = np.full((len(queries), k), -np.inf, np.float32)
    indices = np.full((len(queries), k), -1, np.int64)
    for row, query in enumerate(queries):
        found = []
        for index, vector in enumerate(bank):
            if exclude is not None and exclude[row] == index:
                continue
            norm = math.sqrt(dot(query, query)) * math.sqrt(dot(vector, vector))
            found.append((-(dot(query, vector) / norm) if norm else 0.0, index))
        for place, (negative, index) in enumerate(sorted(found)[:k]):
            scores[row, place], indices[row, place] = -negative, index
    return scores, indices


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


def vectors(rng, kind, count, dim):
    if kind == "integers":  # many exact ties
        return rng.integers(-1, 2, (count, dim)).astype(np.float32)
    rows = rng.standard_normal((count, dim)).astype(np.float32)
    if kind == "denormal":
        return (rows * np.float32(1e-42)).astype(np.float32)
    if kind == "mixed" and count:  # all magnitudes, zeros and multiples of one another
        rows *= np.float32(10.0) ** rng.integers(-44, 38, (count, 1)).astype(np.float32)
        rows[rng.integers(0, count, count // 3)] = 0
        rows[rng.integers(0, count, count // 3)] = rows[0] * np.float32(0.5)
        rows = np.nan_to_num(rows, posinf=3e38, neginf=-3e38)
    return rows


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["normal", "integers", "denormal", "mixed"]),
    shape=st.tuples(st.integers(0, 9), st.integers(0, 23), st.integers(1, 35)),
    k=st.integers(1, 26),
    excluding=st.booleans(),
)
def test_equals_the_oracle(backend, seed, kind, shape, k, excluding):
    rng = np.random.default_rng(seed)
    count, size, dim = shape
    queries, bank = vectors(rng, kind, count, dim), vectors(rng, kind, size, dim)
    if count and size:
        queries[0] = bank[-1]
    exclude = rng.integers(-1, size, count) if excluding else None
    with using(backend):
        assert_same(ops.cosine_topk(queries, bank, k, exclude), oracle(queries, bank, k, exclude))


@pytest.mark.parametrize("k", [1, 7, 600])
@pytest.mark.parametrize("duplicates", [False, True])
def test_backends_agree_beyond_one_block(k, duplicates):
    rng = np.random.default_rng(k)
    queries, bank = rng.standard_normal((131, 50), np.float32), rng.standard_normal((590, 50), np.float32)
    if duplicates:
        bank[100:] = bank[rng.integers(0, 5, 490)]
    exclude = rng.integers(-1, 590, 131)
    with ops.use_backend("native"):
        native = ops.cosine_topk(queries, bank, k, exclude)
    with ops.use_backend("reference"):
        assert_same(native, ops.cosine_topk(queries, bank, k, exclude))


def test_scores_are_within_rounding_of_the_exact_ones():
    rng = np.random.default_rng(1)
    queries, bank = rng.standard_normal((3, 768), np.float32), rng.standard_normal((400, 768), np.float32)
    scores, indices = ops.cosine_topk(queries, bank, 5)
    wide = bank.astype(np.float64)
    for row, query in enumerate(queries.astype(np.float64)):
        exact = [
            math.fsum(query * vector) / math.sqrt(math.fsum(query * query)) / math.sqrt(math.fsum(vector * vector))
            for vector in wide
        ]
        assert indices[row].tolist() == sorted(range(400), key=lambda i: -exact[i])[:5]
        np.testing.assert_allclose(scores[row], np.array(exact)[indices[row]], rtol=6e-8)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3, 64, 200])
def test_same_bits_for_any_threads_and_batches(threads, batch):
    rng = np.random.default_rng(2)
    queries, bank = rng.standard_normal((200, 41), np.float32), rng.integers(-1, 2, (1500, 41)).astype(np.float32)
    exclude = np.arange(200)
    expected = _cpu.cosine_topk(queries, bank, 9, exclude, 1)
    parts = [
        _cpu.cosine_topk(queries[i : i + batch], bank, 9, exclude[i : i + batch], threads) for i in range(0, 200, batch)
    ]
    assert_same([np.concatenate([part[j] for part in parts]) for j in (0, 1)], expected)


def test_python_threads_may_call_at_once():
    rng = np.random.default_rng(3)
    queries, bank = rng.standard_normal((40, 64), np.float32), rng.standard_normal((3000, 64), np.float32)
    expected = ops.cosine_topk(queries, bank, 4)
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda _: ops.cosine_topk(queries, bank, 4), range(24)):
            assert_same(answer, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_first_and_zero_vectors_score_zero(backend):
    bank = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [8.0, 0.0]])
    with using(backend):
        scores, indices = ops.cosine_topk(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), bank, 5)
    assert indices.tolist() == [[2, 4, 1, 3, 0], [0, 1, 2, 3, 4]]
    assert scores.tolist() == [[1.0, 1.0, 0.0, 0.0, -1.0], [0.0] * 5]


@pytest.mark.parametrize("backend", BACKENDS)
def test_places_without_a_vector(backend):
    with using(backend):
        scores, indices = ops.cosine_topk(torch.ones(1, 3), torch.ones(1, 3), 2, torch.tensor([0]))
        assert indices.tolist() == [[-1, -1]] and scores.tolist() == [[-math.inf] * 2]
        scores, indices = ops.cosine_topk(torch.ones(2, 3), torch.ones(0, 3), 1)
        assert indices.tolist() == [[-1], [-1]]
        assert ops.cosine_topk(torch.ones(0, 3), torch.ones(4, 3), 2)[0].shape == (0, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_and_dtypes(backend):
    rng = np.random.default_rng(4)
    queries, bank = rng.standard_normal((6, 12), np.float32), rng.standard_normal((30, 12), np.float32)
    frozen = bank.copy()
    frozen.flags.writeable = False
    with using(backend):
        expected = ops.cosine_topk(queries, bank, 3)
        assert_same(ops.cosine_topk(np.asfortranarray(queries), frozen, 3), expected)
        assert_same(ops.cosine_topk(queries[::-1], bank, 3), [part[::-1] for part in expected])
        assert_same(ops.cosine_topk(queries.astype(">f4"), np.repeat(bank, 2, 0)[::2], 3), expected)
        assert_same(ops.cosine_topk(queries.astype(np.float64), bank, 3), expected)
        wide = torch.from_numpy(np.concatenate([bank, bank], axis=1))
        assert_same(ops.cosine_topk(torch.from_numpy(queries), wide[:, :12], 3), expected)
        half = torch.from_numpy(queries).bfloat16()
        assert_same(ops.cosine_topk(half, wide[:, :12], 3), ops.cosine_topk(half.float(), wide[:, 12:], 3))
        column = torch.from_numpy(bank[:, :1])
        assert ops.cosine_topk(column[:1].expand(4, 1), column, 30)[1].unique(dim=0).shape == (1, 30)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient(backend):
    rng = np.random.default_rng(5)
    queries = torch.from_numpy(rng.standard_normal((4, 9))).requires_grad_()
    bank = torch.from_numpy(rng.standard_normal((6, 9))).requires_grad_()
    weights = torch.from_numpy(rng.standard_normal((4, 8)))
    with using(backend):
        scores, indices = ops.cosine_topk(queries.float(), bank.float(), 8)
    reached = indices >= 0
    assert not indices.requires_grad and reached.sum() == 24
    plain = torch.cosine_similarity(queries[:, None], bank[indices.clamp(min=0)], dim=-1)
    expected = torch.autograd.grad((plain * weights)[reached].sum(), [queries, bank], retain_graph=True)
    actual = torch.autograd.grad((scores * weights)[reached].sum(), [queries, bank])
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gradient_at_zero_vectors_is_zero():
    queries = torch.zeros(1, 3, requires_grad=True)
    bank = torch.eye(3, requires_grad=True)
    for function in (ops.cosine_topk, ops.cosine_topk_reference):
        grads = torch.autograd.grad(function(queries, bank, 2)[0].sum(), [queries, bank])
        assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_operator_registrations(backend):
    torch.manual_seed(0)
    queries, bank = torch.randn(3, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    with using(backend):
        for arguments in ((queries, bank, 2), (queries.detach(), bank.detach(), 9, torch.tensor([-1, 0, 6]))):
            torch.library.opcheck(torch.ops.pymetaner.cosine_topk, arguments)


VECTORS = torch.ones(3, 4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("queries", "bank", "k", "exclude", "error", "words"),
    [
        (VECTORS, torch.ones(2, 5), 1, None, InputError, "4 dimensions and the bank 5"),
        (VECTORS[0], VECTORS, 1, None, InputError, r"\(4,\)"),
        (VECTORS, VECTORS.long(), 1, None, InputError, "int64"),
        (torch.ones(3, 0), torch.ones(3, 0), 1, None, InputError, "d at least 1"),
        (VECTORS, VECTORS.numpy(), 1, None, InputError, "both as tensors or as arrays"),
        (VECTORS.numpy(), np.array([["a"] * 4]), 1, None, InputError, "expected numbers"),
        (VECTORS, VECTORS, 0, None, SettingError, "k is 0"),
        (VECTORS, VECTORS, 1.5, None, SettingError, "k is 1.5"),
        (VECTORS, VECTORS, True, None, SettingError, "k is True"),
        (VECTORS, VECTORS, 1, torch.zeros(2, dtype=torch.int64), InputError, r"expected int64 of shape \(3,\)"),
        (VECTORS, VECTORS, 1, torch.zeros(3), InputError, "expected int64"),
        (VECTORS, VECTORS, 1, torch.tensor([0, 3, 0]), InputError, r"exclude\[1\] is 3"),
        (VECTORS, VECTORS, 1, torch.tensor([0, 0, -2]), InputError, r"exclude\[2\] is -2"),
        (VECTORS, torch.tensor([[1.0, 2, 3, 4], [1, math.nan, 3, 4]]), 1, None, InputError, "bank row 1 holds NaN"),
        (torch.tensor([[1.0, 2, -math.inf, 4]]), VECTORS, 1, None, InputError, "queries row 0 holds NaN"),
        (VECTORS.double() * 1e300, VECTORS, 1, None, InputError, "queries row 0 holds NaN or an infinity"),
    ],
)
def test_errors(backend, queries, bank, k, exclude, error, words):
    with using(backend), pytest.raises(error, match=words):
        ops.cosine_topk(queries, bank, k, exclude)


def test_the_extension_checks_what_it_is_given():
    rows = np.ones((3, 4), np.float32)
    for arguments, words in [
        ((rows.astype(np.float64), rows, 1), "queries has 2 dimensions of dtype float64"),
        ((rows, rows[:, :3], 1), "queries have 4 dimensions and the bank 3"),
        ((rows.T, rows.T, 1), "rows that are not contiguous"),
        ((rows, rows, 0), "k is 0"),
        ((rows, rows, 1, np.zeros(2, np.int64)), "exclude has 2 elements: expected 3"),
        ((rows, rows, 1, None, 0), "threads is 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            _cpu.cosine_topk(*arguments)


def test_forward_mode_sees_through_it():
    generator = torch.Generator().manual_seed(0)
    queries, bank, tangent = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (3, 20, 3))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(queries, tangent)
        found = torch.autograd.forward_ad.unpack_dual(ops.cosine_topk(dual, bank, 3)[0]).tangent
        wanted = torch.autograd.forward_ad.unpack_dual(ops.cosine_topk_reference(dual, bank, 3)[0]).tangent
    assert found is not None
    torch.testing.assert_close(found, wanted)
    gradient = torch.func.grad(lambda q: ops.cosine_topk(q, bank, 3)[0].sum())(queries)
    leaf = queries.clone().requires_grad_()
    ops.cosine_topk(leaf, bank, 3)[0].sum().backward()
    torch.testing.assert_close(gradient, leaf.grad, atol=1e-6, rtol=1e-6)


def test_vectors_of_no_dimension_and_numbers_that_are_too_large():
    with pytest.raises(ValueError, match="no dimensions"):
        _cpu.cosine_topk(np.empty((3, 0), np.float32), np.empty((4, 0), np.float32), 1)
    with pytest.raises(SettingError, match="k is"):
        ops.cosine_topk(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), 2**63)


def test_roots_are_rounded_as_the_kernels_are():
    """Lengths of two numbers whose squares add up to each of many integers."""
    numbers = torch.arange(1, 60_000, dtype=torch.float64)
    assert torch.equal(
        ops.topk._root(numbers), torch.tensor([math.sqrt(x) for x in numbers.tolist()], dtype=numbers.dtype)
    )
    rng = np.random.default_rng(0)
    spread = torch.from_numpy(10.0 ** rng.uniform(-90, 78, 50_000))
    assert ops.topk._root(spread).tolist() == [math.sqrt(x) for x in spread.tolist()]
    queries, bank = np.array([[1, 0]], np.float32), np.array([[i, i] for i in range(1, 400)], np.float32)
    found = ops.cosine_topk(queries, bank, 399)
    assert_same([x.numpy() for x in ops.cosine_topk_reference(*map(torch.from_numpy, (queries, bank)), 399)], found)
