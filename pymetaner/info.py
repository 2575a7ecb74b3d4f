"""What an installation consists of: versions, the backend in use, the processor and the devices."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from pymetaner.errors import BackendError
from pymetaner.ops.backends import Backend, backend, extension

__all__ = ["Info", "info"]

_PACKAGES = ("torch", "transformers", "numpy", "tokenizers", "safetensors", "huggingface_hub", "icu4py", "rjieba")


@dataclass(frozen=True)
class Info:
    """What `info` found.

    Attributes:
        version: of pymetaner.
        python: version of the interpreter.
        platform: operating system and processor architecture.
        packages: version of each package that pymetaner stands on; None if it is not installed.
        backend: ``"native"`` or ``"reference"``: what runs the operations on the CPU.
        extension: file of the compiled extension; None if it cannot be imported.
        compiler: what compiled it; None without it.
        instruction_set: the one that its kernels use; None without it.
        instruction_sets: those that the processor has and its kernels can be made to use with ``PYMETANER_SIMD``,
            narrowest first.
        threads: how many threads an operation uses.
        devices: the CPU and the accelerators that PyTorch sees.
    """

    version: str
    python: str
    platform: str
    packages: dict[str, str | None]
    backend: Backend
    extension: str | None
    compiler: str | None
    instruction_set: str | None
    instruction_sets: tuple[str, ...]
    threads: int
    devices: tuple[str, ...]

    def to_json(self) -> str:
        """The same as a JSON object, indented."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def info() -> Info:
    """Versions, backend, instruction sets and devices of this installation.

    Raises:
        BackendError: if ``PYMETANER_BACKEND`` or ``PYMETANER_SIMD`` asks for something that is not to be had.

    Example:
        >>> info().version == version("pymetaner")
        True
    """
    chosen = backend()
    try:
        module = extension()
    except BackendError:
        if chosen == "native":
            raise
        module = None
    return Info(
        version=version("pymetaner"),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={name: _version_of(name) for name in _PACKAGES},
        backend=chosen,
        extension=None if module is None else str(module.__file__),
        compiler=None if module is None else module.compiler,
        instruction_set=None if module is None else module.instruction_set(),
        instruction_sets=() if module is None else tuple(module.instruction_sets()),
        threads=torch.get_num_threads(),
        devices=(f"cpu: {_processor()}, {os.cpu_count()} cores", *_accelerators()),
    )


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    name = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends, "cpu") else ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    return " ".join(part for part in (model or platform.machine(), f"({name})" if name else "") if part)


def _accelerators() -> list[str]:
    found = [f"cuda:{i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return [*found, "mps"] if torch.backends.mps.is_available() else found
