"""Canonical bytes, signatures, HPKE and identities: thin over ``cryptography``."""

from svetovid.crypto.canonical import (
    Base64,
    Digest,
    Document,
    KeyId,
    Name,
    Text,
    b64decode,
    b64encode,
    canonical,
    digest,
    load_json,
)
from svetovid.crypto.envelope import Envelope, Signer, sign
from svetovid.crypto.hpke import ReceivingKey, seal
from svetovid.crypto.identity import Card, Identity, Revocation, Rotation
from svetovid.crypto.secret import Secret
from svetovid.crypto.succession import KeyHistory

__all__ = [
    "Base64",
    "Card",
    "Digest",
    "Document",
    "Envelope",
    "Identity",
    "KeyHistory",
    "KeyId",
    "Name",
    "ReceivingKey",
    "Revocation",
    "Rotation",
    "Secret",
    "Signer",
    "Text",
    "b64decode",
    "b64encode",
    "canonical",
    "digest",
    "load_json",
    "seal",
    "sign",
]
