"""The CUDA kernels: on a GPU against the reference; elsewhere what they decide by, in a NumPy twin, and errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from pymetaner import ops
from pymetaner.errors import InputError, SettingError
from pymetaner.ops import cuda

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
    with pytest.raises(SettingError, match="1 to 1024"):
        cuda.cosine_topk(torch.ones(2, 3), torch.ones(2, 3), 1025)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_launch_without_a_device_is_an_error():
    with pytest.raises(RuntimeError, match="could not be launched"):
        module().masked_token_loss(0, 0, 0, 1, 1, 2, 1.0, -100, 0, 0, 0)


def test_the_workspace_of_a_search_stays_within_bounds():
    extension = module()
    for queries in (1, 4, 5, 64, 4096, 100_000):
        for size in (0, 1, 100, 14_041, 1_000_000, 10_000_000):
            few, group, groups, batch, workspace = extension.plan(queries, size, 768)
            assert few == (queries <= 4) and groups * group == -(-size // 256) * 256
            assert 1 <= batch <= queries and (batch == queries or batch % 128 == 0)
            assert workspace < 2**28 + 128 * 4 * groups + 3000 * (batch + 256)
    # Queries that would not fit into 48 KB of shared memory, in which a block adds up 64 bytes more.
    for queries, dim in ((4, 4096), (4, 3072), (3, 4096), (2, 6144), (1, 12288)):
        assert not extension.plan(queries, 1000, dim)[0]
        assert extension.plan(queries, 1000, dim - 64)[0] == (queries * (dim - 64) * 4 + 64 <= 48 * 1024)


def unit(rows):
    """Float64 unit vectors; zeros for zeros."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros(rows.shape), where=norms > 0)


def reached_by(numbers, wanted):
    """The function of that name in csrc/cosine_topk/cuda.cu."""
    filled = np.append(numbers, np.full(-len(numbers) % 2048, np.nan)).reshape(-1, 2048)
    buckets = np.nanmax(np.where(np.isnan(filled), -np.inf, filled), axis=0, initial=-np.inf).astype(np.float32)
    buckets = np.sort(buckets[buckets > -np.inf])[::-1]
    if len(buckets) < wanted:
        return -np.inf
    bits = buckets[wanted - 1].view(np.uint32)
    key = ~bits if bits >> 31 else bits | np.uint32(1 << 31)
    key = key >> 12 << 12
    bits = key & np.uint32(0x7FFFFFFF) if key >> 31 else ~key
    return bits.astype(np.uint32).view(np.float32)


def twin(queries, bank, k, group, exclude):
    """What the kernels do, in NumPy: indices, and of each query how many rows are scored exactly."""
    u, v = unit(queries), unit(bank)
    exact = u @ v.T
    padded = np.full((-(-len(bank) // 256) * 256, bank.shape[1]), np.nan, np.float32)
    padded[: len(bank)] = v.astype(np.float16)
    products = u.astype(np.float16).astype(np.float32) @ padded.T
    error = module().error(bank.shape[1])
    assert (np.abs(products[:, : len(bank)] - exact) <= error).all()
    number, member = np.mgrid[: len(padded) // group, :group]
    rows = number // 4 * 4 * group + 8 * (member // 2) + 2 * (number % 4) + member % 2
    answer, scored = [], []
    for q in range(len(queries)):
        maxima = np.fmax.reduce(products[q][rows], axis=1)
        limit = np.float32(reached_by(maxima, k + (exclude[q] >= 0)) - 2 * error)
        left = rows[maxima >= limit].ravel()
        left = np.sort(left[(left < len(bank)) & (left != exclude[q])])
        answer.append(left[np.lexsort((left, -exact[q, left]))][:k].tolist())
        scored.append(len(left))
    return answer, scored, exact


@pytest.mark.parametrize("kind", ["normal", "clustered", "equal", "zeros", "negative"])
@pytest.mark.parametrize("group", [4, 16])
@pytest.mark.parametrize("k", [1, 7, 300])
def test_the_twin_is_exact_on_any_bank(kind, group, k):
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((3000, 40)).astype(np.float32)
    queries = rng.standard_normal((5, 40)).astype(np.float32)
    if kind == "clustered":
        bank = (bank[:1] + 1e-3 * bank).astype(np.float32)
    if kind == "equal":
        bank[:] = bank[0]
    if kind == "zeros":
        bank[::3] = 0
    if kind == "negative":  # what pads the bank must not count
        bank = np.abs(bank)
        queries = -np.abs(queries)
    exclude = np.array([-1, 0, 5, -1, 2999])
    answer, scored, exact = twin(queries, bank, k, group, exclude)
    for q, found in enumerate(answer):
        order = np.lexsort((np.arange(3000), -exact[q]))
        assert found == order[order != exclude[q]][:k].tolist()
    if kind == "normal" and k < 300:
        assert max(scored) < 3 * k * group
    if kind in ("clustered", "equal"):
        assert min(scored) >= 2999


@pytest.mark.parametrize("dim", [1, 3, 64, 770, 4096])
def test_the_error_of_screening_holds_for_vectors_made_to_err(dim):
    """Every element halfway between two float16 numbers, all errors to one side: as far off as rounding goes."""
    error = module().error(dim)
    rng = np.random.default_rng(dim)
    for scale in (1e-7, 1e-3, 1.0):
        base = np.abs(rng.standard_normal((50, dim))) * scale
        base[:, 0] = 1
        near = base.astype(np.float16).astype(np.float64)
        halfway = near + 0.4999 * np.spacing(near.astype(np.float16)).astype(np.float64)
        u = unit(halfway)
        u = u.astype(np.float16).astype(np.float64) + 0.4999 * np.spacing(u.astype(np.float16)).astype(np.float64)
        u = unit(u)
        product = u.astype(np.float16).astype(np.float64) @ u.astype(np.float16).astype(np.float64).T
        assert np.abs(product - u @ u.T).max() <= error


def agree(queries, bank, k, exclude=None):
    """Holds a search on the GPU, of an encoded bank and of one that is not, to the one on the CPU."""
    expected = ops.cosine_topk(queries, bank, k, exclude)
    left_out = None if exclude is None else exclude.cuda()
    for rows in (bank.cuda(), cuda.encode(bank.cuda())):
        found = cuda.cosine_topk(queries.cuda(), rows, k, left_out)
        for actual, wanted in zip(found, expected, strict=True):
            assert torch.equal(actual.cpu(), wanted)


@on_gpu
@pytest.mark.parametrize("count", [1, 4, 5, 64, 65, 200])
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
        agree(queries, bank, k, exclude)


@on_gpu
@pytest.mark.parametrize("count", [2, 3, 70])
@pytest.mark.parametrize("k", [100, 1024])
@pytest.mark.parametrize("size", [900, 70_000])  # 70,000 rows: maxima of 16
def test_many_neighbours(count, k, size):
    generator = torch.Generator().manual_seed(1)
    queries, bank = torch.randn(count, 24, generator=generator), torch.randn(size, 24, generator=generator)
    bank[::7] = 0
    bank[1::7] *= 1e-42  # denormal
    bank[2::7] *= 1e30
    bank[3::7] = bank[5]
    agree(queries, bank, k)
    agree(-queries.abs(), bank.abs(), k)


@on_gpu
@pytest.mark.parametrize("count", [1, 9, 130])
def test_vectors_that_are_not_finite_are_not_found(count):
    queries, bank = torch.randn(count, 50), torch.randn(3000, 50)
    bank[5, 3], bank[700, 0], bank[2999, 49] = float("nan"), float("inf"), -float("inf")
    queries[0, 0] = float("nan")
    scores, indices = cuda.cosine_topk(queries.cuda(), bank.cuda(), 20)
    assert (indices[0] == -1).all() and (scores[0] == -float("inf")).all()
    assert not torch.isin(indices.cpu(), torch.tensor([5, 700, 2999])).any()
    left = bank.isfinite().all(1).nonzero().squeeze(1)
    expected = ops.cosine_topk(queries[1:], bank[left], 20)
    assert torch.equal(scores[1:].cpu(), expected[0]) and torch.equal(indices[1:].cpu(), left[expected[1]])


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
