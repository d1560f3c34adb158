"""A disk with a GUID partition table (UEFI 2.10, chapter 5), its identifiers made from its content.

The firmware measures the table into PCR 5.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALIGNMENT", "DATA", "ESP", "ROOT", "Partition", "write_disk"]

_SECTOR = 512
ALIGNMENT = 2048
"""Sectors; where the first partition begins, and what every other begins at a multiple of."""
_ENTRIES, _ENTRY = 128, 128
_TAIL = 33
ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
"""Root file system for x86-64 (UAPI Group, Discoverable Partitions)."""
DATA = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition; ``content`` is a file that is copied into it."""

    label: str
    kind: uuid.UUID
    content: Path
    size: int = 0
    """At least so many bytes, beyond the content zeros."""


def _identifier(seed: bytes, what: str) -> uuid.UUID:
    return uuid.UUID(bytes=hashlib.sha256(seed + what.encode()).digest()[:16], version=4)


def _header(at: int, other: int, table_at: int, last: int, disk: uuid.UUID, table: bytes) -> bytes:
    def pack(checksum: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            *(b"EFI PART", 0x10000, 92, checksum, 0, at, other, 34, last, disk.bytes_le),
            *(table_at, _ENTRIES, _ENTRY, zlib.crc32(table)),
        )

    return pack(zlib.crc32(pack(0))).ljust(_SECTOR, b"\0")


def write_disk(target: Path, partitions: Sequence[Partition], seed: bytes) -> None:
    """Write the disk; zeros become holes.

    Args:
        seed: what identifiers are made from; the same on every build of the same image.
    """
    at, entries, places = ALIGNMENT, b"", []
    for partition in partitions:
        size = max(partition.content.stat().st_size, partition.size)
        sectors = -(-size // _SECTOR)
        entries += struct.pack(
            "<16s16sQQQ72s",
            *(partition.kind.bytes_le, _identifier(seed, partition.label).bytes_le),
            *(at, at + sectors - 1, 0, partition.label.encode("utf-16-le")),
        )
        places.append(at)
        at = -(-(at + sectors) // ALIGNMENT) * ALIGNMENT
    table = entries.ljust(_ENTRIES * _ENTRY, b"\0")
    total = at + ALIGNMENT
    last = total - _TAIL - 1
    disk = _identifier(seed, "disk")
    protective = struct.pack("<446xBBBBBBBBII48xH", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1,
                             min(total - 1, 0xFFFFFFFF), 0xAA55)  # fmt: skip
    with target.open("wb") as f:
        f.truncate(total * _SECTOR)
        f.write(protective + _header(1, total - 1, 2, last, disk, table) + table)
        for partition, start in zip(partitions, places, strict=True):
            f.seek(start * _SECTOR)
            with partition.content.open("rb") as content:
                while data := content.read(1 << 20):
                    if data.count(0) == len(data):
                        f.seek(len(data), 1)
                    else:
                        f.write(data)
        f.seek((total - _TAIL) * _SECTOR)
        f.write(table + _header(total - 1, 1, total - _TAIL, last, disk, table))
