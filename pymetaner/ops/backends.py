"""Which code runs an operation: the compiled extension or its reference in PyTorch."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal, cast, get_args

import torch

from pymetaner.errors import BackendError

__all__ = ["Backend", "backend", "extension", "plain", "runs_natively", "use_backend"]

Backend = Literal["native", "reference"]

_INSTALL = "pip install --force-reinstall --no-deps pymetaner (from a checkout: pip install -e .)"

_wanted: str | None = os.environ.get("PYMETANER_BACKEND") or None
_extension: ModuleType | None = None
_failure: ImportError | None = None

try:
    import pymetaner._cpu as _cpu

    _extension = _cpu
except ImportError as error:
    _failure = error


def backend() -> Backend:
    """``"native"`` if the compiled extension runs the operations on the CPU, ``"reference"`` if PyTorch does.

    Tensors on CUDA go to `pymetaner._cuda` unless ``PYMETANER_BACKEND=reference`` is set, it was not built, or the
    device is older than sm_80; those on other devices always go to the reference.

    Raises:
        BackendError: if ``PYMETANER_BACKEND`` is neither, or asks for an extension that cannot be imported.
    """
    if _wanted is not None and _wanted not in get_args(Backend):
        raise BackendError(f"PYMETANER_BACKEND is {_wanted!r}: set it to 'native' or 'reference', or leave it unset")
    if _wanted == "native":
        _imported()
    if _wanted is None:
        if _extension is None:
            _warn_once()
        return "reference" if _extension is None else "native"
    return cast(Backend, _wanted)


def runs_natively(tensor: torch.Tensor) -> bool:
    """Whether an operation on this tensor goes to a kernel."""
    if tensor.device.type == "cpu":
        return backend() == "native"
    return tensor.device.type == "cuda" and (_wanted == "native" or (_wanted is None and _cuda_runs_on(tensor.device)))


@functools.cache
def _cuda_runs_on(device: torch.device) -> bool:
    """Whether `pymetaner._cuda` was built, and for devices of this kind: from sm_80 on."""
    built = importlib.util.find_spec("pymetaner._cuda") is not None
    return built and torch.cuda.get_device_capability(device) >= (8, 0)


def extension() -> ModuleType:
    """The compiled extension, ready for use.

    Raises:
        BackendError: if it cannot be imported, with the reason and the command that installs it, or if
            ``PYMETANER_SIMD`` names an instruction set that is not to be had.
    """
    module = _imported()
    try:
        module.instruction_set()  # reads PYMETANER_SIMD the first time
    except RuntimeError as error:
        raise BackendError(str(error)) from None
    return module


def _imported() -> ModuleType:
    if _extension is None:
        raise BackendError(
            f"the compiled extension pymetaner._cpu cannot be imported ({_failure}): build it with\n    {_INSTALL}\n"
            "or set PYMETANER_BACKEND=reference to run without it, more slowly"
        )
    return _extension


def transformed() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is at work, which see into PyTorch's own
    operations only."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def plain(*tensors: torch.Tensor) -> bool:
    """Whether an operation on these tensors needs neither autograd nor tracing, so that its function can be called
    without PyTorch's dispatcher, whose first call of a custom operator loads the whole compiler (a second or more)."""
    if torch.compiler.is_compiling() or not all(type(x) in (torch.Tensor, torch.nn.Parameter) for x in tensors):
        return False
    return not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))


@contextmanager
def use_backend(name: Backend | None) -> Iterator[None]:
    """Within the block, every thread runs this backend, as if ``PYMETANER_BACKEND`` were so set.

    Args:
        name: ``"native"``, ``"reference"``, or None for the automatic choice.

    Raises:
        BackendError: if the backend is not to be had.

    Example:
        >>> with use_backend("reference"):
        ...     backend()
        'reference'
    """
    global _wanted
    before, _wanted = _wanted, name
    try:
        backend()
        yield
    finally:
        _wanted = before


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"the compiled extension pymetaner._cpu cannot be imported ({_failure}); running on the slower reference. "
            f"To build it: {_INSTALL}. To silence this: PYMETANER_BACKEND=reference",
            RuntimeWarning,
            stacklevel=3,
        )
