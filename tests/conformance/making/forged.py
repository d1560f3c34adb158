"""A key in a file that signs whatever it is told: for what no TPM would say."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from conformance.making.keys import Maker, derived
from conformance.making.story import BANKS, NONCE, QUOTED, Story, recording
from tpmbytes import (
    AK_ATTRIBUTES,
    ECDSA,
    HASH,
    HASH_NAME,
    SHA256,
    QuoteForm,
    b2,
    bitmap,
    ecc_public,
    ek_public,
    qualified,
)

MAKER = Maker("Conformance TPM maker")
EK = derived("forged ek")


@dataclass
class Forged:
    """Change a field, then ``recorded()``."""

    ek: ec.EllipticCurvePrivateKey = EK
    key: ec.EllipticCurvePrivateKey = derived("forged ak")  # noqa: RUF009
    signer: ec.EllipticCurvePrivateKey | None = None
    hash: int = SHA256
    curve: int = 3
    attributes: int = AK_ATTRIBUTES
    scheme: bytes = struct.pack(">HH", ECDSA, SHA256)

    @property
    def ak(self) -> bytes:
        return ecc_public(
            self.key, attributes=self.attributes, scheme=self.scheme, curve=self.curve
        )

    def form(self, story: Story, nonce: bytes = NONCE, **changes: object) -> QuoteForm:
        values = b"".join(v for _, v in sorted(story.pcrs().items()))
        return replace(
            QuoteForm(
                qualified(self.ak, qualified(ek_public(self.ek))),
                nonce,
                hashlib.new(HASH_NAME[self.hash], values).digest(),
                (bitmap(QUOTED, BANKS[story.bank]),),
            ),
            **changes,
        )

    def sign(self, data: bytes) -> bytes:
        digest = HASH[self.hash]()
        signature = (self.signer or self.key).sign(data, ec.ECDSA(digest, True))
        size = (self.key.curve.key_size + 7) // 8
        numbers = (n.to_bytes(size, "big") for n in decode_dss_signature(signature))
        return struct.pack(">HH", ECDSA, self.hash) + b"".join(b2(n) for n in numbers)

    def recorded(
        self, story: Story | None = None, *, nonce: bytes = NONCE, **changes: object
    ) -> dict[str, bytes]:
        """``changes`` are of the quote's fields."""
        told = story or Story()
        quote = self.form(told, nonce, **changes).pack()
        return recording(
            (quote, self.sign(quote)),
            told,
            ak=self.ak,
            ek=ek_public(self.ek),
            certificate=MAKER.device(self.ek.public_key()),
            nonce=nonce,
        )
