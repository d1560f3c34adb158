"""What may leave a sandbox: tensors exactly as agreed, and typed, counted metrics (T9).

An output arrives as safetensors bytes. It is copied once, read by our own strict parser, held
against its agreed :class:`OutputSpec`, and written anew: names sorted, one header for one set of
tensors. Nothing the script wrote survives but the tensors' values; neither the order of tensors nor
spaces nor metadata can carry a message. What values can carry is said in T10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from svetovid.crypto import canonical
from svetovid.crypto.canonical import load_json
from svetovid.dtypes import ITEM_BYTES, SAFETENSORS
from svetovid.errors import LimitError, ParseError, PolicyError, RefusalError
from svetovid.policy.outputs import MetricSpec, OutputSpec, TensorSpec

__all__ = ["MAX_HEADER_BYTES", "Metrics", "count_nan", "rebuild", "size_of"]

MAX_HEADER_BYTES = 4 << 20
_PREFIX = 8
_EXPONENTS = {
    "float16": b"\x00\x7c",
    "bfloat16": b"\x80\x7f",
    "float32": b"\x00\x00\x80\x7f",
    "float64": b"\x00\x00\x00\x00\x00\x00\xf0\x7f",
}
"""Exponent bits of each byte, least significant byte first (IEEE 754); the rest but the sign is
the mantissa."""
_BLOCK = 1 << 20


def _tensor_bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * ITEM_BYTES[spec.dtype]


def size_of(spec: OutputSpec) -> int:
    """Bytes of an output's tensors, without the header."""
    return sum(_tensor_bytes(t) for t in spec.tensors.values())


def _schema(expected: object, observed: object) -> RefusalError:
    return RefusalError(
        "output.schema",
        expected=expected,
        observed=observed,
        next_step="save what the job's outputs name, or agree on a job with another schema",
    )


def _malformed(expected: str, observed: object = "") -> ParseError:
    return ParseError(
        "output.malformed",
        expected=expected,
        observed=observed,
        next_step="save outputs with svetovid.training.save",
    )


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:_PREFIX], "little")
    if len(data) < _PREFIX or length > len(data) - _PREFIX:
        raise _malformed("a safetensors header", f"{len(data)} bytes, header of {length}")
    if length > MAX_HEADER_BYTES:
        raise LimitError(
            "output.limit",
            expected=f"a header of at most {MAX_HEADER_BYTES} bytes",
            observed=length,
            next_step="save fewer tensors",
        )
    header = load_json(data[_PREFIX : _PREFIX + length], max_bytes=MAX_HEADER_BYTES, max_depth=4)
    if not isinstance(header, dict):
        raise _malformed("a header that is an object", type(header).__name__)
    return header, _PREFIX + length


def _span(name: str, entry: object, spec: TensorSpec) -> tuple[int, int]:
    """Where a tensor says it is, once its type and shape are the agreed ones."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _malformed("dtype, shape and data_offsets for each tensor", name)
    shape = entry["shape"]
    if (
        not isinstance(shape, list)
        or any(type(n) is not int for n in shape)
        or (entry["dtype"], tuple(shape)) != (SAFETENSORS[spec.dtype], spec.shape)
    ):
        raise _schema(
            f"{name}: {SAFETENSORS[spec.dtype]} {list(spec.shape)}", f"{entry['dtype']} {shape}"
        )
    offsets = entry["data_offsets"]
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or any(type(n) is not int for n in offsets)
    ):
        raise _malformed("two offsets", name)
    start, end = offsets
    if end - start != _tensor_bytes(spec) or start < 0:
        raise _malformed(f"{name} to span {_tensor_bytes(spec)} bytes", f"{start} to {end}")
    return start, end


def rebuild(data: bytes | bytearray | memoryview, spec: OutputSpec) -> tuple[bytes, int]:
    """Validate one output and write it anew.

    Args:
        data: safetensors bytes, perhaps in memory that others still write to: copied once, first.
        spec: what was agreed.

    Returns:
        canonical safetensors bytes, and how many NaN are in them.

    Raises:
        RefusalError: ``output.schema``, ``output.metadata``.
        ParseError: ``output.malformed``, or ``json.*`` for the header.
        LimitError: ``output.limit``.
    """
    if len(data) > _PREFIX + MAX_HEADER_BYTES + size_of(spec):
        raise LimitError(
            "output.limit",
            expected=f"{size_of(spec)} bytes of tensors and a header",
            observed=f"{len(data)} bytes",
            next_step="save what the job's outputs name",
        )
    mine = bytes(data)
    header, base = _header(mine)
    if "__metadata__" in header:
        raise RefusalError(
            "output.metadata",
            expected="tensors only",
            observed="__metadata__",
            next_step="save tensors without metadata",
        )
    if header.keys() != spec.tensors.keys():
        missing = sorted(spec.tensors.keys() - header.keys())
        extra = len(header.keys() - spec.tensors.keys())
        # Names that were not agreed are free text: they are counted, not repeated.
        raise _schema(
            f"{len(spec.tensors)} agreed tensors", f"missing {missing[:4]}, {extra} not agreed"
        )
    spans = {name: _span(name, header[name], t) for name, t in spec.tensors.items()}
    position = 0
    for start, end in sorted(spans.values()):
        if start != position:
            raise _malformed("tensors without gaps or overlaps", f"{start} after {position}")
        position = end
    if position != len(mine) - base:
        raise _malformed(f"{position} bytes of tensors", f"{len(mine) - base}")
    return _write(memoryview(mine)[base:], spans, spec)


def _write(
    content: memoryview, spans: Mapping[str, tuple[int, int]], spec: OutputSpec
) -> tuple[bytes, int]:
    # Widest type first, as the format's own writer does it: every tensor is then aligned.
    order = sorted(spans, key=lambda n: (-ITEM_BYTES[spec.tensors[n].dtype], n))
    header: dict[str, object] = {}
    parts: list[memoryview] = []
    position = nan = 0
    for name in order:
        tensor = spec.tensors[name]
        part = content[slice(*spans[name])]
        if tensor.dtype == "bool" and bytes(part).translate(None, b"\0\1"):
            raise _malformed(f"{name}: a bool is 0 or 1", "another byte")
        nan += count_nan(part, tensor.dtype)
        header[name] = {
            "dtype": SAFETENSORS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + len(part)],
        }
        position += len(part)
        parts.append(part)
    text = canonical(header)
    text = text.ljust(-(-len(text) // 8) * 8)
    return b"".join((len(text).to_bytes(_PREFIX, "little"), text, *parts)), nan


def count_nan(data: memoryview, dtype: str) -> int:
    """How many values of ``data`` are NaN; 0 for types that have none. Linear, whatever is in it.

    A byte plane at a time: a value is NaN where all exponent bits are set and the mantissa is not
    zero. Planes of 0 and 1 are combined as big integers, which is one pass in C for each.
    """
    exponents = _EXPONENTS.get(dtype)
    if exponents is None:
        return 0
    width, total = len(exponents), 0
    for start in range(0, len(data), _BLOCK):
        block = bytes(data[start : start + _BLOCK])
        exponent, mantissa = -1, 0
        for i, bits in enumerate(exponents):
            plane = block[i::width]
            rest = ~bits & (0x7F if i == width - 1 else 0xFF)
            if bits:
                exponent &= _flags(plane, bytes(b & bits == bits for b in range(256)))
            mantissa |= _flags(plane, bytes(b & rest != 0 for b in range(256)))
        total += (exponent & mantissa).bit_count()
    return total


def _flags(plane: bytes, table: bytes) -> int:
    return int.from_bytes(plane.translate(table), "little")


class Metrics:
    """Counts and checks metrics as they come; what is agreed and nothing more."""

    def __init__(self, agreed: Mapping[str, MetricSpec]) -> None:
        self._agreed = dict(agreed)
        self.values: dict[str, list[float]] = {name: [] for name in agreed}

    def add(self, name: str, value: object) -> None:
        """Take one value.

        Raises:
            PolicyError: ``metric.unknown``, ``metric.type``.
            LimitError: ``metric.limit``.
        """
        spec = self._agreed.get(name)
        if spec is None:
            raise PolicyError(
                "metric.unknown",
                expected=f"one of {', '.join(sorted(self._agreed)) or 'no metrics at all'}",
                observed="a metric that was not agreed",
                next_step="log what the job's metrics name",
            )
        wanted = int if spec.type == "int" else float
        if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
            raise PolicyError(
                "metric.type",
                expected=f"{name}: a finite {spec.type}",
                observed=type(value).__name__,
                next_step=f"log {name} as {spec.type}",
            )
        if len(self.values[name]) >= spec.max_count:
            raise LimitError(
                "metric.limit",
                expected=f"at most {spec.max_count} values of {name}",
                observed="one more",
                next_step="log less often",
            )
        assert isinstance(value, int | float)
        self.values[name].append(value)
