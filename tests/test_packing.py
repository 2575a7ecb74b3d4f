"""Packed weights: 4 bits where they give the matrix back exactly, float16 where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file
from tiny import CORPUS, model_of

from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.packing import pack_tensors, unpack_file


def on_grid(rows: int, columns: int, lowest: int, highest: int, seed: int = 0) -> torch.Tensor:
    """A matrix of 4-bit blocks of 32 values, each with a float16 scale of its own."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(lowest, highest + 1, (rows * columns // 32, 32))
    scale = np.exp(rng.normal(-4, 1, (len(steps), 1))).astype(np.float16).astype(np.float32)
    return torch.from_numpy((steps * scale).astype(np.float32).reshape(rows, columns))


def round_trip(tensors, path):
    packed, metadata = pack_tensors(tensors)
    save_file(packed, path, metadata=metadata)
    return packed, unpack_file(path)


@pytest.mark.parametrize(("lowest", "highest"), [(-8, 7), (-7, 8), (-8, 0), (-3, 3), (0, 1), (5, 6), (-1, -1)])
def test_four_bit_matrices_come_back_exactly(tmp_path, lowest, highest):
    matrix = on_grid(64, 96, lowest, highest)
    matrix[3] = 0
    packed, found = round_trip({"w": matrix}, tmp_path / "w")
    assert set(packed) == {"w.q4", "w.scale"}
    assert (packed["w.q4"].shape, packed["w.scale"].shape) == ((192, 16), (192,))
    assert torch.equal(found["w"], matrix)


def test_a_large_matrix_is_recognised_from_a_few_blocks(tmp_path):
    for lowest in (-8, -7):
        matrix = on_grid(320, 200, lowest, 7)
        packed, found = round_trip({"w": matrix}, tmp_path / "w")
        assert set(packed) == {"w.q4", "w.scale"}
        assert torch.equal(found["w"], matrix)
    matrix[-1, -1] += 1e-4  # one value off its grid
    packed, found = round_trip({"w": matrix}, tmp_path / "w")
    assert packed["w"].dtype == torch.float16
    torch.testing.assert_close(found["w"], matrix, rtol=2**-11, atol=2**-25)
    assert pack_tensors({"w": torch.randn(320, 200)})[0]["w"].dtype == torch.float16


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int8, (4, 32), elements=st.integers(-9, 9)),
    arrays(np.float16, (4, 1), elements=st.floats(2**-14, 100, width=16)),
)
def test_whatever_is_packed_in_four_bits_is_exact(tmp_path_factory, steps, scale):
    matrix = torch.from_numpy(steps.astype(np.float32) * scale.astype(np.float32))
    packed, found = round_trip({"w": matrix}, tmp_path_factory.mktemp("q") / "w")
    fits = all((row.min() >= -8 and row.max() <= 7) or (row.min() >= -7 and row.max() <= 8) for row in steps)
    if fits:
        assert "w.q4" in packed
    if "w.q4" in packed:
        assert torch.equal(found["w"], matrix)
    else:
        torch.testing.assert_close(found["w"], matrix, rtol=2**-11, atol=2**-25)


def test_everything_else_is_float16_or_wider(tmp_path):
    tensors = {
        "random": torch.randn(64, 64),
        "view": torch.randn(64, 64).t(),
        "odd": torch.randn(3, 11),
        "three": torch.randn(2, 3, 32),
        "bfloat": torch.randn(4, 8).bfloat16(),
        "bias": torch.randn(33),
        "large": torch.tensor([[1e5, 1.0]]),
        "nan": torch.tensor([[float("nan"), 1.0]]),
        "inf": torch.tensor([[float("inf"), 1.0]]),
        "none": torch.zeros(0, 32),
        "scalar": torch.tensor(0.1),
        "positions": torch.arange(5_000),
        "double": torch.tensor([0.25, 3.0], dtype=torch.float64),
    }
    packed, found = round_trip(tensors, tmp_path / "w")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].shape == tensor.shape
        assert found[name].dtype == (torch.int64 if name == "positions" else torch.float32)
        rounded = packed[name].dtype == torch.float16
        assert rounded == (name in ("random", "view", "odd", "three", "bfloat"))
        rtol, atol = (2**-11, 2**-25) if rounded else (0, 0)
        expected = tensor.to(found[name].dtype)
        torch.testing.assert_close(found[name], expected, equal_nan=True, rtol=rtol, atol=atol)


def test_a_packed_model_is_smaller_and_packing_it_again_changes_nothing(tmp_path):
    model = model_of("bert")
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if parameter.dim() == 2 and parameter.numel() % 32 == 0 and "layer.2" not in name:
                parameter.copy_(on_grid(*parameter.shape, -8, 7))
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "packed", packed=True)
    files = ("plain/model.safetensors", "packed/model.packed.safetensors")
    sizes = [(tmp_path / file).stat().st_size for file in files]
    assert sizes[1] < 0.6 * sizes[0]
    small = MetaNER.from_pretrained(tmp_path / "packed")
    exact = 0
    for (name, one), other in zip(model.network.state_dict().items(), small.network.state_dict().values(), strict=True):
        if one.dim() == 2 and one.numel() % 32 == 0 and "layer.2" not in name:
            assert torch.equal(one, other), name
            exact += 1
        else:
            torch.testing.assert_close(one, other, rtol=2**-11, atol=2**-25)
    assert exact > 12
    small.memory.add(CORPUS)
    small.save_pretrained(tmp_path / "again", packed=True)
    first, second = (load_file(tmp_path / folder / "model.packed.safetensors") for folder in ("packed", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    again = MetaNER.from_pretrained(tmp_path / "again")
    assert len(again.memory) == len(CORPUS)


def test_zeros_of_either_sign_have_one_fingerprint(tmp_path):
    """A block may be packed with its scale's sign turned, which turns its zeros too."""
    model = model_of("bert")
    weight = model.network.bert.encoder.layer[0].attention.self.query.weight
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter.half())
        weight.copy_(on_grid(*weight.shape, -7, 8))
        weight[0, :3] = torch.tensor([-0.0, 0.0, 0.0])
    model.memory.add(CORPUS)
    model.save_pretrained(tmp_path, packed=True)
    loaded = MetaNER.from_pretrained(tmp_path)
    assert loaded.fingerprint == model.fingerprint
    assert len(loaded.memory) == len(Memory.load(model, tmp_path / "memory.sqlite")) == len(CORPUS)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_stays_so(tmp_path, number):
    matrix = on_grid(4, 32, -7, 7)
    matrix[1, 3] = number
    packed, notes = pack_tensors({"w": matrix})
    save_file(packed, tmp_path / "w.safetensors", notes)
    assert torch.equal(unpack_file(tmp_path / "w.safetensors")["w"].nan_to_num(7e4), matrix.nan_to_num(7e4))


def test_scales_of_numbers_near_zero_are_rounded(tmp_path):
    """A float16 of 11 eighths of the smallest one is the smallest one, and 11 steps do not fit into four bits."""
    matrix = torch.zeros(1, 32)
    matrix[0, 0], matrix[0, 5] = 11 * 2.0**-24, 3 * 2.0**-24
    packed, notes = pack_tensors({"w": matrix})
    save_file(packed, tmp_path / "w.safetensors", notes)
    assert torch.equal(unpack_file(tmp_path / "w.safetensors")["w"], matrix)
