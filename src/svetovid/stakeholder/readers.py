"""Data files as owners have them, as columns of typed records: NumPy, CSV, IDX, CIFAR-10.

All are read without NumPy and without pickle; one row of every column makes one record. Sources:
NumPy's NEP 1 (``.npy`` format 1-3), RFC 4180, the IDX note of the MNIST database, the page of
CIFAR-10 (Krizhevsky, 2009) on its binary version.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import math
import re
import struct
import sys
import zipfile
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from svetovid.dtypes import ITEM_BYTES
from svetovid.errors import InputError, LimitError, ParseError

__all__ = ["MAX_DATA_BYTES", "Column", "read_columns"]

MAX_DATA_BYTES = 8 << 30
"""Of one column: all of it is held in memory while it is sealed."""
MAX_COLUMNS = 256
_MAX_RANK = 8
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
_NPY = {
    "?": "bool",
    "b1": "bool",
    "u1": "uint8",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
}
_CIFAR10_RECORD = 1 + 3 * 32 * 32
_IDX = {8: ("uint8", 1), 9: ("int8", 1), 11: ("int16", 2), 12: ("int32", 4)} | {
    13: ("float32", 4),
    14: ("float64", 8),
}
_FORMATS = {"bool": "?", "uint8": "B", "int8": "b", "int16": "h", "int32": "i", "int64": "q"} | {
    "float32": "f",
    "float64": "d",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One field of all records.

    Attributes:
        dtype: as PyTorch names it.
        shape: records first, then the shape of one record's part.
        data: little-endian, C order.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray

    def view(self) -> Any:
        """The column as a typed, shaped buffer (PEP 3118)."""
        if self.dtype == "float16":  # memoryview cannot cast to it before Python 3.12
            import numpy as np

            return np.frombuffer(self.data, dtype="<f2").reshape(self.shape)
        cast: Any = memoryview(self.data).cast
        return cast(_FORMATS[self.dtype], self.shape)


def read_columns(path: Path) -> dict[str, Column]:
    """Columns of a data file, by name; the ending says which format it is.

    ``.npz``: its arrays. ``.npy``: one column ``x``. ``.csv``: a header line and numbers, ``int64``
    where a column holds only integers, else ``float64``. ``-idx?-ubyte``, ``.idx``, also with
    ``.gz``: one column ``x``, or ``label`` where it has one dimension. ``data_batch_N.bin`` and
    ``test_batch.bin``, CIFAR-10's binary version: ``image`` uint8 [3, 32, 32], red, green and blue,
    and ``label`` uint8.

    Raises:
        InputError: ``data.kind`` for another ending, ``file.unreadable``.
        LimitError: ``data.size``.
        ParseError: ``data.malformed``, ``data.dtype``, ``data.shape``.
    """
    name = path.name.lower()
    read: Callable[[IO[bytes]], dict[str, Column]]
    if name.endswith(".npz"):
        read = _npz
    elif name.endswith(".npy"):
        read = _npy_file
    elif name.endswith(".csv"):
        read = _csv
    elif re.search(r"(\.idx|-idx\d-ubyte)(\.gz)?$", name):
        read = _idx_gz if name.endswith(".gz") else _idx
    elif re.fullmatch(r"(data_batch_\d|test_batch)\.bin", name):
        read = _cifar10
    else:
        raise InputError(
            "data.kind",
            expected=".npz, .npy, .csv, IDX (.gz) or CIFAR-10's .bin; a folder for code; "
            ".safetensors for a model",
            observed=path.name,
            next_step="convert the file, for example with numpy.savez",
        )
    try:
        if not path.is_file():
            raise InputError(
                "file.unreadable",
                expected="a data file",
                observed=str(path),
                next_step="check the path",
            )
        with path.open("rb") as f:
            return _checked(read(f), path)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as e:
        raise _malformed(path.name, f"{type(e).__name__}: {e}") from e


def _checked(columns: dict[str, Column], path: Path) -> dict[str, Column]:
    rows = {c.shape[0] if c.shape else 0 for c in columns.values()}
    if len(rows) != 1 or rows == {0}:
        raise ParseError(
            "data.shape",
            expected="columns of one and the same number of rows, at least one",
            observed=f"{path.name}: {sorted(rows)}",
            next_step="give every column one row a record",
        )
    if len(columns) > MAX_COLUMNS:
        raise _too_large(f"at most {MAX_COLUMNS} columns", len(columns))
    for name in columns:
        if not _NAME.fullmatch(name):
            raise ParseError(
                "data.malformed",
                expected="column names in lower case ASCII",
                observed=name,
                next_step="rename the column",
            )
    return columns


def _malformed(what: str, observed: object) -> ParseError:
    return ParseError(
        "data.malformed",
        expected=f"a well-formed file ({what})",
        observed=observed,
        next_step="write the file again",
    )


def _shape(expected: str, observed: object) -> ParseError:
    return ParseError(
        "data.shape",
        expected=expected,
        observed=observed,
        next_step="reshape the array, for example with numpy.ascontiguousarray",
    )


def _too_large(expected: str, observed: object) -> LimitError:
    return LimitError(
        "data.size", expected=expected, observed=observed, next_step="split it into several assets"
    )


def _bytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    if len(shape) > _MAX_RANK or any(n < 0 for n in shape):
        raise _shape(f"at most {_MAX_RANK} dimensions", shape)
    size = ITEM_BYTES[dtype] * math.prod(shape)
    if size > MAX_DATA_BYTES:
        raise _too_large(f"at most {MAX_DATA_BYTES} bytes", size)
    return size


def _exactly(f: IO[bytes], size: int) -> bytearray:
    """``size`` bytes and then the end; never allocates much more than what is really there."""
    data = bytearray()
    while len(data) <= size and (block := f.read(min(size + 1 - len(data), 1 << 20))):
        data += block
    if len(data) != size:
        raise _malformed("as long as its header says", f"{len(data)} of {size} bytes or more")
    return data


def _npz(f: IO[bytes]) -> dict[str, Column]:
    with zipfile.ZipFile(f) as z:
        entries = z.infolist()
        if len(entries) > MAX_COLUMNS:
            raise _too_large(f"at most {MAX_COLUMNS} arrays", len(entries))
        columns: dict[str, Column] = {}
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name in columns or entry.flag_bits & 1 or entry.compress_type not in (0, 8):
                raise _malformed("each array once, stored or deflated", name)
            with z.open(entry) as member:
                columns[name] = _npy(member)
        return columns


def _npy_file(f: IO[bytes]) -> dict[str, Column]:
    return {"x": _npy(f)}


def _npy(f: IO[bytes]) -> Column:
    magic = f.read(8)
    if magic[:6] != b"\x93NUMPY" or len(magic) < 8 or magic[6] not in (1, 2, 3):
        raise _malformed("a .npy array of format 1 to 3", magic.hex())
    form = "<H" if magic[6] == 1 else "<I"
    raw = f.read(struct.calcsize(form))
    length = struct.unpack(form, raw)[0] if len(raw) == struct.calcsize(form) else -1
    if not 0 < length <= 1 << 16:
        raise _malformed("a header of at most 64 KiB", length)
    try:
        header = ast.literal_eval(f.read(length).decode("latin-1").strip())
        order, descr, shape = header["fortran_order"], header["descr"], header["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as e:
        raise _malformed("a .npy header", type(e).__name__) from e
    if order is not False or not isinstance(shape, tuple):
        raise _shape("arrays in C order", f"{order} {shape}")
    if not all(type(n) is int for n in shape):
        raise _shape("whole numbers", shape)
    known = _NPY.get(descr[1:]) if isinstance(descr, str) and descr[:1] in ("<", "|") else None
    if known is None:
        raise ParseError(
            "data.dtype",
            expected="a little-endian number type; no objects, no text",
            observed=descr,
            next_step="convert it, for example with .astype('<f4')",
        )
    return Column(known, shape, _exactly(f, _bytes_of(known, shape)))


def _idx_gz(f: IO[bytes]) -> dict[str, Column]:
    with gzip.GzipFile(fileobj=f) as g:
        return _idx(g)


def _idx(f: IO[bytes] | gzip.GzipFile) -> dict[str, Column]:
    head = f.read(4)
    if len(head) != 4 or head[:2] != b"\0\0" or head[2] not in _IDX or not 1 <= head[3] <= 8:
        raise _malformed("an IDX header", head.hex())
    dtype, width = _IDX[head[2]]
    raw = f.read(4 * head[3])
    if len(raw) != 4 * head[3]:
        raise _malformed("an IDX header", "too short")
    shape = struct.unpack(f">{head[3]}I", raw)
    data: bytes | bytearray = _exactly(f, _bytes_of(dtype, shape))  # type: ignore[arg-type]
    if width > 1:  # IDX is big-endian
        swapped = array({2: "h", 4: "i", 8: "d"}[width], data)
        if sys.byteorder == "little":
            swapped.byteswap()
        data = swapped.tobytes()
    return {"label" if len(shape) == 1 else "x": Column(dtype, shape, data)}


def _cifar10(f: IO[bytes]) -> dict[str, Column]:
    """Records of a label and three planes of pixels, with nothing between or around them."""
    labels, images = bytearray(), bytearray()
    while record := f.read(_CIFAR10_RECORD):
        if len(record) != _CIFAR10_RECORD or record[0] > 9:
            raise _malformed(f"records of {_CIFAR10_RECORD} bytes, labels 0 to 9", record[:1].hex())
        labels += record[:1]
        images += record[1:]
        if len(images) > MAX_DATA_BYTES:
            raise _too_large(f"at most {MAX_DATA_BYTES:,} bytes", len(images))
    return {
        "image": Column("uint8", (len(labels), 3, 32, 32), images),
        "label": Column("uint8", (len(labels),), labels),
    }


def _csv(f: IO[bytes]) -> dict[str, Column]:
    text = io.TextIOWrapper(f, encoding="utf-8-sig", newline="")
    values: list[array[float]] = []
    names: list[str] = []
    whole: list[bool] = []
    try:
        for number, row in enumerate(csv.reader(text, strict=True)):
            if number == 0:
                names = [n.strip() for n in row]
                if len(names) > MAX_COLUMNS or len(set(names)) != len(names):
                    raise _malformed("a header line of at most 256 different names", len(names))
                values = [array("d") for _ in names]
                whole = [True] * len(names)
                continue
            if len(row) != len(names):
                raise _malformed(f"{len(names)} values a line", f"{len(row)} in line {number + 1}")
            for i, cell in enumerate(row):
                value = float(cell)
                if not math.isfinite(value):
                    raise _malformed("finite numbers", f"line {number + 1}, column {names[i]}")
                whole[i] = whole[i] and value.is_integer() and abs(value) < 2**53
                values[i].append(value)
    except (csv.Error, ValueError) as e:
        raise _malformed("numbers separated by commas, UTF-8", e) from e
    finally:
        text.detach()
    return {name: _number_column(v, w) for name, v, w in zip(names, values, whole, strict=True)}


def _number_column(values: array[float], whole: bool) -> Column:
    typed = array("q", map(int, values)) if whole else values
    if sys.byteorder == "big":
        typed.byteswap()
    return Column("int64" if whole else "float64", (len(values),), typed.tobytes())
