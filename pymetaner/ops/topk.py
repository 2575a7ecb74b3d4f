"""Exact nearest neighbours by cosine similarity, on the native kernel or in PyTorch."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pymetaner.errors import InputError, SettingError
from pymetaner.ops import cuda
from pymetaner.ops.backends import extension, plain, runs_natively, transformed

__all__ = ["cosine_topk", "cosine_topk_reference"]

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]

_LANES = 8  # as in csrc/cosine_topk/dot.hpp
_CHUNK = 2**20  # float64 elements that the reference multiplies at a time: what a cache holds
_SPLIT = 2.0**27 + 1  # parts a float64 into two halves whose products are exact
_PANEL = 2**23  # float64 scores that it holds at a time


@overload
def cosine_topk(queries: Tensor, bank: Tensor, k: int, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]: ...
@overload
def cosine_topk(
    queries: FloatArray, bank: FloatArray, k: int, exclude: IntArray | None = None
) -> tuple[NDArray[np.float32], IntArray]: ...
def cosine_topk(
    queries: Tensor | FloatArray, bank: Tensor | FloatArray, k: int, exclude: Tensor | IntArray | None = None
) -> tuple[Tensor, Tensor] | tuple[NDArray[np.float32], IntArray]:
    """Scores (Q, k) float32 and bank indices (Q, k) int64 of the k nearest bank vectors of each query.

    Exact: a score is the float64 dot product of the float32 inputs over the product of their norms, and the order is
    (score descending, index ascending). A pair of vectors has the same score, to the last bit, in any batch and with
    any number of threads. A vector of zeros scores 0. Where fewer than k vectors are left, the score is -inf and the
    index -1. The scores are differentiable. Tensors give tensors, arrays give arrays.

    Args:
        queries: (Q, d) of a floating dtype; anything but float32 is converted to it first.
        bank: (N, d), likewise, on the same device.
        k: how many neighbours, at least 1; may be more than N.
        exclude: (Q,) int64, one bank index that each query may not find, -1 for none.

    Raises:
        InputError: if shapes, dtypes or devices do not go together, a vector holds NaN or an infinity, or an
            excluded index is not in the bank.
        SettingError: if k is less than 1.

    Example:
        >>> bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
        >>> scores, indices = cosine_topk(torch.tensor([[0.0, 3.0]]), bank, k=2)
        >>> indices
        tensor([[1, 2]])
    """
    if isinstance(queries, np.ndarray) and isinstance(bank, np.ndarray):
        left_out = None if exclude is None else _tensor_of(np.asarray(exclude))
        scores, indices = cosine_topk(_tensor_of(queries), _tensor_of(bank), k, left_out)
        return scores.numpy(), indices.numpy()
    queries, bank, exclude = _checked(queries, bank, k, exclude)
    if transformed():
        return cosine_topk_reference(queries, bank, k, exclude)
    if plain(queries, bank):
        return _run(queries, bank, k, exclude)
    return torch.ops.pymetaner.cosine_topk(queries, bank, k, exclude)  # type: ignore[no-any-return]


def cosine_topk_reference(
    queries: Tensor, bank: Tensor, k: int, exclude: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same as `cosine_topk`, bit for bit, in plain PyTorch on any device with float64.

    A float64 matrix product, whose order of addition is up to the BLAS, picks every vector that may be among the k
    best; those are scored again in the one order of addition that the native kernel uses.
    """
    queries, bank, exclude = _checked(queries, bank, k, exclude)
    _check_excluded(bank, exclude)
    q, b = queries.float().double(), bank.float().double()
    q_norm, b_norm = _norms(q, "queries"), _norms(b, "bank")
    if exclude is None:
        exclude = torch.full((len(q),), -1, device=q.device)
    panel = max(1, _PANEL // max(1, len(b)))
    parts = [slice(i, i + panel) for i in range(0, max(1, len(q)), panel)]
    found = [_search(q[part], q_norm[part], exclude[part], b, b_norm, k) for part in parts]
    return torch.cat([scores for scores, _ in found]), torch.cat([indices for _, indices in found])


def _search(q: Tensor, q_norm: Tensor, exclude: Tensor, b: Tensor, b_norm: Tensor, k: int) -> tuple[Tensor, Tensor]:
    row, index = _candidates(_divided(q @ b.T, q_norm[:, None] * b_norm), exclude, k, q.shape[1])
    chunk = max(1, _CHUNK // q.shape[1])
    pairs = zip(torch.split(row, chunk), torch.split(index, chunk), strict=True)
    score = _divided(torch.cat([_dots(q[i], b[j]) for i, j in pairs]), q_norm[row] * b_norm[index])
    # Candidates come in the order (row, index), and stable sorts keep it among equals.
    order = score.detach().argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    row, index, score = row[order], index[order], score[order]
    first = torch.searchsorted(row, torch.arange(len(q), device=q.device))
    place = torch.arange(len(row), device=q.device) - first[row]
    kept = (row[place < k], place[place < k])
    scores = torch.full((len(q), k), -torch.inf, device=q.device).index_put(kept, score[place < k].float())
    indices = torch.full((len(q), k), -1, device=q.device).index_put(kept, index[place < k])
    return scores, indices


@torch.no_grad()
def _candidates(approximate: Tensor, exclude: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
    """(row, index) of every pair whose score is within rounding of the row's k-th best, row by row, index ascending."""
    excluding = (exclude >= 0).nonzero().squeeze(1)
    approximate[excluding, exclude[excluding]] = -torch.inf
    threshold = approximate.new_full((len(approximate), 1), -torch.inf)
    if approximate.shape[1] > k:
        # Any order of adding d products errs by at most d units of roundoff, norms and division by a few more; both
        # sides of the comparison may, and each has two such errors: in the approximate score and in the final one.
        margin = 4 * (dim + 8) * torch.finfo(torch.float64).eps
        threshold = approximate.topk(k, dim=1).values[:, -1:] - margin
    row, index = ((approximate >= threshold) & (approximate > -torch.inf)).nonzero(as_tuple=True)
    return row, index


def _dots(x: Tensor, y: Tensor) -> Tensor:
    """Row by row dot products of float64 tensors (P, d), added in the order that csrc/cosine_topk/dot.hpp fixes."""
    steps = -(-x.shape[1] // _LANES)
    # Pairs go last, so that each step adds long contiguous rows.
    products = torch.nn.functional.pad((x * y).T, (0, 0, 0, steps * _LANES - x.shape[1])).contiguous()
    lanes = torch.zeros_like(products[:_LANES])
    for step in torch.split(products, _LANES):
        lanes = lanes + step
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = lanes[:half] + lanes[half:]
    return lanes[0]


def _norms(rows: Tensor, name: str) -> Tensor:
    """The norm of each row of widened floats: finite exactly if the whole row is, 0 exactly for a row of zeros."""
    chunk = max(1, _CHUNK // rows.shape[1])
    squares = torch.cat([_dots(part, part) for part in torch.split(rows, chunk)])
    finite = squares.detach().isfinite()
    if not finite.all():
        position = int((~finite).nonzero()[0])
        raise InputError(f"{name} row {position} holds NaN or an infinity: give finite vectors")
    return _root(torch.where(squares > 0, squares, 1.0)) * (squares > 0)  # a square root has no gradient at 0


def _root(squares: Tensor) -> Tensor:
    """The square roots (n,) of positive numbers, rounded correctly; PyTorch's own may be one unit off on a CPU.

    One step of Newton's method ends at the right one if it has the error of the square in full (Dekker 1971).
    """
    root = squares.sqrt()
    near, wanted = root.detach(), squares.detach()
    high = near * _SPLIT
    high = high - (high - near)
    low = near - high
    product = near * near
    lost = ((high * high - product) + 2 * high * low) + low * low  # near^2 - product
    return root + ((wanted - product) - lost) / (2 * near)


def _divided(x: Tensor, norm: Tensor) -> Tensor:
    """x / norm, and 0 with gradient 0 where the norm is 0."""
    return torch.where(norm > 0, x / torch.where(norm > 0, norm, 1.0), 0.0)


def _checked(queries: object, bank: object, k: object, exclude: object) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors as given, once everything that can be told without reading them has been found right."""
    queries, bank = (_checked_rows(name, rows) for name, rows in (("queries", queries), ("bank", bank)))
    if queries.shape[1] != bank.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions and the bank {bank.shape[1]}: embed both with one encoder"
        )
    if queries.device != bank.device:
        raise InputError(f"queries are on {queries.device} and the bank on {bank.device}: move one to the other")
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)) or not 1 <= k < 2**63:
        raise SettingError(f"k is {k!r}: expected a whole number of neighbours, at least 1, below 2**63")
    if exclude is None:
        return queries, bank, None
    if not isinstance(exclude, Tensor) or exclude.dtype != torch.int64 or exclude.shape != queries.shape[:1]:
        given = f"{exclude.dtype} of shape {tuple(exclude.shape)}" if isinstance(exclude, Tensor) else repr(exclude)
        raise InputError(f"exclude is {given}: expected int64 of shape ({queries.shape[0]},), one index per query")
    if exclude.device != queries.device:
        raise InputError(f"exclude is on {exclude.device} and the queries on {queries.device}: move it there")
    return queries, bank, exclude


def _checked_rows(name: str, rows: object) -> Tensor:
    if not isinstance(rows, Tensor):
        raise InputError(f"{name} is a {type(rows).__name__}: give queries and bank both as tensors or as arrays")
    if rows.ndim != 2 or rows.shape[1] == 0 or not rows.is_floating_point():
        raise InputError(
            f"{name} is {rows.dtype} of shape {tuple(rows.shape)}: expected floating point vectors of shape "
            f"({'Q' if name == 'queries' else 'N'}, d), d at least 1"
        )
    return rows


def _check_excluded(bank: Tensor, exclude: Tensor | None) -> None:
    if exclude is None:
        return
    wrong = (exclude < -1) | (exclude >= len(bank))
    if wrong.any():
        position = int(wrong.nonzero()[0])
        raise InputError(
            f"exclude[{position}] is {int(exclude[position])}: expected an index into the {len(bank)} bank vectors, "
            "or -1 for none"
        )


def _tensor_of(array: NDArray[Any]) -> Tensor:
    """The array as a tensor without a copy where PyTorch can view it; nothing here writes to it."""
    if array.dtype.kind == "f" and array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float32)
    if any(stride < 0 for stride in array.strides) or not (array.dtype.isnative and array.flags.aligned):
        array = np.array(array, dtype=array.dtype.newbyteorder("="))
    if not array.flags.writeable:  # which torch.from_numpy would warn of, rightly in general
        array = np.asarray(_WriteableView(array))
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise InputError(f"an array of dtype {array.dtype} was given: expected numbers") from error


class _WriteableView:
    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        pointer, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (pointer, False)}


def _native(queries: Tensor, bank: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    rows = [x.detach().float() for x in (queries, bank)]
    arrays = [(x if x.stride(1) == 1 else x.contiguous()).numpy() for x in rows]
    left_out = None if exclude is None else exclude.contiguous().numpy()
    try:
        scores, indices = extension().cosine_topk(*arrays, k, left_out, torch.get_num_threads())
    except ValueError as error:
        raise InputError(str(error)) from None
    return torch.from_numpy(scores), torch.from_numpy(indices)


def _run(queries: Tensor, bank: Tensor, k: int, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if runs_natively(queries) and not queries.is_cuda:
        _check_excluded(bank, exclude)
        return _native(queries, bank, k, exclude)
    if runs_natively(queries) and k <= cuda.extension().max_k:
        return cuda.cosine_topk(queries, bank, k, exclude)
    return cosine_topk_reference(queries, bank, k, exclude)


_op = torch.library.custom_op(
    "pymetaner::cosine_topk",
    _run,
    mutates_args=(),
    schema="(Tensor queries, Tensor bank, int k, Tensor? exclude=None) -> (Tensor, Tensor)",
)


@_op.register_fake
def _(queries: Tensor, bank: Tensor, k: int, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.float32), queries.new_empty(shape, dtype=torch.int64)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    queries, bank, _, _ = inputs
    ctx.save_for_backward(queries, bank, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
    """With unit vectors u, v and cosine s: ds/dq = (v - s u) / |q| and ds/db = (u - s v) / |b|; 0 at a zero vector."""
    queries, bank, indices = ctx.saved_tensors
    if bank.shape[0] == 0:
        return torch.zeros_like(queries), torch.zeros_like(bank), None, None
    q, b = queries.double()[:, None], bank.double()[indices.clamp(min=0)]  # (Q, 1, d), (Q, k, d)
    q_norm, b_norm = q.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = _divided(q, q_norm), _divided(b, b_norm)
    s = (u * v).sum(-1, keepdim=True)
    counts = (indices >= 0)[..., None] & (q_norm > 0) & (b_norm > 0)
    weight = torch.where(counts, grad.double()[..., None], 0.0)
    to_queries = _divided(weight * (v - s * u), q_norm).sum(1)
    to_pairs = _divided(weight * (u - s * v), b_norm)
    to_bank = torch.zeros_like(bank, dtype=torch.float64)
    to_bank = to_bank.index_add(0, indices.clamp(min=0).flatten(), to_pairs.flatten(0, 1))
    return to_queries.to(queries.dtype), to_bank.to(bank.dtype), None, None


_op.register_autograd(_backward, setup_context=_setup_context)
