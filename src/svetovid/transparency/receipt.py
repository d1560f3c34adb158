"""Receipts: this output was made by this code from this data, under these consents, on this
evidence (T13). ``docs/spec/transparency.md``, section 4.

The job's own key, bound in the start quote, signs the receipt. The final quote's subject is the
digest of outputs, log and metrics. The manager countersigns with its place in its log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from svetovid.crypto import Digest, Document, Envelope, KeyId, Name, b64decode, digest
from svetovid.crypto.canonical import STRICT_BASE64, base64_length, canonical
from svetovid.errors import LimitError, ParseError
from svetovid.evidence import Challenge, TeeEvidence, TpmEvidence
from svetovid.evidence.ima import MAX_LOG_BYTES
from svetovid.policy.documents import Job
from svetovid.transparency.entries import LogProof

__all__ = [
    "MAX_BUNDLE_BYTES",
    "METRICS",
    "Countersignature",
    "Evidence",
    "Receipt",
    "ReceiptBundle",
    "assemble",
    "final_subject",
    "make_receipt",
]

MAX_BUNDLE_BYTES = 64 << 20
METRICS = "metrics"
"""The output that a job has beside the agreed ones: its sealed metrics (T9)."""

Evidence = Annotated[TpmEvidence | TeeEvidence, Field(discriminator="kind")]
Outputs = Annotated[dict[Name, Digest], Field(min_length=1, max_length=32)]


class Receipt(Document):
    """What the host says it did; signed by the per-job key of both pieces of evidence.

    Attributes:
        job: digest of the job.
        manager: whose challenges the evidence answers.
        host: digest of the operator's statement.
        environment: as agreed in the job.
        consents: payload digests of the consents, sorted.
        start, end: digests of the evidence, without its log (see :func:`assemble`).
        outputs: name to digest of the sealed output's manifest.
        metrics: salted digest of the metrics; the salt goes to the recipients with them.
        log: SHA-256 of the whole measurement log at the end (of nothing, where there is none).
        version: of this format.
    """

    TYPE: ClassVar[str] = "receipt"
    version: Literal["svetovid.receipt/v1"] = "svetovid.receipt/v1"
    job: Digest
    manager: KeyId
    host: Digest
    environment: Digest
    consents: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=256)]
    start: Digest
    end: Digest
    outputs: Outputs
    metrics: Digest
    log: Digest


class Countersignature(Document):
    """The manager's word on a receipt, with its own decisions. Signed by the manager.

    Attributes:
        receipt: payload digest of the receipt.
        release, finish: where the release that started the last run, and the end of the job, stand
            in its log. The finish entry names the receipt.
        resumes: how often the job was resumed.
        policies: envelopes of the importers' and exporters' policies that slots rest on which their
            owners did not consent to themselves; see :mod:`svetovid.transparency.imports`.
        manager: who signs.
        job: digest of the job.
        issued_at: by the manager's clock, Unix seconds.
    """

    TYPE: ClassVar[str] = "countersignature"
    MAX_BYTES: ClassVar[int] = 12_000_000
    manager: KeyId
    job: Digest
    receipt: Digest
    release: LogProof
    finish: LogProof
    resumes: Annotated[int, Field(ge=0)]
    policies: Annotated[tuple[Envelope, ...], Field(max_length=512)] = ()
    issued_at: int


class ReceiptBundle(Document):
    """All that a third party needs to verify a receipt, besides anchors of its own choosing.

    Attributes:
        receipt: envelope of :class:`Receipt`.
        job: in full.
        consents: envelopes of :class:`svetovid.policy.Consent`.
        host: envelope of :class:`svetovid.evidence.HostRecord`, signed by the manager.
        start, end: the evidence, its logs left out.
        log: the whole measurement log, of which both logs are a part.
        countersignature: envelope of :class:`Countersignature`.
    """

    TYPE: ClassVar[str] = "receipt-bundle"
    receipt: Envelope
    job: Job
    consents: Annotated[tuple[Envelope, ...], Field(min_length=1, max_length=256)]
    host: Envelope
    start: Evidence
    end: Evidence
    log: Annotated[str, StringConstraints(max_length=base64_length(MAX_LOG_BYTES)), STRICT_BASE64]
    countersignature: Envelope


def final_subject(outputs: Mapping[str, str], log: str, metrics: str) -> str:
    """The subject of final evidence: digest of outputs, whole log and salted metrics (T13).

    Args:
        outputs: name to digest of the sealed output's manifest.
        log: SHA-256 of the whole measurement log.
        metrics: salted digest of the metrics.
    """
    return digest(canonical({"outputs": dict(outputs), "log": log, "metrics": metrics}))


def without_log(evidence: TpmEvidence | TeeEvidence) -> TpmEvidence | TeeEvidence:
    """Evidence as bundles hold it. The quote proves the log, so leaving it out loses nothing.

    ``log_offset`` becomes what the challenge asked for, whatever part of the log came along.
    """
    if isinstance(evidence, TeeEvidence):
        return evidence
    offset = evidence.challenge.peek(Challenge).log_offset
    return evidence.model_copy(update={"log": "", "log_offset": offset})


def make_receipt(
    job: Job,
    *,
    manager: str,
    consents: Sequence[Envelope],
    start: TpmEvidence | TeeEvidence,
    end: TpmEvidence | TeeEvidence,
    outputs: Mapping[str, str],
    metrics: str,
    log: str,
) -> Receipt:
    """The receipt of a job; to be signed with the job's own key.

    Args:
        job: as agreed.
        manager: key id of the manager whose challenges ``start`` and ``end`` answer.
        consents: as they came with the release.
        start, end: release and finish evidence, with any part of the log.
        outputs: name to digest of the sealed output's manifest.
        metrics: salted digest.
        log: SHA-256 of the whole measurement log.
    """
    return Receipt(
        job=job.digest(),
        manager=manager,
        host=start.host,
        environment=job.environment,
        consents=tuple(sorted({c.payload_digest() for c in consents})),
        start=without_log(start).digest(),
        end=without_log(end).digest(),
        outputs=dict(outputs),
        metrics=metrics,
        log=log,
    )


def assemble(
    receipt: Envelope,
    *,
    job: Job,
    consents: Sequence[Envelope],
    host: Envelope,
    start: TpmEvidence | TeeEvidence,
    end: TpmEvidence | TeeEvidence,
    log: str,
    countersignature: Envelope,
) -> ReceiptBundle:
    """Put a bundle together; nothing is verified here.

    Args:
        log: base64 of the whole measurement log at the end; empty for a simulated TEE.

    Raises:
        ParseError: ``receipt.log`` where ``log`` is not what the receipt says.
        LimitError: ``receipt.log_size`` where it is longer than any log that was proven.
    """
    if len(log) > base64_length(MAX_LOG_BYTES):
        raise LimitError(
            "receipt.log_size",
            expected=f"a log of at most {MAX_LOG_BYTES} bytes",
            observed=f"{len(log)} characters of base64",
            next_step="restart the host, and measure less",
        )
    said = receipt.peek(Receipt)
    if digest(b64decode(log)) != said.log:
        raise ParseError(
            "receipt.log",
            expected=said.log,
            observed=digest(b64decode(log)),
            next_step="give the whole measurement log of the end, from its first entry",
        )
    return ReceiptBundle(
        receipt=receipt,
        job=job,
        consents=tuple(sorted(consents, key=lambda c: c.payload_digest())),
        host=host,
        start=without_log(start),
        end=without_log(end),
        log=log,
        countersignature=countersignature,
    )
