"""A FAT32 file system with a few files, for the EFI system partition.

Microsoft, "FAT: General Overview of On-Disk Format", 1.03. Short names only, no times, files laid
out one after the other: the same files give the same bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from attested_host.lock import BuildError

__all__ = ["SECTOR", "file_system"]

SECTOR = 512
_RESERVED = 32
_MIN_CLUSTERS = 65_525
"""With fewer, a reader must take the file system for FAT16."""
_END = 0x0FFFFFFF
_FOLDER, _FILE = 0x10, 0x20
_NAME = re.compile(r"[A-Z0-9_]{1,8}(\.[A-Z0-9_]{1,3})?")


def _short(name: str) -> bytes:
    if not _NAME.fullmatch(name):
        raise BuildError(f"not a short FAT name: {name}")
    stem, _, suffix = name.partition(".")
    return stem.ljust(8).encode() + suffix.ljust(3).encode()


def _record(name: bytes, kind: int, cluster: int, size: int) -> bytes:
    head = struct.pack("<11sBBB", name, kind, 0, 0)
    times = struct.pack("<HHHHHH", 0, 0x21, 0x21, cluster >> 16, 0, 0x21)
    return head + times + struct.pack("<HI", cluster & 0xFFFF, size)


class _Writer:
    """Clusters of one sector each, handed out in order."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.table = [0x0FFFFFF8, _END]

    def take(self, content: bytes) -> int:
        first = len(self.table)
        count = max(1, -(-len(content) // SECTOR))
        self.table += [first + i + 1 for i in range(count - 1)] + [_END]
        self.data += content.ljust(count * SECTOR, b"\0")
        return first

    def replace(self, cluster: int, content: bytes) -> None:
        at = (cluster - 2) * SECTOR
        self.data[at : at + len(content)] = content


def _fill(out: _Writer, files: Mapping[str, bytes], own: int, parent: int) -> int:
    """Write one folder; its first cluster."""
    names = sorted({path.partition("/")[0] for path in files})
    dots = 0 if not own else 2
    cluster = out.take(bytes((len(names) + 2) * 32))
    if own == 0:
        own = cluster
    records = b""
    if dots:
        records += _record(b".".ljust(11), _FOLDER, cluster, 0)
        records += _record(b"..".ljust(11), _FOLDER, parent, 0)
    for name in names:
        if name in files:
            content = files[name]
            records += _record(_short(name), _FILE, out.take(content), len(content))
            continue
        below = {p[len(name) + 1 :]: d for p, d in files.items() if p.startswith(name + "/")}
        # A folder below the root names the root as cluster 0.
        at = _fill(out, below, -1, 0 if cluster == 2 else cluster)
        records += _record(_short(name), _FOLDER, at, 0)
    out.replace(cluster, records)
    return cluster


def file_system(files: Mapping[str, bytes], offset: int) -> bytes:
    """The bytes of the file system.

    Args:
        files: path to content; parts of a path are upper-case 8.3 names.
        offset: sectors before it on the disk.
    """
    out = _Writer()
    _fill(out, files, 0, 0)
    clusters = max(_MIN_CLUSTERS + 16, len(out.table) - 2)
    table = b"".join(struct.pack("<I", e) for e in out.table)
    table_sectors = -(-(clusters + 2) * 4 // SECTOR)
    total = _RESERVED + 2 * table_sectors + clusters
    boot = struct.pack(
        "<3s8sHBHBHHBHHHIIIHHIHH12xBBBI11s8s",
        *(b"\xeb\x58\x90", b"SVETOVID", SECTOR, 1, _RESERVED, 2, 0, 0, 0xF8, 0, 32, 64),
        *(offset, total, table_sectors, 0, 0, 2, 1, 6),
        *(0x80, 0, 0x29, 0x53564554, b"SVETOVID   ", b"FAT32   "),
    )
    boot = boot.ljust(510, b"\0") + b"\x55\xaa"
    info = b"RRaA".ljust(484, b"\0") + b"rrAa" + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF)
    info = info.ljust(510, b"\0") + b"\x55\xaa"
    head = boot + info
    reserved = head.ljust(6 * SECTOR, b"\0") + head
    tables = table.ljust(table_sectors * SECTOR, b"\0") * 2
    body = reserved.ljust(_RESERVED * SECTOR, b"\0") + tables + out.data
    return body.ljust(total * SECTOR, b"\0")
