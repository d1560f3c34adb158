"""A quote, held against the key that must have signed it and the values it must speak of."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from svetovid.errors import EvidenceError
from svetovid.evidence.tpm.constants import RESETTABLE_PCRS, Alg
from svetovid.evidence.tpm.names import HASHES, hash_name, public_key
from svetovid.evidence.tpm.structures import (
    Attest,
    ClockInfo,
    PcrSelection,
    Public,
    Signature,
    parse_attest,
    parse_signature,
)

__all__ = ["check_no_reset", "verify_quote"]

_BANKS = {"sha256": (Alg.SHA256, 32), "sha384": (Alg.SHA384, 48), "sha512": (Alg.SHA512, 64)}
"""PCR banks that count as evidence: their algorithm, and the size of their values."""


def _check_signature(ak: Public, signature: Signature, data: bytes) -> None:
    if ak.scheme != (signature.scheme, signature.hash):
        raise EvidenceError(
            "sig.scheme",
            expected=f"the key's own scheme {ak.scheme}",
            observed=(signature.scheme, signature.hash),
            next_step="quote with the enrolled attestation key and its fixed scheme",
        )
    key = public_key(ak)
    digest = HASHES[signature.hash]()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            r, s = (int.from_bytes(part, "big") for part in signature.parts)
            key.verify(encode_dss_signature(r, s), data, ec.ECDSA(digest))
        elif signature.scheme == Alg.RSAPSS:
            pss = padding.PSS(padding.MGF1(digest), padding.PSS.AUTO)
            key.verify(signature.parts[0], data, pss, digest)
        else:
            key.verify(signature.parts[0], data, padding.PKCS1v15(), digest)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as e:
        raise EvidenceError(
            "sig.invalid",
            expected="a signature by the enrolled attestation key",
            observed="one that does not hold",
            next_step="quote again; if it stays, enrol the host again",
        ) from e


def _selected(
    selections: tuple[PcrSelection, ...], needed: frozenset[int], wanted: str
) -> tuple[int, ...]:
    """The PCRs of the one selection, which is of the bank ``wanted``."""
    step = f"quote one selection: the {wanted} bank, each PCR once"
    banks = [s.bank for s in selections]
    if len(set(banks)) != len(banks):
        raise EvidenceError(
            "pcr.selection", expected="each bank once", observed=banks, next_step=step
        )
    if any(bank != _BANKS[wanted][0] for bank in banks):
        raise EvidenceError(
            "pcr.bank",
            expected=f"the {wanted} bank alone",
            observed=[f"{b:#06x}" for b in banks],
            next_step=step,
        )
    pcrs = selections[0].pcrs if selections else ()
    missing = sorted(needed - set(pcrs))
    if missing:
        raise EvidenceError(
            "pcr.missing",
            expected=f"PCRs {sorted(needed)}",
            observed=f"PCRs {list(pcrs)}",
            next_step=f"quote PCRs {missing} as well",
        )
    return pcrs


def verify_quote(
    attest: bytes,
    signature: bytes,
    *,
    ak: Public,
    signers: Collection[bytes],
    extra_data: bytes,
    pcrs: Mapping[int, bytes],
    needed: frozenset[int],
    bank: str = "sha256",
) -> Attest:
    """Verify a quote and return what it says.

    Args:
        attest, signature: TPMS_ATTEST and TPMT_SIGNATURE bytes.
        ak: the enrolled key, already held against :func:`~.attributes.check_ak`.
        signers: qualified names the key may have.
        extra_data: what qualifyingData must equal, byte for byte.
        pcrs: values as the host gives them, each as long as the bank's hash: exactly those quoted.
        needed: PCRs that must be among them.
        bank: of the values: ``sha256``, ``sha384`` or ``sha512``; the quote names no other.

    Raises:
        ParseError: ``attest.malformed``, ``tpm.malformed``.
        EvidenceError: ``attest.magic``, ``attest.type``, ``attest.signer``, ``challenge.mismatch``,
            ``sig.alg``, ``sig.scheme``, ``sig.invalid``, ``pcr.resettable``, ``pcr.selection``,
            ``pcr.bank``, ``pcr.missing``, ``pcr.digest``.
    """
    if needed & RESETTABLE_PCRS:
        raise EvidenceError(
            "pcr.resettable",
            expected="PCRs that only a reset of the machine clears",
            observed=sorted(needed & RESETTABLE_PCRS),
            next_step="do not rely on PCR 16 or 23",
        )
    said = parse_attest(attest)
    parsed = parse_signature(signature)
    if said.qualified_signer not in signers:
        raise EvidenceError(
            "attest.signer",
            expected="the enrolled key's qualified name in the endorsement hierarchy",
            observed=said.qualified_signer.hex(),
            next_step="quote with the enrolled attestation key",
        )
    if not hmac.compare_digest(said.extra_data, extra_data):
        raise EvidenceError(
            "challenge.mismatch",
            expected=extra_data.hex(),
            observed=said.extra_data.hex(),
            next_step="quote again with the binding of the current challenge",
        )
    _check_signature(ak, parsed, attest)
    selected = _selected(said.selections, needed, bank)
    if set(selected) != set(pcrs):
        raise EvidenceError(
            "pcr.selection",
            expected=f"the values of the quoted PCRs {list(selected)}",
            observed=f"values of {sorted(pcrs)}",
            next_step="send exactly the values that were quoted",
        )
    size = _BANKS[bank][1]
    if any(len(value) != size for value in pcrs.values()):
        raise EvidenceError(
            "pcr.bank",
            expected=f"{bank} values of {size} bytes",
            observed=sorted({len(v) for v in pcrs.values()}),
            next_step=f"send the {bank} bank",
        )
    # TPM2_Quote hashes the values with the hash of the signing scheme (Part 3, section 18.4).
    digest = hashlib.new(hash_name(parsed.hash), b"".join(pcrs[i] for i in selected)).digest()
    if not hmac.compare_digest(digest, said.pcr_digest):
        raise EvidenceError(
            "pcr.digest",
            expected=said.pcr_digest.hex(),
            observed=digest.hex(),
            next_step="read the PCRs and quote again while nothing extends them",
        )
    return said


def check_no_reset(earlier: ClockInfo, later: ClockInfo) -> None:
    """The same power-on of the same TPM, later or at the same millisecond (T12).

    Raises:
        EvidenceError: ``tpm.clock_rollback`` where a counter or the clock went back (F9),
            ``tpm.reset`` where the TPM was reset or restarted since.
    """
    before = (earlier.reset_count, earlier.restart_count)
    after = (later.reset_count, later.restart_count)
    if after < before or (after == before and later.clock < earlier.clock):
        raise EvidenceError(
            "tpm.clock_rollback",
            expected=f"not before {earlier}",
            observed=str(later),
            next_step="refuse this host until its operator explains the clock; then enrol it anew",
        )
    if after != before:
        raise EvidenceError(
            "tpm.reset",
            expected=f"reset and restart counts {before}",
            observed=str(after),
            next_step="start again with fresh release evidence: a lease ends with a TPM reset",
        )
