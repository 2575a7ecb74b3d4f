"""CosineBank: the answers of a plain search, however its rows came."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_backends import INSTRUCTION_SETS, using

from pymetaner import ops
from pymetaner.errors import BankFileError, InputError, SaveError, SettingError
from pymetaner.ops import CosineBank


def rows(seed, count, dim=19):
    return np.random.default_rng(seed).standard_normal((count, dim), np.float32)


def filled(*counts, dim=19):
    bank = CosineBank(dim)
    for i, count in enumerate(counts):
        bank.append(rows(i, count, dim))
    return bank


def assert_searches(bank, vectors, k=5):
    queries = rows(99, 9, bank.dim)
    exclude = np.arange(9) % (len(vectors) + 1) - 1
    np.testing.assert_array_equal(bank.vectors, vectors)
    for left_out in (None, exclude):
        expected = ops.cosine_topk(queries, vectors, k, left_out)
        for actual, wanted in zip(bank.search(queries, k, left_out), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted, strict=True)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 80), st.floats(0, 1)), max_size=8))
def test_any_appends_and_removals(name, steps):
    """A whole number appends so many rows, a fraction keeps so much of them."""
    with using(name):
        bank, vectors = CosineBank(19), np.empty((0, 19), np.float32)
        snapshots = []
        for i, step in enumerate(steps):
            if isinstance(step, int):
                bank.append(rows(i, step))
                vectors = np.concatenate([vectors, rows(i, step)])
            else:
                kept = np.flatnonzero(np.random.default_rng(i).random(len(vectors)) < step)
                bank.keep(kept)
                vectors = vectors[kept]
            snapshots.append((bank.snapshot(), vectors))
        for snapshot, then in snapshots:
            assert_searches(snapshot, then)


def test_what_is_appended_to_a_snapshot_is_not_in_the_bank():
    bank = filled(20)
    snapshot = bank.snapshot()
    snapshot.append(rows(1, 30))
    bank.append(rows(2, 3))
    assert_searches(bank, np.concatenate([rows(0, 20), rows(2, 3)]))
    assert_searches(snapshot, np.concatenate([rows(0, 20), rows(1, 30)]))


def test_rows_that_came_without_the_extension():
    with using("reference"):
        bank = filled(40)
        assert_searches(bank, rows(0, 40))
    assert_searches(bank, rows(0, 40))
    bank.append(rows(1, 40))
    assert_searches(bank, np.concatenate([rows(0, 40), rows(1, 40)]))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300])
def test_a_saved_bank_is_mapped(tmp_path, count):
    filled(count).save(tmp_path / "bank")
    bank = CosineBank.open(tmp_path / "bank")
    assert count == 0 or isinstance(bank._arrays.vectors, np.memmap)
    assert_searches(bank, rows(0, count))
    before = (tmp_path / "bank").read_bytes()
    bank.append(rows(1, 20))
    assert_searches(bank, np.concatenate([rows(0, count), rows(1, 20)]))
    assert (tmp_path / "bank").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "bank"
    filled(40).save(path)
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[:7],
        whole[:100],
        whole[:-1],
        whole.replace(b"pymetaner cosine bank", b"another cosine bank"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(BankFileError, match="bank is not a bank that"):
            CosineBank.open(path)
    path.write_bytes(whole.replace(b'"norms"', b'"morns"'))
    with pytest.raises(BankFileError):
        CosineBank.open(path)
    with pytest.raises(BankFileError):
        CosineBank.open(tmp_path / "nothing")
    with pytest.raises(SaveError, match="could not be written"):
        filled(3).save(tmp_path / "no" / "folder")


def test_errors():
    bank = filled(20)
    with pytest.raises(SettingError, match="dim is 0"):
        CosineBank(0)
    with pytest.raises(InputError, match=r"shape \(2, 3\): expected \(n, 19\)"):
        bank.append(np.ones((2, 3), np.float32))
    bad = rows(1, 3)
    bad[1, 4] = np.nan
    with pytest.raises(InputError, match="vectors row 1 holds NaN"):
        bank.append(bad)
    with pytest.raises(SettingError, match="below 2"):
        bank.search(rows(1, 2), 2**63)
    with pytest.raises(InputError, match="queries row 0 holds NaN"):
        bank.search(np.full((1, 19), np.inf, np.float32), 1)
    with pytest.raises(InputError, match="3 dimensions"):
        bank.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(SettingError, match="k is 0"):
        bank.search(rows(0, 1), 0)
    with pytest.raises(InputError, match=r"exclude\[0\] is 20"):
        bank.search(rows(0, 1), 1, np.array([20]))
    assert_searches(bank, rows(0, 20))


def test_the_extension_checks_what_it_is_given():
    from pymetaner import _cpu

    vectors, center, norms, codes, terms = filled(40)._arrays.first(32)
    wide = np.ascontiguousarray(np.full_like(center, 0.2))
    for arguments, words in [
        ((vectors, center, norms[:3], codes, terms), "norms has 3 elements: expected 32"),
        ((vectors, center[:19], norms, codes, terms), "center has 19 elements: expected 64"),
        ((vectors, wide, norms, codes, terms), "squared length 2.56"),
        ((vectors, center * np.nan, norms, codes, terms), "squared length nan"),
        ((vectors, center, norms, codes[:1], terms), "terms has 2 elements: expected 1"),
        ((vectors, center, norms, codes, terms[:, :3].copy()), r"terms are not \(panels, 4, 16\)"),
        ((vectors[:31], center, norms[:31], codes, terms), "2 panels for 31 rows: expected at most 1"),
        ((vectors, center, norms, codes[:, :, :, ::2], terms), "not contiguous"),
        ((vectors, center, norms.astype(np.float32), codes, terms), "dtype float32"),
    ]:
        with pytest.raises(ValueError, match=words):
            _cpu.search_bank(vectors[:1], *arguments, 1)
        with pytest.raises(ValueError, match=words):
            _cpu.encode_bank(*arguments)
    norms.flags.writeable = False
    with pytest.raises(ValueError, match="must be writeable"):
        _cpu.encode_bank(vectors, center, norms, codes, terms)


@pytest.mark.parametrize("first", [INSTRUCTION_SETS[-1], "reference"])
def test_no_rows_change_nothing_anywhere(first, tmp_path):
    away = 5 + rows(0, 48)
    with using(first):
        bank = CosineBank(19)
        bank.append(rows(1, 20))
        bank.keep(np.array([], np.int64))
        snapshot = bank.snapshot()
        bank.append(away)
    with using(INSTRUCTION_SETS[-1]):
        other = bank.snapshot()
        bank.append(away)
        for each in (snapshot, other):
            each.append(np.empty((0, 19), np.float32))
        assert_searches(bank, np.concatenate([away, away]))
        bank.save(tmp_path / "bank.safetensors")
        mapped = CosineBank.open(tmp_path / "bank.safetensors")
        mapped.append(np.empty((0, 19), np.float32))
        assert_searches(mapped, np.concatenate([away, away]))


def test_what_was_not_encoded_is_saved_as_zeros(tmp_path):
    with using("reference"):
        bank = filled(40)
        bank._arrays[3].fill(83)  # whatever was in that memory before
    bank.save(tmp_path / "bank.safetensors")
    assert bytes([83]) * 64 not in (tmp_path / "bank.safetensors").read_bytes()
    assert_searches(CosineBank.open(tmp_path / "bank.safetensors"), rows(0, 40))


def test_a_row_that_is_no_number_in_a_mapped_file_spoils_no_other(tmp_path):
    filled(400).save(tmp_path / "bank.safetensors")
    bad = np.array(CosineBank.open(tmp_path / "bank.safetensors").vectors[3])
    content = (tmp_path / "bank.safetensors").read_bytes()
    damaged = bad.copy()
    damaged[0] = np.nan
    (tmp_path / "bank.safetensors").write_bytes(content.replace(bad.tobytes(), damaged.tobytes()))
    bank, queries = CosineBank.open(tmp_path / "bank.safetensors"), rows(99, 200)
    others = np.delete(np.arange(400), 3)
    _, wanted = ops.cosine_topk(queries, bank.vectors[others], 3)
    scores, indices = bank.search(queries, 4)
    for row, found, expected in zip(scores, indices, others[wanted], strict=True):
        assert not np.isnan(row).any()
        assert [i for i in found if i != 3][:3] == expected.tolist()
    for change in (lambda: bank.append(rows(1, 2)), lambda: bank.keep(np.arange(10))):
        with pytest.raises(InputError, match=r"row 3.*stays as it was"):
            change()
        assert len(bank) == 400


@pytest.mark.parametrize(
    "header",
    [
        "[" * 5000,
        '{"__metadata__": 5}',
        '{"__metadata__": [], "vectors": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}',
        '{"vectors": {"dtype": "F32", "shape": [1180591620717411303424, 1], "data_offsets": [0, 4]}}',
        '{"vectors": {"dtype": "F32", "shape": [1, 1], "data_offsets": [-900, -896]}}',
        '{"vectors": {"dtype": "F32", "shape": [1, 1], "data_offsets": [1e30, 1e30]}}',
        '{"vectors": {"dtype": "F32", "shape": [1, true], "data_offsets": "ab"}}',
    ],
)
def test_headers_that_say_what_cannot_be(tmp_path, header):
    (tmp_path / "bad").write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(64))
    with pytest.raises(BankFileError):
        CosineBank.open(tmp_path / "bad")


def test_metadata_and_shapes_that_say_what_cannot_be(tmp_path):
    filled(40).save(tmp_path / "good")
    content = (tmp_path / "good").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].decode()
    assert '"encoded":"40"' in header
    empty = '"shape":[40,19]'
    assert empty in header
    for old, new in (
        ('"encoded":"40"', '"encoded":"41"'),
        ('"encoded":"40"', '"encoded":"4x"'),
        ('"encoded":"40"', '"encoded":1e999'),
        (empty, '"shape":[19,40]'),
        (empty, '"shape":[760]'),
    ):
        changed = header.replace(old, new).encode()
        (tmp_path / "bad").write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
        with pytest.raises(BankFileError):
            CosineBank.open(tmp_path / "bad")
    with pytest.raises(SaveError):
        filled(3).save("")


def test_readers_beside_an_append_see_whole_rows():
    bank, stop = CosineBank(8), threading.Event()
    wrong = []

    def look():
        while not stop.is_set():
            if not (bank.vectors == 1.0).all():
                wrong.append(len(bank))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(300):
            bank = CosineBank(8)
            for _ in range(12):
                bank.append(np.ones((11, 8), np.float32))
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert not wrong
