"""What an attestation key and an endorsement key must be, before anything they do counts."""

from __future__ import annotations

from svetovid.errors import EvidenceError
from svetovid.evidence.tpm.constants import Alg, ObjectAttr
from svetovid.evidence.tpm.names import HASHES
from svetovid.evidence.tpm.structures import Public

__all__ = ["check_ak", "check_ek"]

_BORN_HERE = ObjectAttr.FIXED_TPM | ObjectAttr.FIXED_PARENT | ObjectAttr.SENSITIVE_DATA_ORIGIN
_AK_NEEDS = _BORN_HERE | ObjectAttr.RESTRICTED | ObjectAttr.SIGN
_EK_NEEDS = _BORN_HERE | ObjectAttr.RESTRICTED | ObjectAttr.DECRYPT
_MIN_RSA_BITS = 2048


def _attributes(code: str, public: Public, needs: ObjectAttr, never: ObjectAttr) -> None:
    lacking = [a.name for a in needs if not public.attributes & a]
    excess = [a.name for a in never if public.attributes & a]
    if lacking or excess:
        raise EvidenceError(
            code,
            expected=f"{needs!s} without {never!s}",
            observed=f"lacks {lacking}, has {excess}",
            next_step="let the host's agent make its keys from the standard templates",
        )


def _size(code: str, public: Public) -> None:
    if public.type == Alg.RSA and public.key_bits < _MIN_RSA_BITS:
        raise EvidenceError(
            code,
            expected=f"RSA of at least {_MIN_RSA_BITS} bits",
            observed=public.key_bits,
            next_step="use a TPM with RSA-2048 or ECC P-256 keys",
        )


def check_ak(ak: Public) -> None:
    """A restricted signing key that was born in this TPM and cannot leave it (I1).

    Restricted: it signs only what the TPM itself made, so a quote cannot be forged through it.

    Raises:
        EvidenceError: ``ak.attributes``, ``ak.scheme``, ``ak.size``.
    """
    _attributes("ak.attributes", ak, _AK_NEEDS, ObjectAttr.DECRYPT)
    schemes = (Alg.ECDSA,) if ak.type == Alg.ECC else (Alg.RSASSA, Alg.RSAPSS)
    if ak.scheme is None or ak.scheme[0] not in schemes or ak.scheme[1] not in HASHES:
        raise EvidenceError(
            "ak.scheme",
            expected="a fixed RSASSA, RSAPSS or ECDSA scheme with SHA-256 or stronger",
            observed=ak.scheme,
            next_step="make the attestation key with a fixed signing scheme",
        )
    _size("ak.size", ak)


def check_ek(ek: Public) -> None:
    """A restricted decryption key that was born in this TPM (EK Credential Profile, B.3, B.4).

    Raises:
        EvidenceError: ``ek.attributes``, ``ek.size``.
    """
    _attributes("ek.attributes", ek, _EK_NEEDS, ObjectAttr.SIGN)
    _size("ek.size", ek)
