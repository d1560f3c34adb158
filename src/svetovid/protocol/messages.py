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
from svetovid.evidence.documents import TeeEvidence, TpmEvidence

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
    "ManagerPin",
    "PrivatePart",
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


class RequestToken(Document):
    """Proof, for one request, that the caller holds a key. Short-lived and single use.

    Attributes:
        manager: whom it is meant for, so that another manager cannot use it.
        method, path: of the request; the path with its query, as sent.
        body: digest of the request's body (of the empty string where there is none).
        epoch: which process of the manager it is meant for: its answers' ``Svetovid-Epoch``.
        issued_at: by the caller's clock, Unix seconds.
        nonce: random; makes each token one of its own.
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
        issued_at: by the manager's clock, Unix seconds.
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

    Args:
        method: ``GET`` or ``POST``.
        path: with its query, as sent.
        body: as sent.
        authorization: the header as sent.
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
    """A stakeholder makes itself known to one manager. Signed by the card's own key.

    Attributes:
        card: the self-signed card.
        manager: whom it is meant for.
        issued_at: by the sender's clock, Unix seconds.
    """

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
        owner: who signs: the owner in the manifest.
        manager: whom it is meant for: the manager in the manifest.
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
    """Evidence in answer to a challenge: for a release, or for the renewal of ``lease``.

    Attributes:
        evidence: of a TPM or a TEE.
        lease: id of the lease to renew; absent for a release.
    """

    TYPE: ClassVar[str] = "evidence-request"
    MAX_MEMBERS: ClassVar[int] = 1024
    evidence: Evidence
    lease: Digest | None = None


class Lease(Document):
    """How long what was released may be used (T12).

    Attributes:
        seconds: from the host's receipt of the challenge, on CLOCK_BOOTTIME.
        renew_after: seconds after which to renew.
        id: names it; no two are alike.
        job: digest of the job.
        host: digest of the operator's statement on the host.
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

    Attributes:
        slot: of the job.
        manifest: of the asset, as JSON.
        sealed: the 32-byte asset key, HPKE-sealed to ``keys.receiving`` of the evidence.
    """

    slot: Name
    manifest: JsonObject
    sealed: Base64


class Head(Document):
    """The newest checkpoint of a job, as one of its managers recorded it (T11).

    Attributes:
        job: digest of the job.
        sequence: counts its checkpoints, from 1.
        checkpoint: digest of the sealed checkpoint's manifest.
        predecessor: of the one before; absent for the first.
    """

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
        manager: whom it is meant for.
        lease: id of the lease under which the job runs.
        job: digest of the job.
    """

    TYPE: ClassVar[str] = "head-update"
    manager: KeyId
    lease: Digest
    job: Digest
    sequence: Annotated[int, Field(ge=1)]
    checkpoint: Digest
    predecessor: Digest | None = None


class LeaseEnd(Document):
    """A host gives a lease back early. Signed by the job's signing key.

    Attributes:
        manager: whom it is meant for.
        lease: its id.
        why: for people.
    """

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
        lease: id of the lease under which the job ran.
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
    """A lease goes on.

    Attributes:
        lease: its new terms, under the same id.
        decision: index of the decision in the manager's log.
    """

    lease: Lease
    decision: Size


class JobStatus(Document):
    """Where a job stands, as its owners, proposer, recipients and host see it.

    Attributes:
        job: as its proposer signed it.
        consents: those that count now.
        waiting_for: owners in the job whose consent is missing here; empty where all agreed.
        state: ``waiting`` for consents, ``ready`` to be run, ``running`` under a lease,
            ``finished``.
        releases: so far, resumes included.
        host: digest of the operator's statement on the host that runs it; absent where none does.
        head: its newest checkpoint; absent where there is none.
    """

    TYPE: ClassVar[str] = "job-status"
    job: Envelope
    consents: tuple[Envelope, ...]
    waiting_for: tuple[KeyId, ...]
    state: Literal["waiting", "ready", "running", "finished"]
    releases: Size
    host: Digest | None = None
    head: Head | None = None


class Reasons(Document):
    """One :class:`svetovid.errors.Reason` on the wire.

    Attributes:
        code: stable; see reason-codes.md.
        expected: what would have been let through.
        observed: what was found.
        next_step: what the reader can do.
        clause: of a policy, where one decided.
        owner: whose clause it is; empty for what concerns everybody.
    """

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
        salt: 16 random bytes.
        owner: who alone sees it.
    """

    TYPE: ClassVar[str] = "private-part"
    salt: Base64
    owner: KeyId
    reasons: tuple[Reasons, ...] = ()
    claims: JsonObject = {}
