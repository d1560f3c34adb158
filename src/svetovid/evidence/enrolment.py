"""What a manager checks when a host enrols (T3): what was sent, and that it holds its keys.

Nothing here consults an anchor: whether the device's vendor is to be believed is each owner's own
choice, made at every appraisal (T2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from svetovid.crypto.canonical import canonical, digest
from svetovid.crypto.envelope import Envelope
from svetovid.errors import EvidenceError
from svetovid.evidence.certificates import MAX_CHAIN, check_leaf, load_certificate, spki
from svetovid.evidence.documents import HostStatement
from svetovid.evidence.tpm.attributes import check_ak, check_ek
from svetovid.evidence.tpm.constants import EK_CERTIFICATE_OID
from svetovid.evidence.tpm.names import name, public_key
from svetovid.evidence.tpm.structures import parse_public

__all__ = [
    "check_device",
    "check_ek_certificate",
    "check_enrolment",
    "enrolment_binding",
    "open_statement",
]


@lru_cache(maxsize=2048)
def open_statement(envelope: Envelope) -> HostStatement:
    """The statement, signed by the operator that it names.

    Raises:
        ParseError, IntegrityError: ``document.*``, ``signature.*``.
    """
    return envelope.open(HostStatement, by=envelope.peek(HostStatement).operator)


def check_ek_certificate(ek_public: bytes, certificate: bytes) -> None:
    """The EK and its certificate speak of one key (I6).

    Raises:
        ParseError: ``tpm.malformed``, ``ek.certificate``.
        EvidenceError: ``ek.key_mismatch``.
    """
    key = public_key(parse_public(ek_public))
    own = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certified = spki(load_certificate(certificate, "ek"))
    if own != certified:
        raise EvidenceError(
            "ek.key_mismatch",
            expected=f"the certified key {digest(certified)}",
            observed=digest(own),
            next_step="send the endorsement key that the certificate was issued for",
        )


def check_device(statement: HostStatement, ek_public: bytes | None, certificate: bytes) -> None:
    """The operator's statement is about this very device (T3).

    Raises:
        ParseError: ``tee.certificate``.
        EvidenceError: ``enrol.device``.
    """
    device = spki(load_certificate(certificate, "tee")) if ek_public is None else ek_public
    if statement.device != digest(device):
        raise EvidenceError(
            "enrol.device",
            expected=f"the device of the operator's statement, {statement.device}",
            observed=digest(device),
            next_step="ask the operator for a statement about this device, and enrol with it",
        )


def check_enrolment(
    statement: Envelope,
    certificates: Sequence[bytes],
    ek_public: bytes | None,
    ak_public: bytes | None,
    now: int,
) -> HostStatement:
    """Everything about an enrolment that needs no secret and no anchor.

    The manager then proves, by credential activation with
    :func:`svetovid.evidence.tpm.credential.make_credential`, that AK and EK live in one TPM.

    Args:
        statement: the operator's signed :class:`HostStatement`.
        certificates: DER, the device's own first.
        ek_public, ak_public: TPMT_PUBLIC bytes for ``tpm``, None for ``simulated-tee``.
        now: Unix seconds.

    Raises:
        ParseError: ``document.*``, ``tpm.*``, ``ek.certificate``, ``tee.certificate``.
        IntegrityError: ``signature.*``.
        EvidenceError: ``enrol.form``, ``enrol.device``, ``ak.*``, ``ek.*``, ``tee.*``.
    """
    said = open_statement(statement)
    keys = (ek_public, ak_public)
    is_tpm = said.kind == "tpm"
    if not 1 <= len(certificates) <= MAX_CHAIN or any((k is not None) != is_tpm for k in keys):
        raise EvidenceError(
            "enrol.form",
            expected=f"1 to {MAX_CHAIN} certificates; EK and AK for a TPM, neither for a TEE",
            observed=f"{said.kind}, {len(certificates)} certificates",
            next_step="enrol again with this version's agent",
        )
    check_device(said, ek_public, certificates[0])
    if ek_public is None or ak_public is None:
        check_leaf(load_certificate(certificates[0], "tee"), "tee", now)
        return said
    ek, ak = parse_public(ek_public), parse_public(ak_public)
    check_ek(ek)
    check_ak(ak)
    public_key(ak)
    name(ak)
    check_ek_certificate(ek_public, certificates[0])
    check_leaf(load_certificate(certificates[0], "ek"), "ek", now, EK_CERTIFICATE_OID)
    return said


def enrolment_binding(manager: str, host: str, nonce: str) -> bytes:
    """The 32 bytes of report data with which a TEE shows that it holds its certificate's key.

    SHA-256 over the canonical form of label, version, manager key, host id and the manager's nonce.
    Evidence has another label (T6), so neither is ever taken for the other.
    """
    fields = {
        "label": "svetovid enrolment binding",
        "version": 1,
        "manager": manager,
        "host": host,
        "nonce": nonce,
    }
    return hashlib.sha256(canonical(fields)).digest()
