"""Sealing to a receiver: HPKE (RFC 9180) over ML-KEM-768 + X25519, HKDF-SHA256, AES-256-GCM.

The hybrid KEM holds as long as either part does. ``info`` is the canonical form of the context, so
what was sealed for one asset, job or host opens for no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from svetovid.crypto.canonical import b64decode, b64encode, canonical
from svetovid.crypto.secret import Secret
from svetovid.errors import IntegrityError, ParseError

__all__ = ["PUBLIC_KEY_BYTES", "ReceivingKey", "seal"]

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_PUBLIC = 1184
_MLKEM_SEED = 64
_X25519 = 32
PUBLIC_KEY_BYTES = _MLKEM_PUBLIC + _X25519


class ReceivingKey:
    """A private key to receive with.

    ``public`` is base64 of the raw ML-KEM-768 and X25519 public keys, in this order.
    """

    def __init__(self, seed: Secret) -> None:
        raw = seed.reveal()
        if len(raw) != _MLKEM_SEED + _X25519:
            raise ParseError(
                "key.length",
                expected="96 bytes",
                observed=str(len(raw)),
                next_step="ask the key's owner for its card again; the key was cut or padded",
            )
        self.seed = seed
        kem = MLKEM768PrivateKey.from_seed_bytes(raw[:_MLKEM_SEED])
        dh = X25519PrivateKey.from_private_bytes(raw[_MLKEM_SEED:])
        self._private = MLKEM768X25519PrivateKey(kem, dh)
        self.public: str = b64encode(
            kem.public_key().public_bytes_raw() + dh.public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls) -> ReceivingKey:
        """A fresh one, from the operating system's generator."""
        return cls(Secret.random(_MLKEM_SEED + _X25519))

    def open(self, sealed: str, context: Mapping[str, Any]) -> Secret:
        """Open what was sealed to this key in this very context.

        Raises:
            IntegrityError: ``hpke.open`` for another key, context or altered bytes.
        """
        try:
            return Secret(
                _SUITE.decrypt(b64decode(sealed), self._private, canonical(dict(context)))
            )
        except (InvalidTag, ValueError) as e:
            raise IntegrityError(
                "hpke.open",
                expected="a message sealed to this key in this context",
                observed="another key or context, or altered bytes",
                next_step="have it sealed again for this receiver and purpose",
            ) from e


def _public(text: str) -> MLKEM768X25519PublicKey:
    raw = b64decode(text)
    if len(raw) != PUBLIC_KEY_BYTES:
        raise ParseError(
            "key.length",
            expected=f"{PUBLIC_KEY_BYTES} bytes",
            observed=str(len(raw)),
            next_step="ask the key's owner for its card again; the key was cut or padded",
        )
    try:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC:]),
        )
    except ValueError as e:
        raise ParseError(
            "key.invalid",
            expected="an ML-KEM-768 and an X25519 public key",
            next_step="ask the key's owner for a new card",
        ) from e


def seal(secret: Secret, receiver: str, context: Mapping[str, Any]) -> str:
    """Seal ``secret`` to the base64 public key ``receiver``; base64 out.

    Args:
        secret: what is sealed.
        receiver: as :attr:`ReceivingKey.public` gives it.
        context: what it is for; opens only with the very same.

    Raises:
        ParseError: ``key.length``, ``key.invalid``.
        IntegrityError: ``hpke.seal`` for a key that yields no shared secret (low order).
    """
    key = _public(receiver)
    try:
        return b64encode(_SUITE.encrypt(secret.reveal(), key, canonical(dict(context))))
    except ValueError as e:
        raise IntegrityError(
            "hpke.seal",
            expected="a usable receiving key",
            next_step="ask the recipient for a new card",
        ) from e
