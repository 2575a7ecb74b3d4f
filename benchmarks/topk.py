"""Exact cosine top-k against a matrix product and a partial sort, in PyTorch and in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.contest import OURS, measure
from pymetaner.ops import cosine_topk

Answer = tuple[Tensor, Tensor]


class Case(NamedTuple):
    bank: int
    queries: int
    dim: int
    k: int
    quick: bool

    @property
    def name(self) -> str:
        return f"{self.bank:,} x {self.queries:,} x {self.dim}, {self.k}"


CASES = [
    Case(14_041, 1, 768, 2, quick=True),
    Case(14_041, 64, 768, 2, quick=True),
    Case(14_041, 512, 384, 16, quick=False),
    Case(100_000, 64, 768, 10, quick=False),
]


def in_torch(queries: Tensor, bank: Tensor, k: int) -> Answer:
    scores = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(bank).T
    values, indices = scores.topk(k)
    return values, indices


def in_torch_unit(queries: Tensor, bank: Tensor, k: int) -> Answer:
    """The bank holds unit vectors already, as a user who searches it often would keep it."""
    values, indices = (torch.nn.functional.normalize(queries) @ bank.T).topk(k)
    return values, indices


def in_numpy(queries: Tensor, bank: Tensor, k: int) -> Answer:
    q = queries.numpy()
    scores = q / np.linalg.norm(q, axis=1, keepdims=True) @ bank.numpy().T
    part = np.argpartition(-scores, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, part, 1), axis=1, kind="stable")
    indices = np.take_along_axis(part, order, 1)
    return torch.from_numpy(np.take_along_axis(scores, indices, 1)), torch.from_numpy(indices)


CONTENDERS: dict[str, tuple[Callable[[Tensor, Tensor, int], Answer], torch.dtype]] = {
    OURS: (cosine_topk, torch.float32),
    "torch matmul + topk, float32, unit bank": (in_torch_unit, torch.float32),
    "torch matmul + topk, float32": (in_torch, torch.float32),
    "torch matmul + topk, float64, unit bank": (in_torch_unit, torch.float64),
    "numpy, float32, unit bank": (in_numpy, torch.float32),
}


@lru_cache(maxsize=1)
def inputs(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    bank = torch.nn.functional.normalize(torch.randn(case.bank, case.dim, generator=generator))
    return torch.randn(case.queries, case.dim, generator=generator).to(dtype), bank.to(dtype)


@cache
def expected(case: Case) -> Answer:
    return cosine_topk(*inputs(case, torch.float32), case.k)


def test_topk(benchmark: Any, case: Case, contender: str) -> None:
    function, dtype = CONTENDERS[contender]
    queries, bank = inputs(case, dtype)

    def check(answer: Answer) -> None:
        scores, indices = expected(case)
        torch.testing.assert_close(answer[0].float(), scores, rtol=0, atol=2e-6)
        different = indices != answer[1]  # only where rounding turns neighbours around
        gaps = (scores - answer[0]).abs()[different]
        assert different.float().mean() < 0.01 and (gaps < 2e-6).all()

    measure(benchmark, case.name, contender, str(dtype)[6:], lambda: function(queries, bank, case.k), check)
