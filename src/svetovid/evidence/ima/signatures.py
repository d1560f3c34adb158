"""IMA's file signatures, version 2: whose word a file's digest is.

``security.ima`` as it stands in the ``sig`` field (Linux ``security/integrity/integrity.h``)::

    u8 3 (EVM_IMA_XATTR_DIGSIG) | u8 version 2 | u8 hash | u32 key id, big endian
    | u16 size, big endian | signature over the file's digest

RSA signs by PKCS #1 v1.5, ECDSA in DER. The key id is the end of the SHA-1 of the public key. The
older version 1 and the newer version 3 (over fs-verity digests) are refused by code; so are
portable EVM signatures, which are of attributes and not of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from svetovid.errors import EvidenceError, ParseError

__all__ = ["Signer", "check_signature", "load_signer"]

Signer = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_HEADER = struct.Struct(">BBBIH")
_DIGSIG, _VERSION = 3, 2
_HASHES: dict[int, hashes.HashAlgorithm] = {
    4: hashes.SHA256(),
    5: hashes.SHA384(),
    6: hashes.SHA512(),
}
"""Hashes of Linux's ``enum hash_algo`` that count."""
_MIN_RSA = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


def _key_id(key: Signer) -> int:
    return int.from_bytes(x509.SubjectKeyIdentifier.from_public_key(key).digest[-4:], "big")


@lru_cache(maxsize=64)
def load_signer(der: bytes) -> tuple[int, Signer]:
    """(key id, key) of a DER SubjectPublicKeyInfo.

    Raises:
        ParseError: ``ima.signer`` for anything but RSA of at least 2048 bits or a NIST curve.
    """
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA:
        return _key_id(key), key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _key_id(key), key
    raise ParseError(
        "ima.signer",
        expected=f"RSA of at least {_MIN_RSA} bits, or a NIST curve, as SubjectPublicKeyInfo",
        observed=type(key).__name__ if key else f"{len(der)} bytes",
        next_step="name the key that signs the files in the reference values",
    )


def _refused(code: str, expected: str, observed: object) -> EvidenceError:
    return EvidenceError(
        code,
        expected=expected,
        observed=observed,
        next_step="sign the file anew with a key of the reference values, or list its digest",
    )


def check_signature(signature: bytes, digest: bytes, signers: Iterable[tuple[int, Signer]]) -> None:
    """One of the signers signed a file with this digest (M15).

    Args:
        signature: content of the ``sig`` field.
        digest: of the file, in the hash that the signature names.

    Raises:
        ParseError: ``ima.sig_malformed``.
        EvidenceError: ``ima.sig_version``, ``ima.sig_alg``, ``ima.sig_key``, ``ima.sig_invalid``.
    """
    if len(signature) < _HEADER.size:
        raise ParseError(
            "ima.sig_malformed",
            expected=f"a header of {_HEADER.size} bytes",
            observed=f"{len(signature)} bytes",
            next_step="sign the file anew",
        )
    kind, version, algorithm, wanted, size = _HEADER.unpack_from(signature)
    if (kind, version) != (_DIGSIG, _VERSION):
        raise _refused("ima.sig_version", "an IMA signature, version 2", (kind, version))
    if size != len(signature) - _HEADER.size:
        raise ParseError(
            "ima.sig_malformed",
            expected=f"{size} bytes of signature",
            observed=f"{len(signature) - _HEADER.size} bytes",
            next_step="sign the file anew",
        )
    hash_algorithm = _HASHES.get(algorithm)
    if hash_algorithm is None or hash_algorithm.digest_size != len(digest):
        raise _refused("ima.sig_alg", f"the hash of the {len(digest)}-byte digest", algorithm)
    keys = [key for key_id, key in signers if key_id == wanted]
    if not keys:
        raise _refused("ima.sig_key", "a key of the reference values", f"key {wanted:08x}")
    if not any(_holds(key, signature[_HEADER.size :], digest, hash_algorithm) for key in keys):
        raise _refused("ima.sig_invalid", "a signature that holds", f"one by key {wanted:08x}")


def _holds(key: Signer, signature: bytes, digest: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    prehashed = Prehashed(algorithm)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, digest, padding.PKCS1v15(), prehashed)
        else:
            key.verify(signature, digest, ec.ECDSA(prehashed))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True
