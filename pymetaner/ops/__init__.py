"""The operations that pymetaner has native kernels for, each with a reference in plain PyTorch.

`PYMETANER_BACKEND=reference` in the environment runs everything without the compiled extension,
`PYMETANER_BACKEND=native` insists on it; without either the extension is used if it can be imported.
`PYMETANER_SIMD=scalar|avx2|avx512|amx|neon` makes the extension use that instruction set rather than the widest.
"""

from __future__ import annotations

from pymetaner.ops.backends import backend, use_backend
from pymetaner.ops.bank import CosineBank
from pymetaner.ops.classifier_loss import classifier_token_loss
from pymetaner.ops.loss import (
    masked_token_loss,
    masked_token_loss_reference,
    masked_token_loss_with_gradient,
)
from pymetaner.ops.topk import cosine_topk, cosine_topk_reference

__all__ = [
    "CosineBank",
    "backend",
    "classifier_token_loss",
    "cosine_topk",
    "cosine_topk_reference",
    "masked_token_loss",
    "masked_token_loss_reference",
    "masked_token_loss_with_gradient",
    "use_backend",
]
