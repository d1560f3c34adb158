"""Reads a TCG event log: what the firmware says it extended into the PCRs.

Little endian (TCG PC Client Platform Firmware Profile 1.06, section 10)::

    header:  u32 pcr 0 | u32 EV_NO_ACTION | 20 zero bytes | u32 size | Spec ID event
    Spec ID: "Spec ID Event03" NUL | u32 class | u8 minor, major, errata, uintn | u32 n
             | n times (u16 algorithm, u16 digest size) | u8 size | vendor info
    event:   u32 pcr | u32 type | u32 n | n times (u16 algorithm, digest) | u32 size | data

A log is a story that the host tells. Only the digests of one bank, in their order within each PCR,
are proven by a quote; **no digest covers the type**, and the data only where the digest is that of
the data. So nothing here or in the appraisal rests on a type alone.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from svetovid.errors import EvidenceError, LimitError, ParseError
from svetovid.evidence.tpm.constants import Alg

__all__ = [
    "BANKS",
    "MAX_BOOT_EVENTS",
    "MAX_BOOT_LOG_BYTES",
    "NO_ACTION",
    "SEPARATORS",
    "BootEvent",
    "BootLog",
    "hash_data",
    "parse_boot_log",
]

MAX_BOOT_LOG_BYTES = 16 << 20
MAX_BOOT_EVENTS = 50_000
BANKS: Mapping[str, int] = {
    "sha1": Alg.SHA1,
    "sha256": Alg.SHA256,
    "sha384": Alg.SHA384,
    "sha512": Alg.SHA512,
}
"""Banks that can be replayed, by the names that hashlib and the kernel give them."""
NO_ACTION = 3
SEPARATORS = (b"\0\0\0\0", b"\xff\xff\xff\xff")
"""What is hashed between the firmware's own measurements and those of what it starts."""
_SIZES = {0x04: 20, 0x0B: 32, 0x0C: 48, 0x0D: 64, 0x12: 32, 0x27: 32, 0x28: 48, 0x29: 64}
"""Digest sizes of the hashes in the TCG Algorithm Registry, SM3 and SHA-3 among them."""
_MAX_PCR = 23
_SPEC_ID = b"Spec ID Event03\0"
_LEGACY_IDS = (b"Spec ID Event00\0", b"Spec ID Event02\0")
_HEADER = struct.Struct("<II20sI")
_EVENT = struct.Struct("<III")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")


class BootEvent(NamedTuple):
    """One event. Only ``digests`` can be proven, and only in the bank that is quoted.

    Attributes:
        number: position in the log; the header is 0.
        pcr: 0 to 23.
        kind: event type as the log says; proves nothing.
        digests: algorithm identifier to digest.
        data: proven only where a digest is that of the data.
    """

    number: int
    pcr: int
    kind: int
    digests: Mapping[int, bytes]
    data: bytes

    @property
    def extends(self) -> bool:
        """Whether the log says that the event was extended. If it lies, the replay fails."""
        return self.kind != NO_ACTION


@dataclass(frozen=True, slots=True)
class BootLog:
    """A whole log: the banks it covers, as hashlib names, and its events after the header."""

    banks: tuple[str, ...]
    events: tuple[BootEvent, ...]


def hash_data(bank: str, data: bytes) -> bytes:
    """The digest that a bank is extended with for ``data``."""
    return hashlib.new(bank, data, usedforsecurity=False).digest()


def _malformed(expected: str, observed: object) -> ParseError:
    return ParseError(
        "boot.malformed",
        expected=expected,
        observed=observed,
        next_step="send binary_bios_measurements as the kernel gives it, whole",
    )


def _header_error(expected: str, observed: object) -> ParseError:
    return ParseError(
        "boot.header",
        expected=expected,
        observed=observed,
        next_step="send binary_bios_measurements from its first byte; update the firmware if it is",
    )


def _too_large(observed: str) -> LimitError:
    return LimitError(
        "boot.size",
        expected=f"at most {MAX_BOOT_LOG_BYTES} bytes and {MAX_BOOT_EVENTS} events",
        observed=observed,
        next_step="find out what fills the firmware's event log",
    )


def _legacy(observed: object) -> EvidenceError:
    return EvidenceError(
        "boot.legacy",
        expected="a crypto-agile log (Spec ID Event03)",
        observed=observed,
        next_step="switch on the SHA-256 bank of the TPM in the firmware's settings",
    )


def _algorithms(data: bytes) -> dict[int, int]:
    """Algorithm to digest size, out of the Spec ID event."""
    if data[:16] in _LEGACY_IDS:
        raise _legacy(data[:16])
    if data[:16] != _SPEC_ID or len(data) < 28:
        raise _header_error("Spec ID Event03 and its fields", data[:32])
    major, uintn = data[21], data[23]
    (count,) = _U32.unpack_from(data, 24)
    if major != 2 or uintn not in (1, 2):
        raise _header_error("version 2 and a uintn size of 1 or 2", (major, uintn))
    end = 28 + 4 * count
    if not 1 <= count <= len(_SIZES) or len(data) < end + 1 or len(data) != end + 1 + data[end]:
        raise _header_error("algorithms and vendor info that fill the event", f"{count} algorithms")
    sizes: dict[int, int] = {}
    for at in range(28, end, 4):
        algorithm, size = struct.unpack_from("<HH", data, at)
        if algorithm in sizes or _SIZES.get(algorithm) != size:
            raise _header_error(
                "known algorithms with their digest sizes, each once", (algorithm, size)
            )
        sizes[algorithm] = size
    return sizes


def _first(data: bytes) -> tuple[dict[int, int], int]:
    """The header: algorithms, and where the events begin."""
    if len(data) < _HEADER.size:
        raise _header_error("a header of 32 bytes", f"{len(data)} bytes")
    pcr, kind, digest, size = _HEADER.unpack_from(data)
    if kind != NO_ACTION:  # a SHA-1 log begins with its first measurement
        raise _legacy(f"a first event of type {kind:#x}")
    if pcr != 0 or digest != bytes(20):
        raise _header_error("PCR 0 and a digest of zeros", f"PCR {pcr}, {digest.hex()}")
    end = _HEADER.size + size
    if end > len(data):
        raise _header_error(f"{size} bytes of Spec ID event", f"{len(data) - _HEADER.size} bytes")
    return _algorithms(data[_HEADER.size : end]), end


def _event(data: bytes, at: int, number: int, sizes: Mapping[int, int]) -> tuple[BootEvent, int]:
    where = f"event {number} at byte {at}"
    if at + _EVENT.size > len(data):
        raise _malformed("a whole event", where)
    pcr, kind, count = _EVENT.unpack_from(data, at)
    if pcr > _MAX_PCR:
        raise _malformed(f"a PCR up to {_MAX_PCR}", f"PCR {pcr}, {where}")
    if count != len(sizes):
        raise _malformed(f"{len(sizes)} digests, as the header lists", f"{count}, {where}")
    at += _EVENT.size
    digests: dict[int, bytes] = {}
    for _ in range(count):
        if at + 2 > len(data):
            raise _malformed("whole digests", where)
        (algorithm,) = _U16.unpack_from(data, at)
        if algorithm not in sizes or algorithm in digests:
            raise _malformed("each algorithm of the header once", f"{algorithm:#x}, {where}")
        digests[algorithm] = data[at + 2 : at + 2 + sizes[algorithm]]
        at += 2 + sizes[algorithm]
    if at + 4 > len(data):
        raise _malformed("whole digests and a size", where)
    end = at + 4 + _U32.unpack_from(data, at)[0]
    if end > len(data):
        raise _malformed("event data within the log", where)
    return BootEvent(number, pcr, kind, digests, data[at + 4 : end]), end


def parse_boot_log(data: bytes) -> BootLog:
    """Read a crypto-agile log, whole: every event has each of the header's banks once.

    Raises:
        LimitError: ``boot.size``.
        ParseError: ``boot.header``, ``boot.malformed``.
        EvidenceError: ``boot.legacy`` for a log of the SHA-1 bank alone.
    """
    if len(data) > MAX_BOOT_LOG_BYTES:
        raise _too_large(f"{len(data)} bytes")
    sizes, at = _first(data)
    events: list[BootEvent] = []
    while at < len(data):
        if len(events) == MAX_BOOT_EVENTS:
            raise _too_large("more events")
        event, at = _event(data, at, len(events) + 1, sizes)
        if not event.extends and event.data.startswith(b"Spec ID Event"):
            raise _header_error("one Spec ID event, first", f"another, event {event.number}")
        events.append(event)
    return BootLog(tuple(b for b, a in BANKS.items() if a in sizes), tuple(events))
