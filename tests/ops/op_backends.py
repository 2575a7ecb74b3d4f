"""What runs an operation in these tests: the extension on every instruction set of this machine, and PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pymetaner import ops

try:
    from pymetaner import _cpu
except ImportError:
    pytest.skip("needs the compiled extension", allow_module_level=True)

INSTRUCTION_SETS = tuple(_cpu.instruction_sets())
BACKENDS = (*INSTRUCTION_SETS, "reference")


@contextmanager
def using(name: str) -> Iterator[None]:
    """Runs the operations on this instruction set, or on the reference."""
    before = _cpu.instruction_set()
    if name != "reference":
        _cpu.use_instruction_set(name)
    try:
        with ops.use_backend("reference" if name == "reference" else "native"):
            yield
    finally:
        _cpu.use_instruction_set(before)
