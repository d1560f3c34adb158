"""Identities: an Ed25519 key to sign with and a hybrid HPKE key to receive with.

The public form is a self-signed card. Rotation and revocation are signed statements; the old key
names its successor, and both sign, so neither can be forced on the other.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from svetovid.crypto.canonical import Base64, Document, KeyId, Name, Text
from svetovid.crypto.envelope import Envelope, sign
from svetovid.crypto.hpke import ReceivingKey
from svetovid.crypto.secret import Secret

__all__ = ["Card", "Identity", "Revocation", "Rotation"]


class Card(Document):
    """The public half of an identity, signed by itself.

    Attributes:
        name: what its owner calls itself; proves nothing.
        signing: the key it signs with.
        receiving: public HPKE key that secrets are sealed to.
    """

    TYPE: ClassVar[str] = "card"
    MAX_MEMBERS: ClassVar[int] = 256
    name: Name
    signing: KeyId
    receiving: Annotated[Base64, Field(max_length=2048)]

    @classmethod
    def open(cls, envelope: Envelope) -> Card:
        """Verify a self-signed card.

        Raises:
            IntegrityError: ``signature.*``.
        """
        card = envelope.peek(cls)
        envelope.require(card.signing)
        return card


class Rotation(Document):
    """``old`` hands over to ``new``. Signed by both. What ``old`` agreed to before stays agreed.

    Attributes:
        old: the key that hands over.
        new: card of the one that follows.
        issued_at: by the signer's clock, Unix seconds.
    """

    TYPE: ClassVar[str] = "rotation"
    MAX_MEMBERS: ClassVar[int] = 256
    old: KeyId
    new: Card
    issued_at: int


class Revocation(Document):
    """``key`` signs nothing more from now on. Signed by the key itself or by its successor.

    Attributes:
        key: the one that is revoked.
        why: for people.
        issued_at: by the signer's clock, Unix seconds.
    """

    TYPE: ClassVar[str] = "revocation"
    MAX_MEMBERS: ClassVar[int] = 256
    key: KeyId
    why: Text
    issued_at: int


class Identity:
    """A private identity in memory. See :mod:`svetovid.crypto.keystore` for how it is stored.

    Args:
        name: what it calls itself; proves nothing.
        signing_seed: 32 bytes, of Ed25519 (RFC 8032).
        receiving: what secrets are sealed to.
    """

    def __init__(self, name: str, signing_seed: Secret, receiving: ReceivingKey) -> None:
        self.name = name
        self.signing_seed = signing_seed
        self.receiving = receiving
        self._signing = Ed25519PrivateKey.from_private_bytes(signing_seed.reveal())
        self.key_id: str = "ed25519:" + self._signing.public_key().public_bytes_raw().hex()

    @classmethod
    def generate(cls, name: str) -> Identity:
        """A fresh one, from the operating system's generator."""
        return cls(name, Secret.random(32), ReceivingKey.generate())

    def sign_bytes(self, data: bytes) -> bytes:
        """Raw Ed25519 over ``data``. Callers sign documents through :func:`envelope.sign`."""
        return self._signing.sign(data)

    @property
    def card(self) -> Card:
        """Its public half."""
        return Card(name=self.name, signing=self.key_id, receiving=self.receiving.public)

    def signed_card(self) -> Envelope:
        """Its public half, signed by itself: what others pin."""
        return sign(self.card, self)

    def rotate(self, now: int) -> tuple[Identity, Envelope]:
        """A fresh identity of the same name, and the rotation both keys signed."""
        new = Identity.generate(self.name)
        return new, sign(Rotation(old=self.key_id, new=new.card, issued_at=now), self, new)

    def revoke(self, key: str, why: str, now: int) -> Envelope:
        """Revoke ``key``: this identity's own, or the one it succeeded.

        Args:
            key: id of the key that is to sign nothing more.
            why: for people.
            now: Unix seconds.
        """
        return sign(Revocation(key=key, why=why, issued_at=now), self)

    def __repr__(self) -> str:
        return f"<Identity {self.name} {self.key_id}>"

    def __reduce__(self) -> Any:
        raise TypeError("an Identity is not pickled")
