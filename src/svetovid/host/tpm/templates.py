"""Public areas of the keys we ask a TPM for (TPMT_PUBLIC, TPM 2.0 Library Part 2, section 12.2.4).

All are primary keys: derived from the TPM's own seeds and these very bytes, so the same TPM makes
the same key again after every restart, and nothing needs to be stored.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from svetovid.evidence.tpm import (
    NV_INDEX_EK_CERT_ECC_P256,
    NV_INDEX_EK_CERT_RSA2048,
    Alg,
    Curve,
    ObjectAttr,
)
from svetovid.evidence.tpm.wire import tpm2b
from svetovid.host.tpm.wire import u16, u32

__all__ = ["AK", "CERTIFICATE_INDEX", "EK", "SEALED", "SRK", "EkKind"]

EkKind = Literal["ecc", "rsa"]

_HELD = ObjectAttr.FIXED_TPM | ObjectAttr.FIXED_PARENT
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
"""PolicyA: TPM2_PolicySecret(TPM_RH_ENDORSEMENT) (TCG EK Credential Profile 2.5, B.3.2)."""
_AES_128_CFB = u16(Alg.AES) + u16(128) + u16(Alg.CFB)
_NULL = u16(Alg.NULL)
_ZEROS_32 = tpm2b(bytes(32))


def _public(kind: Alg, attributes: ObjectAttr, policy: bytes, parameters: bytes) -> bytes:
    return u16(kind) + u16(Alg.SHA256) + u32(attributes) + tpm2b(policy) + parameters


def _storage_key(attributes: ObjectAttr, policy: bytes) -> bytes:
    attributes |= (
        _HELD | ObjectAttr.SENSITIVE_DATA_ORIGIN | ObjectAttr.RESTRICTED | ObjectAttr.DECRYPT
    )
    parameters = _AES_128_CFB + _NULL + u16(Curve.NIST_P256) + _NULL
    return _public(Alg.ECC, attributes, policy, parameters) + _ZEROS_32 + _ZEROS_32


EK: dict[EkKind, bytes] = {
    "ecc": _storage_key(ObjectAttr.ADMIN_WITH_POLICY, _EK_POLICY),
    "rsa": _public(
        Alg.RSA,
        _HELD
        | ObjectAttr.SENSITIVE_DATA_ORIGIN
        | ObjectAttr.ADMIN_WITH_POLICY
        | ObjectAttr.RESTRICTED
        | ObjectAttr.DECRYPT,
        _EK_POLICY,
        _AES_128_CFB + _NULL + u16(2048) + u32(0),
    )
    + tpm2b(bytes(256)),
}
"""Default EK templates L-2 (ECC P-256) and L-1 (RSA 2048) of the TCG EK Credential Profile."""

CERTIFICATE_INDEX: dict[EkKind, int] = {
    "ecc": NV_INDEX_EK_CERT_ECC_P256,
    "rsa": NV_INDEX_EK_CERT_RSA2048,
}

SRK = _storage_key(ObjectAttr.USER_WITH_AUTH | ObjectAttr.NO_DA, b"")
"""Storage root key, ECC P-256 (TCG TPM v2.0 Provisioning Guidance, section 7.5.1)."""

AK = (
    _public(
        Alg.ECC,
        _HELD
        | ObjectAttr.SENSITIVE_DATA_ORIGIN
        | ObjectAttr.USER_WITH_AUTH
        | ObjectAttr.NO_DA
        | ObjectAttr.RESTRICTED
        | ObjectAttr.SIGN,
        b"",
        _NULL + u16(Alg.ECDSA) + u16(Alg.SHA256) + u16(Curve.NIST_P256) + _NULL,
    )
    + tpm2b(hashlib.sha256(b"svetovid attestation key 1").digest())
    + tpm2b(b"")
)
"""Attestation key: restricted, so that it signs only what the TPM itself says (T3). The label where
the public point will stand makes it a key of our own, shared with no other software."""

SEALED = _public(
    Alg.KEYEDHASH, _HELD | ObjectAttr.USER_WITH_AUTH | ObjectAttr.NO_DA, b"", _NULL
) + tpm2b(b"")
"""A sealed data object; its secret comes from outside, so SENSITIVE_DATA_ORIGIN is clear."""
