"""What crosses between the proving and the deciding wing: challenges, evidence, anchors, values."""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from svetovid.crypto.canonical import (
    STRICT_BASE64,
    Base64,
    Digest,
    Document,
    KeyId,
    Name,
    Text,
    b64encode,
    base64_length,
    canonical,
)
from svetovid.crypto.envelope import Envelope
from svetovid.errors import LimitError
from svetovid.evidence.references import BootReferences, ReferenceValues

__all__ = [
    "MAX_EVIDENCE_LOG_BYTES",
    "NO_JOB",
    "NO_SUBJECT",
    "BootReferences",
    "Challenge",
    "HostRecord",
    "HostRole",
    "HostStatement",
    "JobKeys",
    "JobRole",
    "ReferenceValues",
    "Role",
    "TeeEvidence",
    "TpmEvidence",
    "TrustAnchor",
    "TrustAnchors",
    "binding",
    "evidence_log",
]

JobRole = Literal["release", "renew", "finish"]
HostRole = Literal[JobRole, "attest"]
Role = Literal[HostRole, "manager"]
"""What evidence is for: a step of a job, a host's standing at an interval, or a manager's word on
its own machine (T1)."""
Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){1,64}$")]

MAX_EVIDENCE_LOG_BYTES = 10 << 20
"""Of the measurement log in one piece of evidence: about 75,000 entries. In base64, with a boot log
beside it, it stays within what a manager reads of a request. A log may grow beyond it, since
evidence brings what is new: ``svetovid.evidence.ima.MAX_LOG_BYTES`` bounds the whole."""

NO_SUBJECT = "sha256:" + "0" * 64
"""The subject of evidence that speaks of nothing beyond the host and its keys."""
NO_JOB = NO_SUBJECT
"""The job of evidence that speaks of a machine alone: roles ``attest`` and ``manager``."""


class TrustAnchor(Document):
    """A certificate authority whose certificates an owner accepts on devices.

    ``simulated`` is for authorities of software TPMs and simulated TEEs: whoever runs the host can
    read their keys, so they protect nothing.

    Attributes:
        kind: what it certifies: endorsement keys of TPMs, or keys of TEEs.
        name: for people.
        certificate: DER, self-signed or not: it is trusted as it stands.
        simulated: whether devices under it protect nothing.
    """

    kind: Literal["tpm-ek", "tee"]
    name: Text
    certificate: Base64
    simulated: bool


class TrustAnchors(Document):
    """A signed, numbered set of anchors. An owner's policy pins it (T2).

    Attributes:
        product: what the signer calls this line of sets.
        version: rises with every edition.
        anchors: all that count.
    """

    TYPE: ClassVar[str] = "trust-anchors"
    product: Name
    version: Annotated[int, Field(ge=1)]
    anchors: Annotated[tuple[TrustAnchor, ...], Field(min_length=1, max_length=256)]


class HostStatement(Document):
    """An operator's word, signed, on which machine this is (T3).

    Attributes:
        host: the operator's name for it.
        operator: the key that signs this statement.
        machine_owner: who owns the hardware.
        kind: which evidence it gives.
        device: SHA-256 of the EK's TPMT_PUBLIC (``tpm``) or of the device certificate's
            SubjectPublicKeyInfo (``simulated-tee``).
        agent: key that the host's agent signs its requests with.
        issued_at: by the operator's clock, Unix seconds.
    """

    TYPE: ClassVar[str] = "host-statement"
    host: Name
    operator: KeyId
    machine_owner: Text
    kind: Literal["tpm", "simulated-tee"]
    device: Digest
    agent: KeyId
    issued_at: int


class HostRecord(Document):
    """An enrolled host; signed by the manager that enrolled it. Its digest-free id is ``host_id``.

    Attributes:
        statement: the operator's signed :class:`HostStatement`.
        device_certificates: DER, leaf first: the EK certificate or the TEE's key certificate.
        ek_public, ak_public: TPMT_PUBLIC bytes (``tpm`` only). The AK is bound to the EK by
            credential activation before this record exists.
    """

    TYPE: ClassVar[str] = "host-record"
    statement: Envelope
    device_certificates: Annotated[tuple[Base64, ...], Field(min_length=1, max_length=8)]
    ek_public: Base64 | None = None
    ak_public: Base64 | None = None

    @property
    def host_id(self) -> str:
        """Digest of the operator's statement: the name of this host everywhere."""
        return self.statement.payload_digest()


class JobKeys(Document):
    """Keys the agent makes for one job; both are bound into every piece of evidence (T6).

    Attributes:
        receiving: public HPKE key that releases are sealed to.
        signing: key that signs heads, ends of leases and the receipt.
    """

    receiving: Base64
    signing: KeyId


class Challenge(Document):
    """A fresh nonce with its scope. Signed, single use, short-lived.

    Attributes:
        manager: who asks a host; in role ``manager``, who is asked.
        host: digest of the statement on the machine that is asked.
        log_offset: entries of the measurement log that the asker holds; send those after.
        asker: who asks a manager (role ``manager``) and signs this; else the manager does.
        nonce: 32 random bytes.
        job: digest of the job; all zeros in roles ``attest`` and ``manager``.
        role: what the evidence is for.
        issued_at: by the signer's clock, Unix seconds.
        expires_at: Unix seconds; from then on no answer counts.
    """

    TYPE: ClassVar[str] = "challenge"
    nonce: Base64
    manager: KeyId
    host: Digest
    job: Digest
    role: Role
    issued_at: int
    expires_at: int
    log_offset: Annotated[int, Field(ge=0)] = 0
    asker: KeyId | None = None

    @property
    def signer(self) -> str:
        """Whose signature makes it a challenge."""
        return self.manager if self.asker is None else self.asker


class TpmEvidence(Document):
    """A quote with the logs that explain it.

    Attributes:
        challenge: as the manager signed it.
        keys: this job's keys.
        channel: SHA-256 of the DER certificate that the manager's TLS server showed
            (tls-server-end-point, RFC 5929).
        subject: digest of what the evidence speaks of (:data:`NO_SUBJECT` if nothing): the
            outputs and the whole log at the end of a job (T13).
        quote, signature: TPMS_ATTEST and TPMT_SIGNATURE as the TPM gave them.
        pcrs: SHA-256 bank, PCR number to value in hex.
        log: binary_runtime_measurements (IMA) from entry ``log_offset`` on.
        log_offset: entries left out because the manager holds them.
        boot_log: TCG event log where the firmware keeps one.
        kind: tells this from other evidence.
        host: digest of the operator's statement on this machine.
    """

    TYPE: ClassVar[str] = "evidence-tpm"
    kind: Literal["tpm"] = "tpm"
    challenge: Envelope
    host: Digest
    keys: JobKeys
    channel: Digest
    subject: Digest
    quote: Base64
    signature: Base64
    pcrs: dict[Annotated[str, StringConstraints(pattern=r"^([0-9]|1[0-9]|2[0-3])$")], Hex]
    log: Annotated[
        str,
        StringConstraints(max_length=base64_length(MAX_EVIDENCE_LOG_BYTES)),
        STRICT_BASE64,
    ]
    log_offset: Annotated[int, Field(ge=0)]
    boot_log: Base64 | None = None


def evidence_log(data: bytes) -> str:
    """A measurement log as evidence holds it.

    Raises:
        LimitError: ``evidence.log_size``: no manager could read it.
    """
    if len(data) > MAX_EVIDENCE_LOG_BYTES:
        raise LimitError(
            "evidence.log_size",
            expected=f"at most {MAX_EVIDENCE_LOG_BYTES} bytes of measurement log at once",
            observed=f"{len(data)} bytes",
            next_step="restart the host, and measure less: fewer files, or an IMA policy that"
            " leaves out what no job can load",
        )
    return b64encode(data)


class TeeEvidence(Document):
    """A SIMULATED TEE's report. It protects nothing: it stands where SGX, TDX and SNP will.

    Attributes:
        report: canonical bytes of the simulated report (measurement, report data, debug, svn).
        signature: ECDSA P-256 SHA-256, DER, by the key of the host record's first certificate.
        kind: tells this from other evidence.
        challenge: as the manager signed it.
        host: digest of the operator's statement on this machine.
        keys: this job's keys.
        channel: as in :class:`TpmEvidence`.
        subject: as in :class:`TpmEvidence`.
    """

    TYPE: ClassVar[str] = "evidence-simulated-tee"
    kind: Literal["simulated-tee"] = "simulated-tee"
    challenge: Envelope
    host: Digest
    keys: JobKeys
    channel: Digest
    subject: Digest
    report: Base64
    signature: Base64


def binding(challenge: Challenge, keys: JobKeys, channel: str, subject: str = NO_SUBJECT) -> bytes:
    """The 32 bytes of qualifyingData or report data (T6).

    SHA-256 over the canonical form of label, version, role, manager key, host id, challenge, job,
    HPKE key, per-job signing key, channel binding and subject.

    Args:
        challenge: that is answered.
        keys: the agent's for this job.
        channel: SHA-256 of the certificate that the TLS server showed (RFC 5929).
        subject: digest of what the evidence speaks of beyond host and keys.
    """
    fields = {
        "label": "svetovid evidence binding",
        "version": 1,
        "role": challenge.role,
        "manager": challenge.manager,
        "host": challenge.host,
        "challenge": challenge.digest(),
        "job": challenge.job,
        "receiving": keys.receiving,
        "signing": keys.signing,
        "channel": channel,
        "subject": subject,
    }
    return hashlib.sha256(canonical(fields)).digest()
