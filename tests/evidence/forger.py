"""A forger's TPM. Tests change one thing of what it says and name the refusal."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tpmbytes import (
    ECDSA,
    HASH,
    HASH_NAME,
    RSAPSS,
    SHA256,
    QuoteForm,
    b2,
    bitmap,
    ecc_public,
    ecdsa_signature,
    qualified,
    rsa_public,
)

RSA_EK = rsa.generate_private_key(65537, 2048)
RSA_AK = rsa.generate_private_key(65537, 2048)


@dataclass
class Forger:
    """An AK of one scheme, PCRs, and quotes over them: it can say anything."""

    scheme: int = ECDSA
    hash: int = SHA256
    pcrs: dict[int, bytes] = field(default_factory=lambda: {i: bytes(32) for i in range(11)})

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1()) if self.scheme == ECDSA else RSA_AK
        form = struct.pack(">HH", self.scheme, self.hash)
        make = ecc_public if self.scheme == ECDSA else rsa_public
        self.ak = make(self.key, scheme=form)

    def extend(self, pcr: int, value: bytes) -> None:
        self.pcrs[pcr] = hashlib.sha256(self.pcrs[pcr] + value).digest()

    def form(self, extra: bytes, **changes: object) -> QuoteForm:
        values = b"".join(v for _, v in sorted(self.pcrs.items()))
        digest = hashlib.new(HASH_NAME[self.hash], values).digest()
        made = QuoteForm(qualified(self.ak), extra, digest, (bitmap(self.pcrs),))
        return replace(made, **changes)

    def sign(self, data: bytes, scheme: int | None = None, hash_alg: int | None = None) -> bytes:
        """TPMT_SIGNATURE; ``scheme`` and ``hash_alg`` only change what it claims to be."""
        digest = HASH[self.hash]()
        head = struct.pack(">HH", scheme or self.scheme, hash_alg or self.hash)
        if self.scheme == ECDSA:
            return head + ecdsa_signature(self.key, data, digest)
        pad = (
            padding.PSS(padding.MGF1(digest), digest.digest_size)
            if self.scheme == RSAPSS
            else padding.PKCS1v15()
        )
        return head + b2(self.key.sign(data, pad, digest))

    def quote(self, extra: bytes, **changes: object) -> tuple[bytes, bytes]:
        data = self.form(extra, **changes).pack()
        return data, self.sign(data)
