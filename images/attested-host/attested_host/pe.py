"""Just enough of the PE32+ form: its Authenticode digest, and sections added to a boot stub.

Microsoft, "PE Format" and "Windows Authenticode Portable Executable Signature Format" (2008). The
digest is what UEFI firmware extends into PCR 4 for an image it loads (TCG PC Client PFP, 3.3.4.5).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from attested_host.lock import BuildError

__all__ = ["Section", "add_sections", "authenticode", "sections"]

_PE32_PLUS = 0x20B
_SECTION = struct.Struct("<8sIIIIIIHHI")
_READ_DATA = 0x40000040
_ALIGNMENT, _IMAGE_SIZE, _HEADER_SIZE, _CHECKSUM, _CERTIFICATES = 32, 56, 60, 64, 144


@dataclass(frozen=True, slots=True)
class Section:
    """One section: where it is in the file and in memory."""

    name: str
    address: int
    size: int
    raw: int
    raw_size: int


@dataclass(frozen=True, slots=True)
class _Header:
    coff: int
    optional: int
    table: int
    count: int

    @classmethod
    def of(cls, image: bytes) -> _Header:
        if len(image) < 0x40 or image[:2] != b"MZ":
            raise BuildError("not a PE image: no MZ")
        at = _u32(image, 0x3C)
        if image[at : at + 4] != b"PE\0\0" or len(image) < at + 24:
            raise BuildError("not a PE image: no PE header")
        count, size = (struct.unpack_from("<H", image, at + o)[0] for o in (6, 20))
        optional = at + 24
        if struct.unpack_from("<H", image, optional)[0] != _PE32_PLUS:
            raise BuildError("not a PE32+ image")
        return cls(at + 4, optional, optional + size, count)


def _u32(image: bytes | bytearray, at: int) -> int:
    (value,) = struct.unpack_from("<I", image, at)
    assert isinstance(value, int)
    return value


def _up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def sections(image: bytes) -> list[Section]:
    """Its sections, in the order of the header."""
    header = _Header.of(image)
    found = []
    for i in range(header.count):
        name, size, address, raw_size, raw, *_ = _SECTION.unpack_from(
            image, header.table + i * _SECTION.size
        )
        found.append(Section(name.rstrip(b"\0").decode(), address, size, raw, raw_size))
    return found


def authenticode(image: bytes) -> str:
    """SHA-256 over the image without its checksum and its signatures."""
    header = _Header.of(image)
    checksum = header.optional + _CHECKSUM
    entry = header.optional + _CERTIFICATES
    head = _u32(image, header.optional + _HEADER_SIZE)
    certificates, certificates_size = struct.unpack_from("<II", image, entry)
    h = hashlib.sha256(image[:checksum])
    h.update(image[checksum + 4 : entry])
    h.update(image[entry + 8 : head])
    hashed = head
    for s in sorted(sections(image), key=lambda s: s.raw):
        h.update(image[s.raw : s.raw + s.raw_size])
        hashed += s.raw_size
    end = certificates if certificates_size else len(image)
    h.update(image[hashed:end])
    return "sha256:" + h.hexdigest()


def add_sections(image: bytes, added: Sequence[tuple[str, bytes]]) -> bytes:
    """``image`` with further sections of read-only data, after its own in file and memory.

    Raises:
        BuildError: where its header has no room for them.
    """
    header = _Header.of(image)
    align, file_align = struct.unpack_from("<II", image, header.optional + _ALIGNMENT)
    out = bytearray(image)
    address = max(s.address + s.size for s in sections(image))
    end = header.table + (header.count + len(added)) * _SECTION.size
    if end > _u32(image, header.optional + _HEADER_SIZE):
        raise BuildError("no room for further sections in the stub's header")
    out += bytes(-len(out) % file_align)
    for i, (name, data) in enumerate(added, header.count):
        address = _up(address, align)
        raw_size = _up(len(data), file_align)
        _SECTION.pack_into(
            *(out, header.table + i * _SECTION.size, name.encode().ljust(8, b"\0")),
            *(len(data), address, raw_size, len(out), 0, 0, 0, 0, _READ_DATA),
        )
        out += data.ljust(raw_size, b"\0")
        address += len(data)
    struct.pack_into("<H", out, header.coff + 2, header.count + len(added))
    struct.pack_into("<I", out, header.optional + _IMAGE_SIZE, _up(address, align))
    struct.pack_into("<I", out, header.optional + _CHECKSUM, 0)
    return bytes(out)
