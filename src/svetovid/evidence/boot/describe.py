"""What a person reads about an event: in words, and whether the digest proves them."""

from __future__ import annotations

import struct

from svetovid.evidence.boot.log import BANKS, SEPARATORS, BootEvent, hash_data
from svetovid.evidence.boot.variables import parse_variable

__all__ = ["describe"]

_GRUB = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ", b"grub_cmd ")
"""grub hashes what comes after these words, without the final NUL; the words prove nothing."""
_IMAGE = struct.Struct("<QQQQ")
_TAG = struct.Struct("<II")
_TAGS = {0x8F3B22EC: "initrd (Linux)", 0x8F3B22ED: "command line (Linux)"}
"""Tagged events of Linux's EFI stub."""
_GPT = b"EFI PART"
_GPT_HEADER, _GPT_ENTRY = 92, 128
_SHOWN = 120


def _text(data: bytes) -> str:
    """ASCII, or UTF-16 where every other byte is zero; empty where it is neither."""
    data = data.rstrip(b"\0")
    if data[1::2] and not any(data[1::2]):
        data = data[::2]
    text = " ".join(data.decode("latin-1").split())
    return text[:_SHOWN] if text.isascii() and text.isprintable() else ""


def _file(data: bytes) -> str:
    """File path of the device path in an UEFI_IMAGE_LOAD_EVENT."""
    if len(data) < _IMAGE.size or _IMAGE.unpack_from(data)[3] != len(data) - _IMAGE.size:
        return ""
    at = _IMAGE.size
    while at + 4 <= len(data):
        size = int.from_bytes(data[at + 2 : at + 4], "little")
        if data[at : at + 2] == b"\x04\x04":
            return _text(data[at + 4 : at + size])
        at += max(size, 4)
    return ""


def _gpt(data: bytes) -> str:
    if data[:8] != _GPT or len(data) < _GPT_HEADER + 8:
        return ""
    (count,) = struct.unpack_from("<Q", data, _GPT_HEADER)
    if len(data) != _GPT_HEADER + 8 + count * _GPT_ENTRY:
        return ""
    return f"partition table of {count} partitions"


def _proven(data: bytes) -> str:
    if data in SEPARATORS:
        return "separator"
    if (variable := parse_variable(data)) is not None:
        return f"variable {_text(variable.name.encode('ascii', 'replace'))} = " + (
            variable.value.hex() if len(variable.value) <= 8 else f"{len(variable.value)} bytes"
        )
    return _gpt(data) or _text(data) or f"{len(data)} bytes"


def describe(event: BootEvent, bank: str) -> str:
    """One line about an event of a replayed log. Text that no digest covers is called a claim."""
    measured = event.digests[BANKS[bank]]
    data = event.data
    if hash_data(bank, data) == measured:
        return _proven(data)
    for prefix in _GRUB:
        tail = data[len(prefix) :].rstrip(b"\0")
        if data.startswith(prefix) and hash_data(bank, tail) == measured:
            return _text(tail) or "no text"
    said = _file(data) or _text(data)
    if len(data) >= _TAG.size:
        said = _TAGS.get(_TAG.unpack_from(data)[0], said)
    return f"the log claims: {said or f'type {event.kind:#x}'}"
