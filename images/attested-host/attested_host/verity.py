"""dm-verity's hash tree over a file, as Linux reads it (format version 1, SHA-256, no salt).

Documentation/admin-guide/device-mapper/verity.rst. No superblock is written: block count and root
hash stand on the measured command line, and whoever changes one of them changes PCR 9 and 11.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BLOCK", "Verity", "append_tree"]

BLOCK = 4096
_DIGEST = 32
_FAN_OUT = BLOCK // _DIGEST


@dataclass(frozen=True, slots=True)
class Verity:
    """What the kernel must be told.

    Attributes:
        blocks: data blocks of 4096 bytes; the tree begins after them.
        root: the root hash in hex.
    """

    blocks: int
    root: str

    def __str__(self) -> str:
        return f"{self.blocks}:{self.root}"


def _level(data: bytes) -> bytes:
    """Digests of all blocks of ``data``, in whole blocks."""
    hashed = b"".join(
        hashlib.sha256(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)
    )
    return hashed + bytes(-len(hashed) % BLOCK)


def append_tree(path: Path) -> Verity:
    """Pad the file to whole blocks and append its tree, the top level first."""
    size = path.stat().st_size
    with path.open("r+b") as f:
        f.seek(0, 2)
        f.write(bytes(-size % BLOCK))
        blocks = f.tell() // BLOCK
        f.seek(0)
        hashes = bytearray()
        while data := f.read(BLOCK * _FAN_OUT * 64):
            hashes += b"".join(
                hashlib.sha256(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)
            )
        levels = [bytes(hashes) + bytes(-len(hashes) % BLOCK)]
        while len(levels[-1]) > BLOCK:
            levels.append(_level(levels[-1]))
        f.seek(0, 2)
        for level in reversed(levels):
            f.write(level)
    return Verity(blocks, hashlib.sha256(levels[-1]).hexdigest())
