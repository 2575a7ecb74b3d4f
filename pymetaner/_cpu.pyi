"""The compiled kernels; use them through `pymetaner.ops`, which checks what it is given and explains what is wrong."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str
compiler: str

def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
def cosine_topk(
    queries: NDArray[np.float32],
    bank: NDArray[np.float32],
    k: int,
    exclude: NDArray[np.int64] | None = None,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
def bank_center(rows: NDArray[np.float32]) -> NDArray[np.float32]: ...
def encode_bank(
    rows: NDArray[np.float32],
    center: NDArray[np.float32],
    norms: NDArray[np.float64],
    codes: NDArray[np.int8],
    terms: NDArray[np.float32],
    threads: int = 1,
) -> None: ...
def search_bank(
    queries: NDArray[np.float32],
    bank: NDArray[np.float32],
    center: NDArray[np.float32],
    norms: NDArray[np.float64],
    codes: NDArray[np.int8],
    terms: NDArray[np.float32],
    k: int,
    exclude: NDArray[np.int64] | None = None,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
def masked_token_loss(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    lambda_max: float,
    ignore_index: int = -100,
    threads: int = 1,
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]: ...
