"""Tensors as safetensors bytes and back, with torch alone; and views of records."""

from __future__ import annotations

import ctypes
import json
import math
import warnings
from collections.abc import Mapping
from typing import Any

from svetovid.dtypes import SAFETENSORS

__all__ = ["columns", "pack", "unpack"]

_NAMES = {code: name for name, code in SAFETENSORS.items()}

Tensor = Any
"""``torch.Tensor``; torch is imported only where a tensor is at hand."""


def _name(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in SAFETENSORS:
        raise TypeError(f"tensors of {dtype} do not leave a sandbox")
    return name


def pack(tensors: Mapping[str, Tensor]) -> bytearray:
    """safetensors bytes of ``tensors`` (any device, any layout)."""
    ready = {k: v.detach().to("cpu").contiguous() for k, v in tensors.items() if _name(v.dtype)}
    order = sorted(ready, key=lambda k: (-ready[k].element_size(), k))
    header: dict[str, object] = {}
    position = 0
    for key in order:
        end = position + ready[key].numel() * ready[key].element_size()
        header[key] = {
            "dtype": SAFETENSORS[_name(ready[key].dtype)],
            "shape": list(ready[key].shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    out = bytearray(8 + len(text) + position)
    out[: 8 + len(text)] = len(text).to_bytes(8, "little") + text
    room = memoryview(out)
    at = 8 + len(text)
    for key in order:
        size = ready[key].numel() * ready[key].element_size()
        if size:
            target = (ctypes.c_char * size).from_buffer(room, at)
            ctypes.memmove(target, ready[key].data_ptr(), size)
            del target
        at += size
    return out


def _flat(buffer: memoryview) -> Tensor:
    """One uint8 tensor over ``buffer``, without a copy. Read-only memory must not be written."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(buffer, dtype=torch.uint8)


def unpack(data: bytes | memoryview) -> dict[str, Tensor]:
    """Tensors of safetensors bytes: views where they are aligned, copies elsewhere.

    Raises:
        ValueError: for bytes that are not of this format.
    """
    import torch

    view = memoryview(data)
    length = int.from_bytes(view[:8], "little")
    header = json.loads(bytes(view[8 : 8 + length]))
    out: dict[str, Tensor] = {}
    body = view[8 + length :]
    flat = _flat(body) if len(body) else torch.empty(0, dtype=torch.uint8)
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        dtype = getattr(torch, _NAMES[entry["dtype"]])
        start, end = entry["data_offsets"]
        out[key] = _typed(flat[start:end], dtype).view(entry["shape"])
    return out


def _typed(flat: Tensor, dtype: Any) -> Tensor:
    aligned = flat.data_ptr() % dtype.itemsize == 0
    return (flat if aligned else flat.clone()).view(dtype)


def columns(buffer: memoryview, schema: Mapping[str, Any]) -> dict[str, Tensor]:
    """Field name to a tensor of shape ``(records, *shape)`` over ``buffer``, without a copy.

    Records stand one after the other, so a column is a strided view. A field whose place or whose
    record size is not a multiple of its item size cannot be one: it is given as its raw bytes,
    ``(records, nbytes)`` uint8, which :func:`typed_rows` turns into values.
    """
    import torch

    fields = [
        (f["name"], getattr(torch, f["dtype"]), tuple(f.get("shape", ()))) for f in schema["fields"]
    ]
    sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in fields]
    record, records = sum(sizes), schema["records"]
    flat = _flat(buffer) if len(buffer) else torch.empty(0, dtype=torch.uint8)
    table = flat.view(records, record)
    out: dict[str, Tensor] = {}
    start = 0
    for (name, dtype, shape), size in zip(fields, sizes, strict=True):
        rows = table[:, start : start + size]
        item = dtype.itemsize
        if start % item == 0 and record % item == 0 and flat.data_ptr() % item == 0:
            rows = typed_rows(rows, dtype, shape)
        out[name] = rows
        start += size
    return out


def typed_rows(rows: Tensor, dtype: Any, shape: tuple[int, ...]) -> Tensor:
    """Rows of bytes as values of ``shape``; a view where memory allows it, else a copy."""
    item = dtype.itemsize
    if rows.stride(0) % item or rows.data_ptr() % item or rows.storage_offset() % item:
        rows = rows.clone(memory_format=_contiguous())
    typed = rows.view(dtype)
    if not shape:
        return typed[:, 0]
    inner: list[int] = []
    step = 1
    for length in reversed(shape):
        inner.insert(0, step)
        step *= length
    return typed.as_strided((len(rows), *shape), (typed.stride(0), *inner))


def _contiguous() -> Any:
    import torch

    return torch.contiguous_format
