"""The bound of the screening: it holds, it is nearly reached, and vectors that sit on it are found all the same."""

from __future__ import annotations

import numpy as np
import pytest
from op_backends import INSTRUCTION_SETS, using

from pymetaner import _cpu, ops


def encoded(rows):
    """norms, codes, scales and residuals of whole panels."""
    count, dim = rows.shape
    groups = -(-dim // 64) * 16
    out = (np.zeros(count), np.zeros((count // 16, groups, 16, 4), np.int8), *np.zeros((2, count), np.float32))
    _cpu.encode_bank(rows, *out)
    return out


def decoded(codes):
    """Rows of whole numbers from panels."""
    return codes.transpose(0, 2, 1, 3).reshape(codes.shape[0] * 16, -1).astype(np.float64)


KINDS = {
    "normal": lambda rng, n, d: rng.standard_normal((n, d)),
    "one large element": lambda rng, n, d: np.where(np.arange(d) == 0, 1.0, 1e-3 * rng.standard_normal((n, d))),
    "half steps": lambda rng, n, d: np.where(np.arange(d) == 0, 127.0, rng.integers(-126, 126, (n, d)) + 0.5),
    "denormal": lambda rng, n, d: rng.standard_normal((n, d)) * 1e-42,
    "huge": lambda rng, n, d: np.clip(rng.standard_normal((n, d)) * 1e38, -3e38, 3e38),
    "zeros": lambda rng, n, d: np.zeros((n, d)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 5, 64, 77, 768])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_residual_is_what_the_copy_is_off_by(name, kind, dim):
    rows = KINDS[kind](np.random.default_rng(dim), 32, dim).astype(np.float32)
    with using(name):
        norms, codes, scales, residuals = encoded(rows)
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(norms, np.linalg.norm(wide, axis=1), rtol=1e-14)
    unit = wide / np.where(norms > 0, norms, 1)[:, None]
    copy = scales[:, None].astype(np.float64) * decoded(codes)
    off = np.linalg.norm(unit - np.pad(copy, ((0, 0), (0, 0)))[:, :dim], axis=1)
    assert (off <= residuals.astype(np.float64) + 1e-6).all()
    assert (off >= residuals - 2e-6).all()  # no more than its own rounding above
    assert not decoded(codes)[:, dim:].any() and np.abs(codes).max(initial=0) <= 127


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dim", [64, 200, 768])
def test_vectors_on_the_bound_are_found(name, dim):
    """The nearest vector is one whose 8-bit copy looks as much farther away as the bound allows.

    v = (p + e) / |p + e| with p on the grid of the copy and e less than half a step in every element, so that the copy
    of v is p. A query along e sees the copy at 0 and v at |e|: U.V is off by the whole residual. Decoys, exactly on the
    grid along another axis, score between the two.
    """
    rng = np.random.default_rng(dim)
    half = dim // 2
    p, e = np.zeros(dim), np.zeros(dim)
    p[0], p[1:half] = 127.0, rng.integers(-100, 100, half - 1)
    e[half:] = np.where(rng.random(dim - half) < 0.5, 0.49, -0.49)
    best = p + e
    residual = np.linalg.norm(e) / np.linalg.norm(best)
    query = e / np.linalg.norm(e)
    rest = np.zeros((4095, dim))  # cosines from 0.999 of the residual down: above U.V = 0 of the best, below its own
    rest[:, 0] = 1.0
    rest += np.linspace(0.1, 0.999, 4095)[:, None] * residual * query
    bank = np.concatenate([rest[:2000], best[None], rest[2000:]]).astype(np.float32)
    bank = np.ascontiguousarray(bank[: len(bank) // 16 * 16])
    queries = np.repeat(query[None], 9, axis=0).astype(np.float32)
    with using(name):
        _, codes, _, residuals = encoded(bank)
        assert not (decoded(codes)[2000, half:dim]).any()  # the copy knows nothing of what the query asks for
        assert residuals[2000] > 0.99 * residual
        scores, indices = ops.cosine_topk(queries, bank, 3)
    with using("reference"):
        wanted = ops.cosine_topk(queries, bank, 3)
    np.testing.assert_array_equal(indices, wanted[1])
    np.testing.assert_array_equal(scores, wanted[0])
    assert (indices[:, 0] == 2000).all()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("seed", range(4))
def test_near_ties_are_told_apart(name, seed):
    """Thousands of vectors whose cosines differ in the last bits of float32, many of them equal."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(130)
    bank = np.repeat(base[None], 3000, axis=0).astype(np.float32)
    flips = rng.integers(0, 130, 3000)
    bank[np.arange(3000), flips] = np.nextafter(bank[np.arange(3000), flips], np.float32(9) * rng.choice([-1, 1], 3000))
    queries = np.stack([base + 1e-3 * rng.standard_normal(130) for _ in range(20)]).astype(np.float32)
    with using(name):
        found = ops.cosine_topk(queries, bank, 40)
    with using("reference"):
        for actual, expected in zip(found, ops.cosine_topk(queries, bank, 40), strict=True):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("size", [1, 15, 16, 17, 500])
def test_duplicates_come_in_the_order_of_their_indices(name, size):
    bank = np.repeat(np.random.default_rng(0).standard_normal((1, 33)).astype(np.float32), size, axis=0)
    with using(name):
        _, indices = ops.cosine_topk(bank[:1].repeat(8, axis=0), bank, 20)
    expected = [*range(min(size, 20)), *[-1] * max(0, 20 - size)]
    assert indices.tolist() == [expected] * 8


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_more_dimensions_than_are_screened(name):
    rng = np.random.default_rng(0)
    queries, bank = rng.standard_normal((7, 65_600), np.float32), rng.standard_normal((40, 65_600), np.float32)
    with using(name):
        _, indices = ops.cosine_topk(queries, bank, 2)
    cosines = queries @ bank.T / np.linalg.norm(bank, axis=1)
    assert (indices[:, 0] == cosines.argmax(1)).all()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_sums_of_the_largest_codes_do_not_overflow(name):
    """Every code of every vector at its largest, in the most dimensions that are screened."""
    bank = np.ones((32, 65_536), np.float32)
    bank[16:] = -1
    with using(name):
        scores, indices = ops.cosine_topk(np.concatenate([bank[:6], bank[-6:]]), bank, 1)
    assert indices[:, 0].tolist() == [0] * 6 + [16] * 6 and (scores == 1).all()
