"""Vectors that are searched often: with them their norms and 8-bit copy, which a plain search makes anew."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from pymetaner.errors import BankFileError, InputError, SaveError, SettingError
from pymetaner.files import sync
from pymetaner.ops.backends import backend, extension
from pymetaner.ops.topk import IntArray, cosine_topk

__all__ = ["CosineBank"]

FloatArray = NDArray[np.floating[Any]]

_PANEL = 16  # rows that are encoded together, as in csrc/cosine_topk/screening.hpp
_TILE = 64  # what the 8-bit copy of a row is padded to
_FORMAT = "pymetaner cosine bank 2"
_DTYPES = {"F32": np.float32, "F64": np.float64, "I8": np.int8}


class CosineBank:
    """Vectors (N, dim) with what an exact search by cosine needs beside them; kept up to date as rows are appended.

    Beside the float32 rows it holds an 8-bit copy, so it takes 5 bytes an element: 1,000,000 x 768 are 3.9 GB.

    Args:
        dim: the length of a vector.

    Raises:
        SettingError: if dim is not a whole number, 1 or more.

    Example:
        >>> bank = CosineBank(2)
        >>> bank.append(np.array([[1, 0], [0, 1], [2, 2]], np.float32))
        >>> scores, indices = bank.search(np.array([[0, 3]], np.float32), k=2)
        >>> indices
        array([[1, 2]])
    """

    def __init__(self, dim: int) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise SettingError(f"dim is {dim!r}: expected the length of a vector, at least 1")
        self.dim = dim
        self._count = 0
        self._encoded = 0  # rows that have been encoded: all, unless rows came while the extension was not in use
        self._arrays = _Arrays.empty(dim, 0)

    def __len__(self) -> int:
        return self._count

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors (N, dim) as they were appended; a read-only view."""
        count = self._count  # before the arrays: they have room for more
        view = self._arrays.vectors[:count]
        view.flags.writeable = False
        return view

    def append(self, vectors: FloatArray) -> None:
        """Adds vectors (n, dim) behind the others; anything but float32 is converted to it first.

        Raises:
            InputError: if the shape is another, or a vector holds NaN or an infinity; nothing is added then.
        """
        with np.errstate(over="ignore"):  # what is too large becomes an infinity, which is refused
            rows = np.asarray(vectors, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise InputError(f"vectors have the shape {rows.shape}: expected (n, {self.dim})")
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise InputError(f"vectors row {int(np.argmin(finite))} holds NaN or an infinity: give finite vectors")
        if not len(rows):
            return
        count = self._count + len(rows)
        if count > len(self._arrays.norms):
            # Twice the room of before, so that appending one by one costs O(1) a row.
            arrays, encoded = self._arrays.moved(self._count, _room(count)), 0
        else:
            arrays, encoded = self._arrays, self._encoded
        arrays.vectors[self._count : count] = rows
        if backend() == "native":
            arrays.encode(encoded, count)
            encoded = count
        # The count last: whoever reads without a lock sees only complete rows.
        self._arrays, self._encoded, self._count = arrays, encoded, count

    def keep(self, rows: NDArray[np.integer[Any]]) -> None:
        """Drops every vector whose index is not among `rows` (n,), which must ascend."""
        count, encoded = len(rows), 0
        arrays = _Arrays.empty(self.dim, _room(count))
        np.take(self._arrays.vectors[: self._count], rows, axis=0, out=arrays.vectors[:count], mode="clip")
        if backend() == "native":
            arrays.encode(0, count)
            encoded = count
        self._arrays, self._encoded, self._count = arrays, encoded, count

    def snapshot(self) -> CosineBank:
        """A bank of the vectors as they are now, without a copy. What is appended to either is not in the other."""
        bank = CosineBank(self.dim)
        bank._count, bank._encoded = self._count, self._encoded
        bank._arrays = self._arrays.first(bank._count)  # no room behind: an append to the snapshot moves it
        return bank

    def search(
        self, queries: FloatArray, k: int, exclude: IntArray | None = None
    ) -> tuple[NDArray[np.float32], IntArray]:
        """Scores (Q, k) float32 and indices (Q, k) int64 of the k nearest vectors of each query.

        The same, bit for bit, as ``cosine_topk(queries, bank.vectors, k, exclude)``, and sooner.

        Args:
            queries: (Q, dim) of a floating dtype.
            k: how many neighbours, at least 1; may be more than N.
            exclude: (Q,) int64, one index that each query may not find, -1 for none.

        Raises:
            InputError: if shapes or dtypes do not go together, or a query holds NaN or an infinity.
            SettingError: if k is less than 1.
        """
        count = self._count
        if backend() != "native" or self._encoded != count or not _plain(queries, self.dim, k, exclude, count):
            return cosine_topk(queries, self.vectors, k, exclude)
        with np.errstate(over="ignore"):  # what is too large becomes an infinity, which is refused
            rows = np.ascontiguousarray(queries, np.float32)
        arrays = self._arrays.first(count)
        try:
            found: tuple[NDArray[np.float32], IntArray] = extension().search_bank(
                rows, *arrays, k, exclude, torch.get_num_threads()
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        return found

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the bank to a safetensors file, which `open` maps into memory without reading it.

        Raises:
            SaveError: if it cannot be written; what was there before is kept.
        """
        place = Path(path)
        temporary = place.parent / f".{place.name}-{secrets.token_hex(4)}"
        arrays, encoded = self._arrays.first(self._count), self._encoded
        if encoded != self._count:  # what has not been encoded is whatever the allocator had there
            arrays, encoded = _Arrays((arrays.vectors, *map(np.zeros_like, arrays[1:]))), 0
        named = dict(zip(_Arrays.NAMES, arrays, strict=True))
        try:
            save_file(named, temporary, {"format": _FORMAT, "encoded": str(encoded)})
            sync(temporary)
            os.replace(temporary, place)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise SaveError(f"{place} could not be written ({error}); what was there before is kept") from error

    @classmethod
    def open(cls, path: str | PathLike[str]) -> CosineBank:
        """The bank of a file that `save` wrote, mapped: rows are read when a search first needs them.

        The file must not be written to while the bank is in use. The first append copies the bank into memory.

        Raises:
            BankFileError: if the file cannot be read, or is not such a file.
        """
        place = Path(path)
        try:
            arrays, metadata = _mapped(place)
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
            arrays.check()
            bank = cls(arrays.vectors.shape[1])
            bank._arrays, bank._count, bank._encoded = arrays, len(arrays.vectors), int(metadata["encoded"])
            if not 0 <= bank._encoded <= bank._count:
                raise ValueError(f"{bank._encoded} of {bank._count} rows are said to be encoded")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise BankFileError(f"{place} is not a bank that CosineBank.save wrote ({error}): save it again") from error
        return bank


class _Arrays(tuple[NDArray[Any], ...]):
    """Vectors, centre, norms, codes and terms of a bank, in the order in which the extension takes them."""

    NAMES = ("vectors", "center", "norms", "codes", "terms")

    @property
    def vectors(self) -> NDArray[np.float32]:
        return self[0]

    @property
    def norms(self) -> NDArray[np.float64]:
        return self[2]

    @classmethod
    def empty(cls, dim: int, rows: int) -> _Arrays:
        panels, padded = rows // _PANEL, -(-dim // _TILE) * _TILE
        codes = np.empty((panels, padded // 4, _PANEL, 4), np.int8)
        terms = np.empty((panels, 4, _PANEL), np.float32)
        return cls((np.empty((rows, dim), np.float32), np.zeros(padded, np.float32), np.empty(rows), codes, terms))

    def first(self, count: int) -> _Arrays:
        """Views of the first `count` rows and of the panels that they fill."""
        ends = (count, None, count, count // _PANEL, count // _PANEL)
        return _Arrays(array[:end] for array, end in zip(self, ends, strict=True))

    def moved(self, count: int, room: int) -> _Arrays:
        """The first `count` vectors, with room for more, to be encoded anew: around a centre of what is there then."""
        other = _Arrays.empty(self.vectors.shape[1], room)
        np.copyto(other.vectors[:count], self.vectors[:count])
        return other

    def encode(self, old: int, count: int) -> None:
        """Encodes rows [old, count). What searches of the first `old` rows read is not touched.

        Raises:
            InputError: if a row, of a damaged file, is not finite.
        """
        first = old // _PANEL * _PANEL
        vectors, center, _, codes, terms = self.first(count)
        norms = np.empty(count - first)
        behind = (codes[first // _PANEL :], terms[first // _PANEL :])
        try:
            if old == 0:
                center[:] = extension().bank_center(vectors)
            extension().encode_bank(vectors[first:], center, norms, *behind, torch.get_num_threads())
        except ValueError as error:
            raise InputError(f"{error}; the bank stays as it was") from None
        self.norms[old:count] = norms[old - first :]

    def check(self) -> None:
        """Raises ValueError unless shapes and dtypes go together."""
        count, panels = len(self.vectors), len(self.vectors) // _PANEL
        if self.vectors.ndim != 2 or not 0 < self.vectors.shape[1] <= max(len(self[1]), 1):  # what is padded is longer
            raise ValueError(f"vectors have the shape {self.vectors.shape}")
        wanted = _Arrays.empty(self.vectors.shape[1], 0)
        lengths = (count, len(wanted[1]), count, panels, panels)
        for name, array, like, length in zip(_Arrays.NAMES, self, wanted, lengths, strict=True):
            if array.dtype != like.dtype or not array.flags.aligned or array.shape != (length, *like.shape[1:]):
                raise ValueError(f"{name} are {array.dtype} of shape {array.shape}")


def _room(count: int) -> int:
    """How many rows a bank of `count` makes room for."""
    return max(64, 1 << max(count - 1, 0).bit_length())


def _plain(queries: object, dim: int, k: object, exclude: object, count: int) -> bool:
    """Whether nothing is wrong with the arguments of a search; what is wrong, `cosine_topk` explains."""
    if not isinstance(queries, np.ndarray) or queries.ndim != 2 or queries.shape[1] != dim:
        return False
    if queries.dtype.kind != "f" or isinstance(k, bool) or not isinstance(k, int) or not 1 <= k < 2**63:
        return False
    if exclude is None:
        return True
    if not isinstance(exclude, np.ndarray) or exclude.dtype != np.int64 or exclude.shape != (len(queries),):
        return False
    return bool(exclude.flags.c_contiguous and ((exclude >= -1) & (exclude < count)).all())


def _mapped(path: Path) -> tuple[_Arrays, dict[str, str]]:
    """The arrays of a safetensors file as views of the mapped file, and its metadata."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= 2**20:
            raise ValueError("no safetensors header")
        header = json.loads(file.read(length))
    arrays = []
    for name in _Arrays.NAMES:
        entry = header[name]
        begin, end = entry["data_offsets"]
        shape, dtype = tuple(entry["shape"]), np.dtype(_DTYPES[entry["dtype"]])
        if end - begin != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise ValueError(f"the header contradicts itself about {name}")
        if end == begin:
            arrays.append(np.empty(shape, dtype))  # nothing can be mapped of no bytes
        else:
            arrays.append(np.memmap(path, dtype, "r", offset=8 + length + begin, shape=shape))
    return _Arrays(arrays), header.get("__metadata__", {})
