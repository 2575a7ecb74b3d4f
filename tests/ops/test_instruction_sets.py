"""Every instruction set against the scalar path, and the choice between them."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_backends import INSTRUCTION_SETS, using

from pymetaner import _cpu, ops

PRINT = "from pymetaner import ops, _cpu; ops.cosine_topk({}, {}, 1); print(_cpu.instruction_set())".format(
    *2 * ("__import__('torch').eye(2)",)
)


def run(name: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYMETANER_SIMD": name}
    return subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_environment_forces_one(name):
    assert run(name).stdout.strip() == name


def test_without_it_the_widest_is_used():
    assert run("").stdout.strip() == INSTRUCTION_SETS[-1]


@pytest.mark.parametrize("name", ["fast", "AVX2", "neon" if "avx2" in INSTRUCTION_SETS else "avx2"])
def test_an_impossible_one_is_an_error_that_names_the_possible(name):
    result = run(name)
    assert result.returncode != 0 and "BackendError" in result.stderr
    assert f"'{name}'" in result.stderr and "scalar" in result.stderr and "PYMETANER_SIMD" in result.stderr
    with pytest.raises(RuntimeError, match=name):
        _cpu.use_instruction_set(name)


@pytest.mark.parametrize("name", INSTRUCTION_SETS[1:])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 400), st.integers(1, 200)),
    k=st.integers(1, 40),
    exponent=st.integers(-44, 37),
)
def test_top_k_is_that_of_the_scalar_path(name, seed, shape, k, exponent):
    rng = np.random.default_rng(seed)
    count, size, dim = shape
    bank = rng.standard_normal((size, dim)) * 10.0 ** rng.integers(min(exponent, 0), max(exponent, 1), (size, 1))
    bank = bank.astype(np.float32)
    bank[rng.integers(0, size, size // 2)] = bank[0]  # ties
    queries = bank[rng.integers(0, size, count)] + np.float32(0.01) * rng.standard_normal((count, dim), np.float32)
    with using("scalar"):
        scores, indices = ops.cosine_topk(queries, bank, k)
    with using(name):
        np.testing.assert_array_equal(ops.cosine_topk(queries, bank, k)[1], indices)
        np.testing.assert_array_equal(ops.cosine_topk(queries, bank, k)[0], scores)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_8_bit_copy_is_the_same_from_every_set(name):
    rows = np.random.default_rng(0).standard_normal((48, 77), np.float32)

    def encoded(which):
        arrays = (np.zeros(48), np.zeros((3, 32, 16, 4), np.int8), np.zeros((3, 4, 16), np.float32))
        with using(which):
            center = _cpu.bank_center(rows)
            _cpu.encode_bank(rows, center, *arrays)
        return center, *arrays

    for actual, expected in zip(encoded(name), encoded("scalar"), strict=True):
        np.testing.assert_array_equal(actual, expected)
