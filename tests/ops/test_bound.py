"""The bound of the screening: it holds, it is nearly reached, and vectors that sit on it are found all the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_backends import INSTRUCTION_SETS, using

from pymetaner import _cpu, ops


def encoded(rows, center):
    """norms, codes and terms of whole panels."""
    count, dim = rows.shape
    groups = -(-dim // 64) * 16
    out = (np.zeros(count), np.zeros((count // 16, groups, 16, 4), np.int8), np.zeros((count // 16, 4, 16), np.float32))
    _cpu.encode_bank(rows, center, *out)
    return out


def searched(name, queries, bank, center):
    """The indices of the five nearest, looked for around a centre: found, with their scores, as the reference finds."""
    with using(name):
        scores, indices = _cpu.search_bank(queries, bank, center, *encoded(bank, center), 5)
    with using("reference"):
        wanted = ops.cosine_topk(queries, bank, 5)
    np.testing.assert_array_equal(indices, wanted[1])
    np.testing.assert_array_equal(scores, wanted[0])
    return indices


def decoded(codes):
    """Rows of whole numbers from panels."""
    return codes.transpose(0, 2, 1, 3).reshape(codes.shape[0] * 16, -1).astype(np.float64)


def padded(vector, length=1.0):
    """A centre of this length in the direction of a vector."""
    wide = np.zeros(-(-len(vector) // 64) * 64, np.float32)
    wide[: len(vector)] = vector / max(np.linalg.norm(vector), 1e-30) * length
    return wide


KINDS = {
    "normal": lambda rng, n, d: rng.standard_normal((n, d)),
    "one large element": lambda rng, n, d: np.where(np.arange(d) == 0, 1.0, 1e-3 * rng.standard_normal((n, d))),
    "half steps": lambda rng, n, d: np.where(np.arange(d) == 0, 127.0, rng.integers(-126, 126, (n, d)) + 0.5),
    "denormal": lambda rng, n, d: rng.standard_normal((n, d)) * 1e-42,
    "huge": lambda rng, n, d: np.clip(rng.standard_normal((n, d)) * 1e38, -3e38, 3e38),
    "close together": lambda rng, n, d: 1.0 + 0.01 * rng.standard_normal((n, d)),
    "zeros": lambda rng, n, d: np.zeros((n, d)),
}
CENTERS = {
    "none": lambda rows: padded(np.ones(rows.shape[1]), 0.0),
    "theirs": _cpu.bank_center,
    "far": lambda rows: padded(-rows[0].astype(np.float64)),
}


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 5, 64, 77, 768])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_terms_are_what_the_bound_says(name, dim, kind, center):
    rows = KINDS[kind](np.random.default_rng(dim), 32, dim).astype(np.float32)
    middle = CENTERS[center](rows)
    with using(name):
        norms, codes, terms = encoded(rows, middle)
    scales, residuals, lengths, offsets = terms.astype(np.float64).transpose(1, 0, 2).reshape(4, 32)
    wide, m = rows.astype(np.float64), middle[:dim].astype(np.float64)
    np.testing.assert_allclose(norms, np.linalg.norm(wide, axis=1), rtol=1e-14)
    w = wide / np.where(norms > 0, norms, 1)[:, None] - m
    off = np.linalg.norm(w - (scales[:, None] * decoded(codes))[:, :dim], axis=1)
    for above, exact in ((residuals, off), (lengths, np.linalg.norm(w, axis=1))):
        assert (exact <= above + 1e-6).all()
        assert (exact >= above - 2e-6 * np.maximum(exact, 1)).all()  # no more than its own rounding above
    np.testing.assert_allclose(offsets, w @ m + m @ m / 2, atol=2e-7)
    assert not decoded(codes)[:, dim:].any() and np.abs(codes).max(initial=0) <= 127


def test_the_center_is_near_the_mean():
    rng = np.random.default_rng(0)
    rows = (3.0 + rng.standard_normal((3000, 70))).astype(np.float32)
    rows[7] = 0
    rows[8] *= 1e30
    unit = rows / np.maximum(np.linalg.norm(rows.astype(np.float64), axis=1), 1e-30)[:, None]
    center = _cpu.bank_center(rows)
    assert np.linalg.norm(center[:70] - unit.mean(0)) < 0.03 and not center[70:].any()
    assert not _cpu.bank_center(np.zeros((20, 5), np.float32)).any()
    assert not _cpu.bank_center(np.zeros((0, 5), np.float32)).any()


def around(along, vectors):
    """Unit vectors, made shorter, behind one more element, so that they lie around a centre of the length `along`."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first = np.full((len(unit), 1), along)
    return np.concatenate([first, np.sqrt(1 - along**2) * unit], axis=1).astype(np.float32)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("along", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("dim", [64, 200, 768])
def test_vectors_on_the_bound_are_found(name, dim, along):
    """The nearest vector is one whose 8-bit copy looks as much farther away as the bound allows.

    v = (p + e) / |p + e| with p on the grid of the copy and e less than half a step in every element, so that the copy
    of v is p. A query along e sees the copy at 0 and v at |e|: U.V is off by the whole residual. Decoys, exactly on the
    grid along another axis, score between the two. All of it lies around a centre.
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
    bank = around(along, np.concatenate([rest[:2000], best[None], rest[2000:]]))
    queries = around(along, np.repeat(query[None], 9, axis=0))
    center = padded(np.eye(1, dim + 1)[0], along)
    with using(name):
        _, codes, terms = encoded(bank, center)
        assert not (decoded(codes)[2000, half + 1 : dim + 1]).any()  # the copy knows nothing of what the query asks for
        assert terms[125, 1, 0] > 0.99 * residual * np.sqrt(1 - along**2)
    assert (searched(name, queries, bank, center)[:, 0] == 2000).all()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("along", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("dim", [64, 200, 768])
def test_queries_on_the_bound_find_theirs(name, dim, along):
    """The same of a query: its copy, where it has 8 bits, is p, and knows nothing of e, where the nearest lies."""
    rng = np.random.default_rng(dim)
    half = dim // 2
    p, e = np.zeros(dim), np.zeros(dim)
    p[0], p[1 : half - 1] = 127.0, rng.integers(-100, 100, half - 2)  # nothing at half - 1, for the decoys
    e[half:] = np.where(rng.random(dim - half) < 0.5, 0.49, -0.49)
    query = p + e
    residual = np.linalg.norm(e) / np.linalg.norm(query)
    rest = np.zeros((4095, dim))
    rest[:, 0] = np.linspace(0.1, 0.999, 4095) * residual * np.linalg.norm(query) / 127.0
    rest[:, half - 1] = np.sqrt(1 - rest[:, 0] ** 2)
    bank = around(along, np.concatenate([rest[:4000], e[None], rest[4000:]]))
    queries = around(along, np.repeat(query[None], 9, axis=0))
    center = padded(np.eye(1, dim + 1)[0], along)
    assert (searched(name, queries, bank, center)[:, 0] == 4000).all()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("along", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("dim", [64, 200, 768])
def test_vectors_that_look_nearer_than_they_are_rule_nothing_out(name, dim, along):
    """What a vector scores at least is believed: here it scores as little more as the bound allows.

    As above, but the query asks for -e, so that the copies of the first eight vectors look nearer than they are by the
    whole residual. The five nearest, on the grid, score between what those score and what they seem to.
    """
    rng = np.random.default_rng(dim)
    half = dim // 2
    p, e, query = np.zeros(dim), np.zeros(dim), np.zeros(dim)
    p[0], p[1 : half - 1] = 127.0, rng.integers(-100, 100, half - 2)  # nothing at half - 1, for the nearest
    e[half:] = np.where(rng.random(dim - half) < 0.5, 0.49, -0.49)
    query[0], query[half:] = 127.0, -127.0 * np.sign(e[half:])
    seeming = p + e
    scale = np.linalg.norm(query)
    low, high = ((p + part) @ query / (scale * np.linalg.norm(seeming)) for part in (e, 0 * e))
    nearest = np.zeros((255, dim))
    nearest[:, 0], nearest[:, half - 1] = np.arange(-127, 128), 127.0
    scores = nearest @ query / (scale * np.linalg.norm(nearest, axis=1))
    nearest = nearest[(scores > low) & (scores < high)][:5]
    assert len(nearest) == 5
    bank = around(along, np.concatenate([np.repeat(seeming[None], 8, 0), np.repeat(-query[None], 99, 0), nearest]))
    queries = around(along, np.repeat(query[None], 9, axis=0))
    center = padded(np.eye(1, dim + 1)[0], along)
    bank = np.concatenate([bank, bank[8:9].repeat(16, 0)])  # nobody is left over after the last whole panel
    assert set(searched(name, queries, bank, center).ravel().tolist()) == {107, 108, 109, 110, 111}


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 200), length=st.floats(0, 1), spread=st.floats(-6, 1))
def test_any_center_gives_the_right_answer(name, seed, dim, length, spread):
    rng = np.random.default_rng(seed)
    middle, center = rng.standard_normal(dim), padded(rng.standard_normal(dim), length)
    if rng.random() < 0.5:
        center = padded(middle, length)
    bank, queries = (
        (middle + 10.0**spread * rng.standard_normal((n, dim))).astype(np.float32)
        for n in (16 * rng.integers(1, 20), 7)
    )
    bank[rng.integers(len(bank))] = 0
    queries[rng.integers(7)] = 0
    searched(name, queries, bank, center)


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


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_what_the_codes_of_query_and_row_both_lose_counts(name):
    """Of so many dimensions half a step is lost in query and row alike: their residuals multiply."""
    dim, lost = 65_536, 65_000
    query, best = np.zeros(dim, np.float32), np.zeros(dim, np.float32)
    query[0], best[1] = 127, 127
    query[2 : 2 + lost], best[2 : 2 + lost] = 0.51, -0.51
    bank = np.zeros((64, dim), np.float32)
    bank[:, 0] = -1
    bank[:, 1] = np.tan(np.arccos(0.76 - 1e-4 * np.arange(64)))
    bank[40] = best
    center = np.zeros(dim, np.float32)
    with using(name):
        _, indices = _cpu.search_bank(np.repeat(query[None], 8, 0), bank, center, *encoded(bank, center), 1)
    scores = bank.astype(np.float64) @ query / np.linalg.norm(bank.astype(np.float64), axis=1)
    assert indices[:, 0].tolist() == [int(scores.argmax())] * 8
