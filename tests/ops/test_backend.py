"""The choice between the extension and the reference, in fresh interpreters where the environment decides."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pymetaner import ops
from pymetaner.errors import BackendError

HIDE = "import sys; sys.modules['pymetaner._cpu'] = None\n"  # an import of it now fails, as if it were not built
USE = "import torch; from pymetaner import ops; print(ops.backend()); ops.cosine_topk(torch.eye(2), torch.eye(2), 1)\n"


def run(code, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "PYMETANER_BACKEND"}
    return subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, timeout=120
    )


def test_without_the_extension_the_reference_runs_with_one_warning():
    result = run(HIDE + USE + USE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["reference"] * 2
    assert result.stderr.count("RuntimeWarning") == 1 and "pip install" in result.stderr


def test_the_reference_on_demand_is_silent():
    result = run(HIDE + USE, PYMETANER_BACKEND="reference")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "reference", "")


def test_native_on_demand_fails_with_the_command_that_fixes_it():
    result = run(HIDE + USE, PYMETANER_BACKEND="native")
    assert result.returncode != 0 and "BackendError" in result.stderr and "pip install" in result.stderr


def test_an_unknown_backend_is_refused():
    result = run(USE, PYMETANER_BACKEND="fast")
    assert result.returncode != 0 and "PYMETANER_BACKEND is 'fast'" in result.stderr


def test_use_backend_restores_what_was_before():
    before = ops.backend()
    with ops.use_backend("reference"):
        assert ops.backend() == "reference"
    assert ops.backend() == before
    with pytest.raises(BackendError), ops.use_backend("fast"):
        pass
    assert ops.backend() == before
