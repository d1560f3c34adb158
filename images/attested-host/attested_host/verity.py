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
    """The digest of each block of ``data``."""
    blocks = (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
    return b"".join(hashlib.sha256(block).digest() for block in blocks)


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
            hashes += _level(data)
        levels = [bytes(hashes)]
        while len(levels[-1]) > _DIGEST:  # the root hash is that of a single block
            levels[-1] += bytes(-len(levels[-1]) % BLOCK)
            levels.append(_level(levels[-1]))
        f.seek(0, 2)
        for level in reversed(levels[:-1]):
            f.write(level)
    return Verity(blocks, levels[-1].hex())
