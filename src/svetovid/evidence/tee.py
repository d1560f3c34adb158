"""A SIMULATED TEE's report. Whoever runs the host holds its key: it protects nothing.

It stands behind the same seam as real enclaves will: a measurement, report data bound as T6, a
debug flag, a security version, and a signature whose key has its own chain of certificates.
"""

from __future__ import annotations

import hmac
from typing import Annotated, ClassVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, StringConstraints

from svetovid.crypto.canonical import Digest, Document
from svetovid.errors import EvidenceError, ParseError
from svetovid.evidence.certificates import load_certificate

__all__ = ["MAX_REPORT_BYTES", "SimulatedReport", "verify_report"]

MAX_REPORT_BYTES = 4096


class SimulatedReport(Document):
    """What the simulated TEE signs.

    Attributes:
        measurement: digest of what runs inside.
        report_data: the 32 bytes of :func:`svetovid.evidence.documents.binding`, in hex.
        debug: whether its memory could be read by a debugger; refused where true.
        svn: security version number of the simulated platform.
    """

    TYPE: ClassVar[str] = "simulated-tee-report"
    measurement: Digest
    report_data: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    debug: bool
    svn: Annotated[int, Field(ge=0, le=0xFFFF)]


def verify_report(
    report: bytes, signature: bytes, *, certificate: bytes, report_data: bytes
) -> SimulatedReport:
    """Verify a simulated report.

    Args:
        report: canonical bytes of a :class:`SimulatedReport`.
        signature: ECDSA P-256 with SHA-256, DER, over them.
        certificate: DER of the device's certificate.
        report_data: the 32 bytes it must carry.

    Raises:
        InputError: ``json.*``, ``document.invalid``, ``tee.canonical``, ``tee.certificate``.
        EvidenceError: ``tee.algorithm``, ``tee.signature``,
            ``challenge.mismatch``, ``tee.debug``.
    """
    said = SimulatedReport.parse(report, max_bytes=MAX_REPORT_BYTES)
    if said.canonical() != report:
        raise ParseError(
            "tee.canonical",
            expected="the canonical form (RFC 8785)",
            observed="another form of the same report",
            next_step="send the report exactly as the TEE signed it",
        )
    if not hmac.compare_digest(said.report_data, report_data.hex()):
        raise EvidenceError(
            "challenge.mismatch",
            expected=report_data.hex(),
            observed=said.report_data,
            next_step="ask the TEE for a report over the current challenge",
        )
    key = load_certificate(certificate, "tee").public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise EvidenceError(
            "tee.algorithm",
            expected="a P-256 key",
            observed=type(key).__name__,
            next_step="enrol the host again with a P-256 device certificate",
        )
    try:
        key.verify(signature, report, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as e:
        raise EvidenceError(
            "tee.signature",
            expected="a signature by the enrolled device",
            observed="one that does not hold",
            next_step="ask for a fresh report; if it stays, enrol the host again",
        ) from e
    if said.debug:
        raise EvidenceError(
            "tee.debug",
            expected="debug off",
            observed="debug on",
            next_step="start the TEE without debug",
        )
    return said
