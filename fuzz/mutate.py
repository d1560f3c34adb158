"""Changes of an input: of bytes, and of JSON as JSON."""

from __future__ import annotations

import json
import random
from typing import Any

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**53, -(2**53), 0.5, 1e300, "", "a", "sha256:" + "0" * 64),
    *("\ud800", "\u0000", "é", [], {}, [[]], {"a": {}}, "A" * 300, "ed25519:" + "f" * 64),
)


def changed(data: bytes, others: list[bytes], chance: random.Random, most: int) -> bytes:
    """``data`` with one to four changes, of at most ``most`` bytes. A few repeat a part of it until
    it is as long as that: what takes more than linear time shows there."""
    if chance.random() < 0.5 and data[:1] in b"{[" and (said := _json(data, chance)) is not None:
        return said[:most]
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        _step(out, others, chance, most)
    return bytes(out[:most])


def _step(out: bytearray, others: list[bytes], chance: random.Random, most: int) -> None:
    at = chance.randrange(len(out) + 1)
    end = min(len(out), at + chance.choice((1, 2, 4, 8, 32, 200)))
    match chance.randrange(9):
        case 0:
            out[at : at + 1] = bytes([out[at] ^ 1 << chance.randrange(8)]) if at < len(out) else b""
        case 1:
            out[at : at + 1] = bytes([chance.randrange(256)])
        case 2:
            size = chance.choice((1, 2, 4, 8))
            number = chance.choice(_NUMBERS) & ((1 << 8 * size) - 1)
            out[at : at + size] = number.to_bytes(size, chance.choice(("big", "little")))
        case 3:
            del out[at:end]
        case 4:
            out[at:at] = out[at:end] * chance.choice((1, 2, 16))
        case 5:
            out[at:at] = chance.randbytes(chance.choice((1, 4, 16)))
        case 6:
            del out[at:]
        case 7 if others:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            out[at:end] = other[start : start + chance.choice((4, 32, 500))]
        case 8 if chance.random() < 0.05:
            out[at:end] = out[at:end] * (most // max(1, end - at))
        case _:
            out[at:at] = bytes([chance.choice(b'\0\xff{}[]"\\,:0-\n &*!')])


def _json(data: bytes, chance: random.Random) -> bytes | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    places = list(_places(value))
    if not places:
        return None
    holder, key = chance.choice(places)
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(("", "x", "type", str(key) + "2"))] = holder[key]
        case 1 | 2 if isinstance(holder, list):
            holder.extend([holder[key]] * chance.choice((1, 20)))
        case 3:
            other, name = chance.choice(places)
            holder[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else None
        case 4 if isinstance(holder[key], str) and holder[key]:
            text = bytearray(holder[key].encode("utf-8", "surrogatepass"))
            _step(text, [], chance, 300)
            holder[key] = text.decode("utf-8", "replace")
        case _:
            holder[key] = chance.choice(_VALUES)
    return json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _places(value: Any) -> Any:
    """(container, key) of everything within."""
    if isinstance(value, dict | list):
        for key in _keys(value):
            yield value, key
            yield from _places(value[key])
