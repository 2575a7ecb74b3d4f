from __future__ import annotations

import json
from importlib.metadata import version

import pytest
import torch

from pymetaner import ops
from pymetaner.errors import BackendError
from pymetaner.info import info


def test_info_names_what_is_in_use():
    with ops.use_backend("reference"):
        found = info()
    assert found.version == version("pymetaner")
    assert found.packages["torch"] == version("torch")
    assert found.backend == "reference"
    assert found.threads == torch.get_num_threads()
    assert found.devices[0].startswith("cpu")
    assert json.loads(found.to_json())["packages"] == found.packages


def test_info_of_the_extension():
    pytest.importorskip("pymetaner._cpu")
    found = info()
    assert found.extension is not None and "_cpu" in found.extension and found.compiler
    assert found.instruction_set is not None and found.instruction_sets[0] == "scalar"


def test_a_wrong_backend_is_told(monkeypatch):
    monkeypatch.setattr("pymetaner.ops.backends._wanted", "fast")
    with pytest.raises(BackendError, match="fast"):
        info()
