"""Exact cosine top-k against what a user would take instead; every answer is compared with ours in the same run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.contest import OURS, measure
from pymetaner.ops import CosineBank, cosine_topk

Answer = tuple[Tensor, Tensor]
Search = Callable[[Tensor], Answer]


class Case(NamedTuple):
    bank: int
    queries: int
    dim: int
    k: int
    quick: bool
    close: bool = False  # together, as vectors of trained encoders lie

    @property
    def name(self) -> str:
        return f"{self.bank:,} x {self.queries:,} x {self.dim}, {self.k}" + (" close together" if self.close else "")


CASES = [
    Case(14_041, 1, 768, 2, quick=True),
    Case(14_041, 64, 768, 2, quick=True),
    Case(14_041, 3_453, 768, 2, quick=False),
    Case(100_000, 64, 768, 10, quick=False),
    Case(100_000, 1_024, 768, 10, quick=False),
    Case(1_000_000, 32, 384, 10, quick=False),
    Case(18_572, 8_578, 384, 8, quick=False, close=True),  # words of 500 and of 250 Spanish sentences
]
TURNS = 5


def ours(bank: Tensor, k: int) -> Search:
    """The bank is encoded beforehand, as the peers' indices are built beforehand."""
    encoded = CosineBank(bank.shape[1])
    encoded.append(bank.numpy())

    def search(queries: Tensor) -> Answer:
        scores, indices = encoded.search(queries.numpy(), k)
        return torch.from_numpy(scores), torch.from_numpy(indices)

    return search


def ours_plain(bank: Tensor, k: int) -> Search:
    return lambda queries: cosine_topk(queries, bank, k)


def in_torch(bank: Tensor, k: int) -> Search:
    """The bank holds unit vectors already, as a user who searches it often would keep it."""

    def search(queries: Tensor) -> Answer:
        values, indices = (normalize(queries) @ bank.T).topk(k)
        return values, indices

    return search


def in_torch_bfloat16(bank: Tensor, k: int) -> Search:
    narrow = bank.bfloat16()

    def search(queries: Tensor) -> Answer:
        values, indices = (normalize(queries).bfloat16() @ narrow.T).topk(k)
        return values, indices

    return search


def in_numpy(bank: Tensor, k: int) -> Search:
    unit = bank.numpy()

    def search(queries: Tensor) -> Answer:
        q = queries.numpy()
        scores = q / np.linalg.norm(q, axis=1, keepdims=True) @ unit.T
        part = np.argpartition(-scores, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, part, 1), axis=1, kind="stable")
        indices = np.take_along_axis(part, order, 1)
        return torch.from_numpy(np.take_along_axis(scores, indices, 1)), torch.from_numpy(indices)

    return search


def in_faiss(bank: Tensor, k: int) -> Search:
    import faiss

    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank.numpy())

    def search(queries: Tensor) -> Answer:
        scores, indices = index.search(normalize(queries).numpy(), k)
        return torch.from_numpy(scores), torch.from_numpy(indices)

    return search


def in_usearch(bank: Tensor, k: int) -> Search:
    from usearch.compiled import MetricKind
    from usearch.index import search as exact_search

    vectors = bank.numpy()

    def search(queries: Tensor) -> Answer:
        found = exact_search(vectors, queries.numpy(), k, MetricKind.Cos, exact=True)
        indices = torch.from_numpy(found.keys.astype(np.int64).reshape(len(queries), k))
        return 1 - torch.from_numpy(found.distances.reshape(len(queries), k)), indices

    return search


def in_sentence_transformers(bank: Tensor, k: int) -> Search:
    from sentence_transformers.util import dot_score, semantic_search

    def search(queries: Tensor) -> Answer:
        found = semantic_search(normalize(queries), bank, top_k=k, score_function=dot_score, corpus_chunk_size=500_000)
        scores = torch.tensor([[float(hit["score"]) for hit in hits] for hits in found])
        return scores, torch.tensor([[int(hit["corpus_id"]) for hit in hits] for hits in found])

    return search


# Name: (what makes its search, the dtype of its scores, the package it needs).
ALL: dict[str, tuple[Callable[[Tensor, int], Search], str, str]] = {
    OURS: (ours, "float32", "pymetaner"),
    "pymetaner, bank not encoded beforehand": (ours_plain, "float32", "pymetaner"),
    "torch matmul + topk": (in_torch, "float32", "torch"),
    "torch matmul + topk, inexact": (in_torch_bfloat16, "bfloat16", "torch"),
    "FAISS IndexFlatIP": (in_faiss, "float32", "faiss"),
    "sentence-transformers semantic_search": (in_sentence_transformers, "float32", "sentence_transformers"),
    "usearch exact": (in_usearch, "float32", "usearch"),
    "NumPy": (in_numpy, "float32", "numpy"),
}
# Without instructions for it, PyTorch multiplies bfloat16 far more slowly than float32.
HAS_BFLOAT16 = "AVX512" in torch.backends.cpu.get_cpu_capability()
CONTENDERS = [
    name
    for name, (_, dtype, package) in ALL.items()
    if importlib.util.find_spec(package) and (dtype != "bfloat16" or HAS_BFLOAT16)
]


@lru_cache(maxsize=1)
def inputs(case: Case) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(count, case.dim, generator=generator) for count in (case.bank, case.queries))
    if case.close:  # the mean of the unit vectors is 0.87 long, as that of a tagger's last hidden states is
        bank, queries = (1.77 + rows for rows in (bank, queries))
    return queries, normalize(bank)


@lru_cache(maxsize=len(ALL))
def searches(case: Case, contender: str) -> Search:
    make, _, _ = ALL[contender]
    return make(inputs(case)[1], case.k)


@lru_cache(maxsize=1)
def expected(case: Case) -> Answer:
    return searches(case, OURS)(inputs(case)[0])


def test_topk(benchmark: Any, case: Case, contender: str) -> None:
    _, dtype, _ = ALL[contender]
    queries, _ = inputs(case)
    search = searches(case, contender)

    def check(answer: Answer) -> None:
        scores, indices = expected(case)
        if dtype == "bfloat16":  # shown beside, and held to what it can do
            torch.testing.assert_close(answer[0].float(), scores, rtol=0, atol=1e-2)
            return
        torch.testing.assert_close(answer[0].float(), scores, rtol=0, atol=2e-6)
        different = indices != answer[1]  # only where rounding turns neighbours around
        gaps = (scores - answer[0]).abs()[different]
        assert different.float().mean() < 0.01 and (gaps < 2e-6).all()

    measure(benchmark, case.name, contender, dtype, lambda: search(queries), check)
