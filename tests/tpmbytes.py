"""TPM wire bytes packed by hand, apart from the code under test: keys, PCR selections, quotes.

After TPM 2.0 Library Specification, part 2. Every field can be another than a TPM would write.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

SHA1, SHA256, SHA384, SHA512 = 0x0004, 0x000B, 0x000C, 0x000D
RSASSA, RSAPSS, ECDSA, NULL, AES, CFB = 0x0014, 0x0016, 0x0018, 0x0010, 0x0006, 0x0043
AK_ATTRIBUTES = 0x00050072
EK_ATTRIBUTES = 0x000300B2
HASH = {SHA256: hashes.SHA256, SHA384: hashes.SHA384, SHA512: hashes.SHA512}
HASH_NAME = {SHA256: "sha256", SHA384: "sha384", SHA512: "sha512"}


def b2(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def ecc_public(
    key: ec.EllipticCurvePrivateKey,
    *,
    attributes: int = AK_ATTRIBUTES,
    scheme: bytes = struct.pack(">HH", ECDSA, SHA256),
    symmetric: bytes = struct.pack(">H", NULL),
    curve: int = 3,
    policy: bytes = b"",
) -> bytes:
    n = key.public_key().public_numbers()
    size = (key.curve.key_size + 7) // 8
    head = struct.pack(">HHI", 0x0023, SHA256, attributes) + b2(policy) + symmetric + scheme
    point = b2(n.x.to_bytes(size, "big")) + b2(n.y.to_bytes(size, "big"))
    return head + struct.pack(">HH", curve, NULL) + point


def rsa_public(
    key: rsa.RSAPrivateKey,
    *,
    attributes: int = AK_ATTRIBUTES,
    scheme: bytes = struct.pack(">HH", RSASSA, SHA256),
    symmetric: bytes = struct.pack(">H", NULL),
    policy: bytes = b"",
    name_alg: int = SHA256,
) -> bytes:
    n = key.public_key().public_numbers().n
    head = struct.pack(">HHI", 0x0001, name_alg, attributes) + b2(policy) + symmetric + scheme
    return head + struct.pack(">HI", key.key_size, 0) + b2(n.to_bytes(key.key_size // 8, "big"))


def ek_public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, **changes: object) -> bytes:
    parts: dict = {
        "attributes": EK_ATTRIBUTES,
        "scheme": struct.pack(">H", NULL),
        "symmetric": struct.pack(">HHH", AES, 128, CFB),
        "policy": hashlib.sha256(b"policy").digest(),
        **changes,
    }
    return (
        rsa_public(key, **parts) if isinstance(key, rsa.RSAPrivateKey) else ecc_public(key, **parts)
    )


def name(public: bytes) -> bytes:
    return struct.pack(">H", SHA256) + hashlib.sha256(public).digest()


def qualified(public: bytes, parent: bytes = struct.pack(">I", 0x4000000B)) -> bytes:
    return struct.pack(">H", SHA256) + hashlib.sha256(parent + name(public)).digest()


def bitmap(pcrs: object, bank: int = SHA256, size: int = 3) -> bytes:
    bits = sum(1 << i for i in pcrs)
    return struct.pack(">HB", bank, size) + bits.to_bytes(size, "little")


@dataclass(frozen=True)
class QuoteForm:
    """Every field of a TPMS_ATTEST, so that one may be changed at a time."""

    signer: bytes
    extra: bytes
    digest: bytes
    selections: tuple[bytes, ...]
    magic: int = 0xFF544347
    tag: int = 0x8018
    clock: int = 1000
    resets: int = 3
    restarts: int = 1
    safe: int = 1
    trailing: bytes = b""
    count: int | None = None

    def pack(self) -> bytes:
        count = len(self.selections) if self.count is None else self.count
        return (
            struct.pack(">IH", self.magic, self.tag)
            + b2(self.signer)
            + b2(self.extra)
            + struct.pack(">QIIBQ", self.clock, self.resets, self.restarts, self.safe, 7)
            + struct.pack(">I", count)
            + b"".join(self.selections)
            + b2(self.digest)
            + self.trailing
        )


def ecdsa_signature(
    key: ec.EllipticCurvePrivateKey, data: bytes, digest: hashes.HashAlgorithm
) -> bytes:
    """The two TPM2B numbers of a TPMS_SIGNATURE_ECDSA."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
    size = (key.curve.key_size + 7) // 8
    return b2(r.to_bytes(size, "big")) + b2(s.to_bytes(size, "big"))
