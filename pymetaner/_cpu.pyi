"""The compiled kernels; use them through `pymetaner.ops`, which checks what it is given and explains what is wrong."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str
compiler: str
instruction_set: str

def instruction_sets() -> list[str]: ...
def cosine_topk(
    queries: NDArray[np.float32],
    bank: NDArray[np.float32],
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
