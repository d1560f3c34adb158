"""The container once more, from docs/spec/container.md alone: no line of it calls svetovid."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(key: bytes, salt: bytes) -> tuple[bytes, bytes]:
    okm = HKDF(SHA256(), 64, salt, b"svetovid.container/v1 key and commitment").derive(key)
    return okm[:32], okm[32:]


def header(manifest: dict) -> bytes:
    named = {k: manifest[k] for k in ("kind", "manager", "name", "owner")}
    lineage = hashlib.sha256(json.dumps(named, sort_keys=True, separators=(",", ":")).encode())
    return (
        b"svetovid.sealed\0"
        + struct.pack(">HHIQ", 1, 1, manifest["chunk_bytes"], manifest["version"])
        + lineage.digest()
        + base64.b64decode(manifest["salt"])
        + base64.b64decode(manifest["commitment"])
    )


def label(head: bytes, index: int, last: bool) -> bytes:
    return hashlib.sha256(head).digest() + struct.pack(">QQ", index, last)


def nonce(index: int, last: bool) -> bytes:
    return bytes([last, 0, 0, 0]) + struct.pack(">Q", index)


def tree(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, by its recursive words."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + tree(leaves[:k]) + tree(leaves[k:])).digest()


def trailer(size: int, chunks: int, root: bytes) -> bytes:
    return b"svetovid.trailer" + struct.pack(">QQ", size, chunks) + root


@dataclass
class Parts:
    """A container in pieces, to be put together wrongly."""

    header: bytes
    chunks: list[bytes]
    table: list[bytes] = field(default_factory=list)
    trailer: bytes = b""

    def join(self) -> bytes:
        return self.header + b"".join(self.chunks) + b"".join(self.table) + self.trailer


def split(data: bytes, manifest: dict) -> Parts:
    count, size, step = manifest["chunks"], manifest["size"], manifest["chunk_bytes"] + 64
    end = 128 + size + 64 * count
    chunks = [data[128 + i * step : min(128 + (i + 1) * step, end)] for i in range(count)]
    table = [data[end + 32 * i : end + 32 * (i + 1)] for i in range(count)]
    return Parts(data[:128], chunks, table, data[end + 32 * count :])


def seal(content: bytes, fields: dict, key: bytes, salt: bytes) -> tuple[bytes, dict]:
    enc, commitment = derive(key, salt)
    step = fields["chunk_bytes"]
    count = max(1, -(-len(content) // step))
    manifest = {"format": "svetovid.container/v1", **fields}
    manifest |= {"size": len(content), "chunks": count}
    manifest |= {
        "salt": base64.b64encode(salt).decode(),
        "commitment": base64.b64encode(commitment).decode(),
    }
    head = header(manifest)
    parts = Parts(head, [])
    for i in range(count):
        last = i == count - 1
        mark = label(head, i, last)
        body = AESGCM(enc).encrypt(nonce(i, last), content[i * step : (i + 1) * step], mark)
        parts.chunks.append(mark + body)
    return finish(parts, manifest)


def finish(parts: Parts, manifest: dict) -> tuple[bytes, dict]:
    """Leaf table, trailer and root for whatever chunks there are: what a hostile owner can do."""
    parts.table = [blake3(c).digest() for c in parts.chunks]
    root = tree(parts.table)
    parts.trailer = trailer(manifest["size"], manifest["chunks"], root)
    return parts.join(), manifest | {"root": "sha256:" + root.hex()}


def unseal(data: bytes, manifest: dict, key: bytes) -> bytes:
    enc, commitment = derive(key, base64.b64decode(manifest["salt"]))
    assert commitment == base64.b64decode(manifest["commitment"])
    parts = split(data, manifest)
    head = header(manifest)
    assert parts.header == head
    assert "sha256:" + tree(parts.table).hex() == manifest["root"]
    assert parts.trailer == trailer(manifest["size"], manifest["chunks"], tree(parts.table))
    out = b""
    for i, chunk in enumerate(parts.chunks):
        last = i == manifest["chunks"] - 1
        assert blake3(chunk).digest() == parts.table[i]
        assert chunk[:48] == label(head, i, last)
        out += AESGCM(enc).decrypt(nonce(i, last), chunk[48:], chunk[:48])
    assert len(out) == manifest["size"]
    return out


def _gf_mul(x: int, y: int) -> int:
    """Multiplication in GF(2^128) as NIST SP 800-38D, algorithm 1, writes it."""
    z, v = 0, y
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= v
        v = (v >> 1) ^ (0xE1 << 120) if v & 1 else v >> 1
    return z


def equal_tag(chunk: bytes, enc: bytes) -> bytes:
    """Another ciphertext under the same label, nonce, key and tag.

    GHASH is linear: a difference d in one block is cancelled by d*H in the next.
    """
    encryptor = Cipher(algorithms.AES(enc), modes.ECB()).encryptor()
    h = int.from_bytes(encryptor.update(bytes(16)), "big")
    delta = 1 << 77
    cancel = _gf_mul(delta, h)
    first = int.from_bytes(chunk[48:64], "big") ^ delta
    second = int.from_bytes(chunk[64:80], "big") ^ cancel
    return chunk[:48] + first.to_bytes(16, "big") + second.to_bytes(16, "big") + chunk[80:]
