"""Datasets: columns in, typed records out, each readable at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

from svetovid.assets.format import flat
from svetovid.assets.manifest import FieldSpec, Manifest, RecordSchema
from svetovid.assets.seal import Terms, seal_stream
from svetovid.crypto import Secret
from svetovid.errors import ParseError

__all__ = ["seal_dataset"]

DATASET_CHUNK_BYTES = 64 << 10
_BATCH_BYTES = 1 << 20
_DTYPES: dict[tuple[str, int], str] = {
    ("?", 1): "bool",
    ("B", 1): "uint8",
    ("b", 1): "int8",
    ("h", 2): "int16",
    ("i", 4): "int32",
    ("l", 4): "int32",
    ("l", 8): "int64",
    ("q", 8): "int64",
    ("e", 2): "float16",
    ("f", 4): "float32",
    ("d", 8): "float64",
}
"""Buffer format (PEP 3118) and item size to PyTorch's name of the type."""


def seal_dataset(
    url: str,
    columns: Mapping[str, Any],
    **terms: Unpack[Terms],
) -> tuple[Manifest, Secret]:
    """Seal columns as records: row i of every column, end to end, in the order of ``columns``.

    Args:
        columns: field name to array of shape (records, ...): anything with a C-contiguous,
            little-endian buffer, for example a NumPy array, or ``tensor.numpy()``.
        terms: as :func:`seal_stream`; chunks of 64 KiB by default.

    Raises:
        ParseError: ``dataset.columns`` for none, or columns of different lengths;
            ``dataset.layout`` for a buffer that is not C-contiguous or has no rows;
            ``dataset.dtype`` for a type that records cannot hold; ``document.invalid``.
        InputError, HostError, TransportError: as :func:`seal_stream`.
    """
    views = {field: _view(field, column) for field, column in columns.items()}
    shapes = {field: view.shape or () for field, view in views.items()}
    counts = {shape[0] for shape in shapes.values()}
    if len(counts) != 1:
        raise ParseError(
            "dataset.columns",
            expected="at least one column, all with as many rows",
            observed=", ".join(f"{f}: {s[0]}" for f, s in shapes.items()) or "no column",
            next_step="cut the columns to one length",
        )
    records = counts.pop()
    fields = [
        {"name": f, "dtype": _dtype(f, v), "shape": list(shapes[f][1:])} for f, v in views.items()
    ]
    terms.setdefault("chunk_bytes", DATASET_CHUNK_BYTES)
    schema = RecordSchema.from_json({"fields": fields, "records": records})
    return seal_stream(
        url,
        _rows([flat(v) for v in views.values()], schema.fields, records),
        kind="dataset",
        record_schema=schema,
        **terms,
    )


def _view(field: str, column: Any) -> memoryview:
    try:
        view = memoryview(column)
    except TypeError:
        view = None
    if view is None or not view.ndim or not view.c_contiguous or 0 in (view.shape or ())[1:]:
        raise ParseError(
            "dataset.layout",
            expected=f"column {field} as a C-contiguous array of shape (records, ...)",
            observed=type(column).__name__,
            next_step="numpy.ascontiguousarray(column), or tensor.contiguous().numpy()",
        )
    return view


def _dtype(field: str, view: memoryview) -> str:
    # "<" and "=" say little-endian here, "@" and none say native, which on Linux hosts is the same.
    dtype = _DTYPES.get((view.format.lstrip("@=<"), view.itemsize))
    if dtype is None:
        raise ParseError(
            "dataset.dtype",
            expected=f"column {field} as one of {', '.join(sorted(set(_DTYPES.values())))}",
            observed=f"buffer format {view.format!r}",
            next_step="convert the column, for example to float32 or int64",
        )
    return dtype


def _rows(
    columns: list[memoryview], fields: tuple[FieldSpec, ...], records: int
) -> Iterator[bytes | memoryview]:
    """The records' bytes in portions of about a mebibyte."""
    if len(columns) == 1:
        yield columns[0]
        return
    sizes = [f.nbytes for f in fields]
    rows = max(1, _BATCH_BYTES // sum(sizes))
    pairs = list(zip(columns, sizes, strict=True))
    for start in range(0, records, rows):
        yield b"".join(
            column[row * size : (row + 1) * size]
            for row in range(start, min(start + rows, records))
            for column, size in pairs
        )
