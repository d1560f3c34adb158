"""The container's bytes: header, labels, nonces, keys and leaves. docs/spec/container.md in code.

Everything here is a pure function of its arguments. All integers are big-endian.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from svetovid.crypto import Secret
from svetovid.errors import InputError

__all__ = [
    "CHUNK_OVERHEAD",
    "HEADER_BYTES",
    "KEY_BYTES",
    "LABEL_BYTES",
    "LEAF_BYTES",
    "MAGIC",
    "MAX_CHUNKS",
    "MAX_CHUNK_BYTES",
    "MIN_CHUNK_BYTES",
    "TRAILER_BYTES",
    "Header",
    "Layout",
    "chunk_label",
    "chunk_nonce",
    "derive",
    "flat",
    "leaf",
    "merkle_root",
    "read_label",
    "trailer",
    "trailer_root",
]

MAGIC = b"svetovid.sealed\0"
TRAILER_MAGIC = b"svetovid.trailer"
FORMAT = 1
SUITE = 1
"""HKDF-SHA256, AES-256-GCM, BLAKE3-256 leaves, RFC 9162 tree with SHA-256."""

KEY_BYTES = 32
SALT_BYTES = 32
LEAF_BYTES = 32
TAG_BYTES = 16
MIN_CHUNK_BYTES = 64
MAX_CHUNK_BYTES = 16 << 20
MAX_CHUNKS = 1 << 24
"""Keeps the leaf table (32 bytes a chunk) within 512 MiB of a reader's memory."""

_INFO = b"svetovid.container/v1 key and commitment"
_HEADER = struct.Struct(">16sHHIQ32s32s32s")
_LABEL = struct.Struct(">32sQQ")
_NONCE = struct.Struct(">B3xQ")
_TRAILER = struct.Struct(">16sQQ32s")
HEADER_BYTES = _HEADER.size
LABEL_BYTES = _LABEL.size
TRAILER_BYTES = _TRAILER.size
CHUNK_OVERHEAD = LABEL_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class Header:
    """The first 128 bytes of a container.

    Attributes:
        chunk_bytes: plaintext bytes in every chunk but the last.
        version: the asset's version.
        lineage: SHA-256 over the asset's kind, name, owner and manager: what stays over versions.
        salt: 32 random bytes; they make the derived key unique to this container.
        commitment: 32 bytes that only one asset key yields with this salt.
    """

    chunk_bytes: int
    version: int
    lineage: bytes
    salt: bytes
    commitment: bytes

    def pack(self) -> bytes:
        return _HEADER.pack(
            MAGIC,
            FORMAT,
            SUITE,
            self.chunk_bytes,
            self.version,
            self.lineage,
            self.salt,
            self.commitment,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Header | None:
        """The header in exactly 128 bytes, or None where magic, format or suite is not ours."""
        magic, form, suite, *rest = _HEADER.unpack(data)
        return cls(*rest) if (magic, form, suite) == (MAGIC, FORMAT, SUITE) else None


def derive(key: Secret, salt: bytes) -> tuple[bytes, bytes]:
    """HKDF-SHA256 (RFC 5869): the container's AES-256 key, and the commitment to the asset key.

    Raises:
        InputError: ``asset.key_length``.
    """
    if len(key) != KEY_BYTES:
        raise InputError(
            "asset.key_length",
            expected=f"an asset key of {KEY_BYTES} bytes",
            observed=f"{len(key)} bytes",
            next_step="use the key that sealing returned, or Secret.random(32)",
        )
    out = HKDF(algorithm=SHA256(), length=64, salt=salt, info=_INFO).derive(key.reveal())
    return out[:32], out[32:]


def chunk_label(header_digest: bytes, index: int, last: bool) -> bytes:
    """48 bytes in clear before each chunk's ciphertext, and its associated data."""
    return _LABEL.pack(header_digest, index, int(last))


def read_label(label: bytes) -> tuple[bytes, int, int]:
    """(header digest, index, last flag) as a stored label claims them."""
    digest, index, flag = _LABEL.unpack(label)
    return digest, index, flag


def chunk_nonce(index: int, last: bool) -> bytes:
    """STREAM (Hoang, Reyhanitabar, Rogaway, Vizar 2015): the counter, and whether it ends here."""
    return _NONCE.pack(int(last), index)


def flat(block: bytes | bytearray | memoryview) -> memoryview:
    """A contiguous buffer of any type and shape as plain bytes, without a copy.

    Raises:
        TypeError: for what is no buffer, or not contiguous.
    """
    view = memoryview(block)
    # Python casts nothing whose shape has a zero in it.
    return view.cast("B") if view.nbytes else memoryview(b"")


def leaf(chunk: bytes | bytearray | memoryview) -> bytes:
    """BLAKE3-256 of label, ciphertext and tag as stored (T14)."""
    return bytes(blake3(chunk).digest())


def merkle_root(table: bytes) -> bytes:
    """Merkle tree hash of RFC 9162, section 2.1.1, over SHA-256; its entries are the leaves.

    Args:
        table: the leaves end to end, at least one.
    """
    sha256 = hashlib.sha256
    stack: list[bytes] = []
    for count, offset in enumerate(range(0, len(table), LEAF_BYTES)):
        node = sha256(b"\0" + table[offset : offset + LEAF_BYTES]).digest()
        while count & 1:
            node = sha256(b"\1" + stack.pop() + node).digest()
            count >>= 1
        stack.append(node)
    node = stack.pop()
    while stack:
        node = sha256(b"\1" + stack.pop() + node).digest()
    return node


def trailer(size: int, chunks: int, root: bytes) -> bytes:
    """The last 64 bytes of a container."""
    return _TRAILER.pack(TRAILER_MAGIC, size, chunks, root)


def trailer_root(data: bytes) -> bytes:
    """The root that a trailer claims."""
    return data[-LEAF_BYTES:]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies, from the content's size and the chunk size in bytes."""

    size: int
    chunk_bytes: int

    @property
    def chunks(self) -> int:
        """At least one: empty content is one empty chunk."""
        return max(1, -(-self.size // self.chunk_bytes))

    @property
    def stride(self) -> int:
        return self.chunk_bytes + CHUNK_OVERHEAD

    def offset(self, index: int) -> int:
        return HEADER_BYTES + index * self.stride

    def plain_bytes(self, index: int) -> int:
        return min(self.chunk_bytes, self.size - index * self.chunk_bytes)

    def stored_bytes(self, index: int) -> int:
        return self.plain_bytes(index) + CHUNK_OVERHEAD

    @property
    def table_offset(self) -> int:
        return HEADER_BYTES + self.size + self.chunks * CHUNK_OVERHEAD

    @property
    def total(self) -> int:
        return self.table_offset + self.chunks * LEAF_BYTES + TRAILER_BYTES
