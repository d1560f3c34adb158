"""The part of CBOR (RFC 8949) that a CoRIM needs, written in its core deterministic form.

Nothing here reads CBOR, and nothing decides about trust: a writer of this size needs no library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Item", "Tagged", "encode"]


@dataclass(frozen=True, slots=True)
class Tagged:
    """An item under a tag (section 3.4)."""

    tag: int
    item: Any


Item: TypeAlias = int | str | bytes | Tagged | Sequence[Any] | Mapping[Any, Any]
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | code]) + value.to_bytes(size, "big")
    raise ValueError(f"no integer of 64 bits: {value}")


def encode(item: Item) -> bytes:
    """The one encoding of ``item``: shortest heads, definite lengths, keys in bytewise order."""
    if isinstance(item, int):
        return _head(_UNSIGNED, item) if item >= 0 else _head(_NEGATIVE, -1 - item)
    if isinstance(item, bytes):
        return _head(_BYTES, len(item)) + item
    if isinstance(item, str):
        text = item.encode()
        return _head(_TEXT, len(text)) + text
    if isinstance(item, Tagged):
        return _head(_TAG, item.tag) + encode(item.item)
    if isinstance(item, Mapping):
        pairs = sorted((encode(key), encode(value)) for key, value in item.items())
        return _head(_MAP, len(pairs)) + b"".join(key + value for key, value in pairs)
    return _head(_ARRAY, len(item)) + b"".join(map(encode, item))
