"""What crosses the wire between stakeholders, hosts and managers. ``docs/spec/protocol.md``.

Whatever changes a manager's state is a document signed by the key that may change it. Whatever
reads private state carries a :class:`RequestToken` in its Authorization header.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, StringConstraints

from svetovid.assets.manifest import Manifest
from svetovid.crypto import Base64, Card, Digest, Document, Envelope, KeyId, Name, Text
from svetovid.crypto.canonical import b64decode, canonical, digest
from svetovid.evidence.documents import (
    ReferenceValues,
    TeeEvidence,
    TpmEvidence,
    TrustAnchors,
)

__all__ = [
    "Answer",
    "Evidence",
    "EvidenceRequest",
    "FinishRequest",
    "Head",
    "HeadUpdate",
    "IdentityRegistration",
    "JobStatus",
    "JsonObject",
    "KeyDeposit",
    "Lease",
    "LeaseEnd",
    "ManagerDemand",
    "ManagerPin",
    "ManagerProof",
    "ManagerStatus",
    "PrivatePart",
    "ProofRequest",
    "Reasons",
    "Release",
    "ReleasedKey",
    "Renewal",
    "RequestToken",
    "request_digest",
]

JsonObject = dict[str, JsonValue]
Url = Annotated[str, StringConstraints(pattern=r"^https://[\x21-\x7e]{1,500}$")]
Path = Annotated[str, StringConstraints(pattern=r"^/[\x21-\x7e]{0,1000}$")]
Size = Annotated[int, Field(ge=0)]
Evidence = Annotated[TpmEvidence | TeeEvidence, Field(discriminator="kind")]


class ManagerPin(Document):
    """What a stakeholder pins, out of band, of its manager (T1).

    Attributes:
        card: the manager's self-signed card.
        tls_certificate: the DER certificate that its TLS server shows; the only trusted root.
        url: where it is.
        device: SHA-256 of its TPM's EK, where it has one that can prove what it runs.
        require_evidence: digest of the :class:`ManagerDemand` that whoever pins it makes before a
            key is uploaded. A manager's own file has none.
    """

    TYPE: ClassVar[str] = "manager-pin"
    card: Envelope
    tls_certificate: Annotated[Base64, Field(min_length=256)]
    url: Url
    device: Digest | None = None
    require_evidence: Digest | None = None

    def open(self) -> Card:
        """The manager's card, verified. Raises IntegrityError ``signature.*``."""
        return Card.open(self.card)

    @property
    def channel(self) -> str:
        """The channel binding that evidence carries: SHA-256 of the certificate (RFC 5929)."""
        return digest(b64decode(self.tls_certificate))


class ManagerDemand(Document):
    """By what a stakeholder appraises its manager's own evidence: its own choice (T1, T2)."""

    TYPE: ClassVar[str] = "manager-demand"
    anchors: TrustAnchors
    references: Annotated[tuple[ReferenceValues, ...], Field(min_length=1, max_length=16)]


class ProofRequest(Document):
    """Asks a manager what it runs. Anybody may ask.

    Attributes:
        challenge: role ``manager``, for the machine in the manager's record, signed by its asker.
        credential, secret: TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET for the record's EK and AK.
    """

    TYPE: ClassVar[str] = "proof-request"
    MAX_MEMBERS: ClassVar[int] = 1024
    challenge: Envelope
    credential: Annotated[Base64, Field(max_length=2048)]
    secret: Annotated[Base64, Field(max_length=2048)]


class ManagerProof(Document):
    """A manager's own evidence.

    Attributes:
        evidence: role ``manager``; its keys are those of the manager's card.
        proof: :func:`svetovid.evidence.activation_proof` of the credential, never what was in it.
    """

    TYPE: ClassVar[str] = "manager-proof"
    evidence: TpmEvidence
    proof: Base64


class RequestToken(Document):
    """Proof, for one request, that the caller holds a key. Short-lived and single use.

    Attributes:
        manager: whom it is meant for, so that another manager cannot use it.
        method, path: of the request; the path with its query, as sent.
        body: digest of the request's body (of the empty string where there is none).
        epoch: which process of the manager it is meant for: its answers' ``Svetovid-Epoch``.
    """

    TYPE: ClassVar[str] = "request"
    MAX_MEMBERS: ClassVar[int] = 1024
    manager: KeyId
    method: Literal["GET", "POST"]
    path: Path
    body: Digest
    epoch: Annotated[Base64, Field(max_length=64)] = ""
    issued_at: int
    nonce: Base64


class Answer(Document):
    """Every good answer of a manager, signed by it.

    Attributes:
        request: :func:`request_digest` of what it answers.
        body: the answer itself; its form follows from the request.
        checkpoint: the manager's signed checkpoint when it answered; never older than what the
            caller saw (T15).
        seen: log size that the caller named as the newest it saw.
        consistency: RFC 9162 proof from ``seen`` to the checkpoint.
    """

    TYPE: ClassVar[str] = "answer"
    MAX_BYTES: ClassVar[int] = 24_000_000
    request: Digest
    issued_at: int
    body: JsonObject
    checkpoint: Envelope
    seen: Size
    consistency: Annotated[tuple[Digest, ...], Field(max_length=128)] = ()


def request_digest(method: str, path: str, body: bytes, authorization: str = "") -> str:
    """Names one request: what an :class:`Answer` is an answer to.

    ``authorization`` is the header as sent, with its nonce; empty where there is none.
    """
    fields = {
        "label": "svetovid request",
        "method": method,
        "path": path,
        "body": digest(body),
        "authorization": digest(authorization.encode()),
    }
    return digest(canonical(fields))


class IdentityRegistration(Document):
    """A stakeholder makes itself known to one manager. Signed by the card's own key."""

    TYPE: ClassVar[str] = "identity-registration"
    MAX_MEMBERS: ClassVar[int] = 1024
    card: Envelope
    manager: KeyId
    issued_at: int


class KeyDeposit(Document):
    """An owner gives the key of one asset to its manager. Signed by the owner.

    Attributes:
        manifest: the asset's manifest as JSON (:class:`svetovid.assets.Manifest`).
        sealed: the asset key, HPKE-sealed to the manager's card in
            :func:`~svetovid.protocol.contexts.deposit_context`.
    """

    TYPE: ClassVar[str] = "key-deposit"
    manifest: JsonObject
    sealed: Base64
    owner: KeyId
    manager: KeyId

    @property
    def asset(self) -> str:
        """Digest of the manifest: the asset's name everywhere."""
        return digest(canonical(self.manifest))


class EvidenceRequest(Document):
    """Evidence in answer to a challenge: for a release, or for the renewal of ``lease``."""

    TYPE: ClassVar[str] = "evidence-request"
    MAX_MEMBERS: ClassVar[int] = 1024
    evidence: Evidence
    lease: Digest | None = None


class Lease(Document):
    """How long what was released may be used (T12).

    Attributes:
        seconds: from the host's receipt of the challenge, on CLOCK_BOOTTIME.
        renew_after: seconds after which to renew.
    """

    TYPE: ClassVar[str] = "lease"
    id: Digest
    job: Digest
    host: Digest
    seconds: Annotated[int, Field(ge=1)]
    renew_after: Annotated[int, Field(ge=1)]


class ReleasedKey(Document):
    """One asset key, sealed to the receiving key in the evidence.

    The context is :func:`~svetovid.protocol.contexts.release_context`.
    """

    slot: Name
    manifest: JsonObject
    sealed: Base64


class Head(Document):
    """The newest checkpoint of a job, as one of its managers recorded it (T11)."""

    job: Digest
    sequence: Annotated[int, Field(ge=1)]
    checkpoint: Digest
    predecessor: Digest | None = None


class HeadUpdate(Document):
    """A host saved a checkpoint. Signed by the job's signing key in the evidence.

    Attributes:
        sequence: one more than the recorded head's, or 1.
        checkpoint: digest of the sealed checkpoint's manifest.
        predecessor: the recorded head's checkpoint; absent for the first.
    """

    TYPE: ClassVar[str] = "head-update"
    manager: KeyId
    lease: Digest
    job: Digest
    sequence: Annotated[int, Field(ge=1)]
    checkpoint: Digest
    predecessor: Digest | None = None


class LeaseEnd(Document):
    """A host gives a lease back early. Signed by the job's signing key."""

    TYPE: ClassVar[str] = "lease-end"
    manager: KeyId
    lease: Digest
    why: Text


class FinishRequest(Document):
    """The end of a job: final evidence over outputs and log, and the host's receipt (T13).

    Attributes:
        receipt: Envelope of :class:`svetovid.transparency.Receipt`, signed by the job's key.
        evidence: role ``finish``; its subject is what the receipt says of outputs, log, metrics.
        outputs: name to manifest of each sealed output that the receipt names, the metrics'
            (:data:`svetovid.transparency.METRICS`) as well: how much leaves stands in them (T9).
    """

    TYPE: ClassVar[str] = "finish-request"
    MAX_MEMBERS: ClassVar[int] = 1 << 14
    lease: Digest
    evidence: Evidence
    receipt: Envelope
    outputs: Annotated[dict[Name, Manifest], Field(min_length=1, max_length=32)]


class Release(Document):
    """What an appraised host gets: a lease, the keys, and where to go on from.

    Attributes:
        lease: its terms.
        job, consents: the signed documents it rests on.
        keys: one for each asset of this job that this manager holds.
        checkpoint_key: this manager's part of the key of the job's checkpoints, 32 bytes, sealed
            like the keys, in :func:`~svetovid.protocol.contexts.checkpoint_context`; the same at
            every resume.
        head: the checkpoint to resume from; absent at the first start.
        decision: index of the decision in the manager's log.
    """

    TYPE: ClassVar[str] = "release"
    lease: Lease
    job: Envelope
    consents: tuple[Envelope, ...]
    keys: tuple[ReleasedKey, ...]
    checkpoint_key: Base64
    head: Head | None = None
    decision: Size


class Renewal(Document):
    """A lease goes on."""

    lease: Lease
    decision: Size


class ManagerStatus(Document):
    """What a manager says of itself.

    Attributes:
        evidence: whether it can give evidence of its own machine. What that is worth is for whoever
            asks for it to say (T1).
        store_rollback: whether an older copy of its store would be noticed by itself (T15).
    """

    TYPE: ClassVar[str] = "manager-status"
    manager: KeyId
    name: Name
    version: Text
    evidence: Literal["none", "tpm"]
    root_key: Literal["passphrase", "tpm"]
    store_rollback: Literal["not detected", "detected"]
    entries: Size


class JobStatus(Document):
    """Where a job stands, as its owners, proposer, recipients and host see it."""

    TYPE: ClassVar[str] = "job-status"
    job: Envelope
    consents: tuple[Envelope, ...]
    waiting_for: tuple[KeyId, ...]
    state: Literal["waiting", "ready", "running", "finished"]
    releases: Size
    host: Digest | None = None
    head: Head | None = None


class Reasons(Document):
    """One :class:`svetovid.errors.Reason` on the wire."""

    code: Annotated[str, StringConstraints(max_length=128)]
    expected: str = ""
    observed: str = ""
    next_step: str = ""
    clause: str = ""
    owner: str = ""


class PrivatePart(Document):
    """What one owner alone sees of a decision. The log holds its salted digest.

    Attributes:
        reasons: every reason of this owner's clauses, in full; empty where it agreed.
        claims: what the evidence showed, appraised with this owner's anchors and values.
    """

    TYPE: ClassVar[str] = "private-part"
    salt: Base64
    owner: KeyId
    reasons: tuple[Reasons, ...] = ()
    claims: JsonObject = {}
