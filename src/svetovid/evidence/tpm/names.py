"""Names of TPM objects (Part 1, section 16) and the keys behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from svetovid.errors import ParseError
from svetovid.evidence.tpm.constants import Alg, Curve, Rh
from svetovid.evidence.tpm.structures import Public

__all__ = ["HASHES", "endorsement_signers", "hash_name", "name", "public_key"]

HASHES: Mapping[int, type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]] = {
    Alg.SHA256: hashes.SHA256,
    Alg.SHA384: hashes.SHA384,
    Alg.SHA512: hashes.SHA512,
}
_CURVES: Mapping[int, type[ec.EllipticCurve]] = {
    Curve.NIST_P256: ec.SECP256R1,
    Curve.NIST_P384: ec.SECP384R1,
    Curve.NIST_P521: ec.SECP521R1,
}


def hash_name(alg: int) -> str:
    """The hashlib name of a TPM hash algorithm.

    Raises:
        ParseError: ``tpm.algorithm`` for anything but SHA-256, SHA-384, SHA-512.
    """
    if alg not in HASHES:
        raise ParseError(
            "tpm.algorithm",
            expected="SHA-256, SHA-384 or SHA-512",
            observed=f"{alg:#06x}",
            next_step="make the key with nameAlg SHA-256",
        )
    return HASHES[alg].name


def name(public: Public) -> bytes:
    """The object's name: nameAlg and the hash of its TPMT_PUBLIC.

    Raises:
        ParseError: ``tpm.algorithm``.
    """
    digest = hashlib.new(hash_name(public.name_alg), public.raw).digest()
    return public.name_alg.to_bytes(2, "big") + digest


def _qualified(parent: bytes, public: Public) -> bytes:
    digest = hashlib.new(hash_name(public.name_alg), parent + name(public)).digest()
    return public.name_alg.to_bytes(2, "big") + digest


def endorsement_signers(ek: Public, ak: Public) -> frozenset[bytes]:
    """Qualified names that ``ak`` can have in the endorsement hierarchy.

    It is a child of ``ek`` or a primary key there. Elsewhere the TPM would obfuscate its reset
    and restart counters in what it signs (Part 1, section 36.7), so such keys are not enrolled.

    Raises:
        ParseError: ``tpm.algorithm``.
    """
    root = int(Rh.ENDORSEMENT).to_bytes(4, "big")
    return frozenset({_qualified(root, ak), _qualified(_qualified(root, ek), ak)})


@lru_cache(maxsize=2048)
def public_key(public: Public) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """The key in ``cryptography``'s form.

    Raises:
        ParseError: ``tpm.malformed`` for a point off its curve or a modulus nobody can use.
    """
    numbers = [int.from_bytes(part, "big") for part in public.unique]
    try:
        if public.type == Alg.RSA:
            return rsa.RSAPublicNumbers(public.exponent, numbers[0]).public_key()
        curve = _CURVES[public.curve]()
        return ec.EllipticCurvePublicNumbers(numbers[0], numbers[1], curve).public_key()
    except (ValueError, UnsupportedAlgorithm) as e:
        raise ParseError(
            "tpm.malformed",
            expected="a valid public key",
            observed=str(e),
            next_step="enrol the host again with the key its TPM reports",
        ) from e
