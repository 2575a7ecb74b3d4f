"""The CUDA kernels: on a GPU against the reference; elsewhere what they decide by, in a NumPy twin, and errors."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from pymetaner import ops
from pymetaner.errors import BackendError, InputError
from pymetaner.ops import cuda

KEPT, TILE = 32, 64  # as in csrc/cosine_topk/cuda.hpp

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def module():
    return pytest.importorskip("pymetaner._cuda", reason="built without nvcc")


def test_without_the_module_the_error_says_how_to_get_it():
    code = """
import sys; sys.modules["pymetaner._cuda"] = None
from pymetaner.ops import cuda
cuda.extension()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "BackendError: pymetaner._cuda cannot be imported" in result.stderr and "nvcc" in result.stderr


def test_it_is_not_imported_before_it_is_needed():
    code = "import sys, pymetaner.ops; print([name for name in sys.modules if name.endswith('_cuda')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pymetaner._cuda" not in result.stdout, result.stderr


def test_tensors_elsewhere_are_refused():
    module()
    with pytest.raises(InputError, match="on cpu"):
        cuda.cosine_topk(torch.ones(2, 3), torch.ones(2, 3), 1)
    with pytest.raises(InputError, match="on cpu"):
        cuda.masked_token_loss_with_gradient(torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), 1.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_launch_without_a_device_is_an_error():
    with pytest.raises(BackendError, match="could not be launched"):
        cuda._launched(module().masked_token_loss, 0, 0, 0, 1, 1, 2, 1.0, -100, 0, 0, 0)


def test_slices_cover_the_bank_without_being_many():
    extension = module()
    for queries in (1, 4, 5, 64, 4096, 100_000):
        for size in (0, 1, 100, 14_041, 1_000_000):
            slices = extension.slices(queries, size, 132)
            assert slices >= 1
            if queries <= extension.few_queries:
                assert 128 * slices >= size
            else:
                assert slices <= max(1, -(-size // 256)) and slices <= 4 * 132


def bfloat16(x):
    return torch.from_numpy(x).bfloat16().double().numpy()


def twin(queries, bank, k, slices):
    """What screen_kernel and finish_kernel do, in NumPy; returns indices and how many slices were scored as a whole."""

    def unit(rows):
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)

    u, v = unit(queries.astype(np.float64)), unit(bank.astype(np.float64))
    residual_q, residual_b = (np.linalg.norm(x - bfloat16(x), axis=1) for x in (u, v))
    exact = u @ v.T
    slack = residual_q[:, None] + (queries.shape[1] + 16) * 2.0**-22 + 4e-6
    bounds = bfloat16(u) @ bfloat16(v).T + (1 + residual_q[:, None]) * residual_b + slack
    assert (bounds >= exact).all()
    tiles = -(-len(bank) // TILE)
    edges = [min(tiles * i // slices * TILE, len(bank)) for i in range(slices + 1)]
    answer, whole = [], 0
    for q in range(len(queries)):
        parts = [np.arange(a, b) for a, b in itertools.pairwise(edges)]
        ranked = [part[np.lexsort((part, -bounds[q, part]))] for part in parts]
        kept, dropped = [r[:KEPT] for r in ranked], [bounds[q, r[KEPT]] if len(r) > KEPT else -np.inf for r in ranked]
        best = []

        def limit(best=best, q=q):
            return exact[q, best[k - 1]] if len(best) == k else -np.inf

        def offer(row, best=best, q=q):
            best.append(row)
            best.sort(key=lambda index, q=q: (-exact[q, index], index))
            del best[k:]

        for rank in range(KEPT):
            for rows in kept:
                if rank < len(rows) and bounds[q, rows[rank]] >= limit():
                    offer(rows[rank])
        for part, gone in zip(parts, dropped, strict=True):
            if gone > -np.inf and gone >= limit():
                whole += 1
                best[:] = [row for row in best if row not in part]
                for row in part:
                    offer(row)
        answer.append(best)
    return answer, whole, exact


@pytest.mark.parametrize("kind", ["normal", "clustered", "equal"])
@pytest.mark.parametrize("slices", [1, 3])
def test_the_twin_is_exact_on_any_bank(kind, slices):
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((900, 40)).astype(np.float32)
    if kind == "clustered":  # more near-ties than are kept: slices have to be scored as a whole
        bank = (bank[:1] + 1e-3 * bank).astype(np.float32)
    if kind == "equal":
        bank[:] = bank[0]
    queries = rng.standard_normal((5, 40)).astype(np.float32)
    answer, whole, exact = twin(queries, bank, 7, slices)
    assert (whole > 0) == (kind != "normal")
    for row, found in zip(exact, answer, strict=True):
        assert found == np.lexsort((np.arange(900), -row))[:7].tolist()


@on_gpu
@pytest.mark.parametrize("count", [1, 4, 5, 64, 200])
@pytest.mark.parametrize("size", [1, 31, 700, 20_000])
@pytest.mark.parametrize("dim", [7, 64, 770])
@pytest.mark.parametrize("kind", ["normal", "clustered", "equal", "integers"])
def test_top_k_on_a_gpu_is_that_of_the_reference(count, size, dim, kind):
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(count, dim, generator=generator), torch.randn(size, dim, generator=generator)
    if kind == "clustered":
        bank = bank[:1] + 1e-3 * bank
    if kind == "equal":
        bank = bank[:1].repeat(size, 1)
    if kind == "integers":
        queries, bank = queries.round(), bank.round()
    exclude = torch.randint(-1, size, (count,), generator=generator)
    for k in (1, 10, 32):
        expected = ops.cosine_topk(queries, bank, k, exclude)
        for rows in (bank.cuda(), cuda.encode(bank.cuda())):
            found = cuda.cosine_topk(queries.cuda(), rows, k, exclude.cuda())
            for actual, wanted in zip(found, expected, strict=True):
                assert torch.equal(actual.cpu(), wanted)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 13), (64, 128, 13), (5, 300, 73), (2, 9, 1024)])
def test_the_loss_on_a_gpu_is_that_of_the_cpu(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).to(dtype)
    labels = torch.randint(0, shape[2], shape[:2], generator=generator)
    labels[torch.rand(shape[:2], generator=generator) < 0.3] = -100
    found = cuda.masked_token_loss_with_gradient(logits.cuda(), labels.cuda(), 2.0)
    for actual, wanted in zip(found, ops.masked_token_loss_with_gradient(logits, labels, 2.0), strict=True):
        torch.testing.assert_close(actual.cpu(), wanted, rtol=2e-6, atol=1e-6)
    labels[0, 0] = shape[2]
    loss, gradient = cuda.masked_token_loss_with_gradient(logits.cuda(), labels.cuda(), 2.0)
    assert loss[0].isnan() and gradient[0].isnan().all() and loss[1:].isfinite().all()


@on_gpu
def test_kernels_run_on_the_current_stream():
    queries, bank = torch.randn(70, 64, device="cuda"), torch.randn(5000, 64, device="cuda")
    logits, labels = torch.randn(8, 32, 13, device="cuda"), torch.zeros(8, 32, dtype=torch.int64, device="cuda")
    expected = cuda.cosine_topk(queries, bank, 5), cuda.masked_token_loss_with_gradient(logits, labels, 2.0)
    stream = torch.cuda.Stream()
    late_bank, late_logits = torch.zeros_like(bank), torch.zeros_like(logits)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # work on another stream would see the zeros
        late_bank.copy_(bank)
        late_logits.copy_(logits)
        found = cuda.cosine_topk(queries, late_bank, 5), cuda.masked_token_loss_with_gradient(late_logits, labels, 2.0)
    stream.synchronize()
    for actual, wanted in zip((*found[0], *found[1]), (*expected[0], *expected[1]), strict=True):
        assert torch.equal(actual, wanted)


@on_gpu
def test_nothing_waits_for_the_device():
    queries, bank = torch.randn(70, 64, device="cuda"), torch.randn(5000, 64, device="cuda")
    logits, labels = torch.randn(8, 32, 13, device="cuda"), torch.zeros(8, 32, dtype=torch.int64, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        cuda.cosine_topk(queries, bank, 5)
        cuda.cosine_topk(queries[:1], bank, 5)
        cuda.masked_token_loss_with_gradient(logits, labels, 2.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
