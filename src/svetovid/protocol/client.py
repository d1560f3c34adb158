"""The manager as its stakeholders and hosts call it: one method for each endpoint."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import httpx

from svetovid.assets import Manifest
from svetovid.crypto import Document, Envelope, Secret, Signer, b64encode, seal, sign
from svetovid.evidence.documents import Challenge, HostRecord, HostRole, TeeEvidence, TpmEvidence
from svetovid.protocol.contexts import deposit_context
from svetovid.protocol.hosts import (
    Activation,
    Attested,
    ChallengeRequest,
    EnrolAnswer,
    EnrolRequest,
    HostStanding,
)
from svetovid.protocol.managers import ManagerProof, ManagerStatus, ProofRequest
from svetovid.protocol.messages import (
    EvidenceRequest,
    FinishRequest,
    Head,
    HeadUpdate,
    IdentityRegistration,
    JobStatus,
    KeyDeposit,
    LeaseEnd,
    ManagerPin,
    Release,
    Renewal,
)
from svetovid.protocol.records import LogProof, RecordsPage
from svetovid.protocol.seen import Seen, SeenMemory
from svetovid.protocol.wire import Wire

__all__ = ["ManagerClient"]


class ManagerClient:
    """A pinned manager (T1). Threads may share one; requests go out one at a time.

    Args:
        pin: what was pinned out of band.
        signer: signs what changes state, and the requests that read private state.
        transport: another httpx transport (tests run the manager in process).
        seen: where the newest checkpoint is kept; in memory unless given (T15).
        clock: Unix seconds, for the signed requests.
        before_deposit: called before a key is uploaded; whatever it raises keeps the key here.
        timeout_s: for connecting, for each read and for each write.
        total_s: for one exchange as a whole: nobody is waited for longer, byte by byte (T12).

    Every method raises:
        IntegrityError: ``signature.*``, ``answer.request``, ``store.rollback``, ``log.*`` for an
            answer that is not this manager's, not to this request, or from an older or forked log.
        TransportError: ``transport.*`` where the manager cannot be reached over the pinned channel.
        SvetovidError: whatever the manager refused with, under the manager's own reason codes.
    """

    def __init__(
        self,
        pin: ManagerPin,
        signer: Signer,
        *,
        transport: httpx.BaseTransport | None = None,
        seen: Seen | None = None,
        clock: Callable[[], float] = time.time,
        timeout_s: float = 30.0,
        total_s: float = 120.0,
        before_deposit: Callable[[ManagerClient], None] | None = None,
    ) -> None:
        self.card = pin.open()
        self.channel = pin.channel
        self._signer = signer
        self._clock = clock
        self._before_deposit = before_deposit
        self._wire = Wire(
            pin,
            signer,
            seen=SeenMemory() if seen is None else seen,
            clock=clock,
            transport=transport,
            timeout_s=timeout_s,
            total_s=total_s,
        )

    @property
    def manager(self) -> str:
        """The manager's key id."""
        return self.card.signing

    @property
    def checkpoint(self) -> Envelope | None:
        """The newest signed checkpoint seen."""
        return self._wire.newest

    def close(self) -> None:
        """Close its connections."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _now(self) -> int:
        return int(self._clock())

    def _signed(self, message: Document) -> Envelope:
        return sign(message, self._signer)

    # -- anybody

    def status(self) -> ManagerStatus:
        """What the manager says of itself."""
        return ManagerStatus.from_json(self._wire.get("/v1/status", private=False))

    def own_record(self) -> HostRecord:
        """The manager's word on its own machine, for :func:`svetovid.evidence.check_manager`."""
        envelope = Envelope.from_json(self._wire.get("/v1/evidence", private=False))
        return envelope.open(HostRecord, by=self.manager)

    def prove(self, request: ProofRequest) -> ManagerProof:
        """The manager's own evidence, for :func:`svetovid.evidence.verify_manager` (T1)."""
        return ManagerProof.from_json(self._wire.post("/v1/evidence", request))

    def register_identity(self, card: Envelope) -> None:
        """Make the signer's self-signed card known. Doing it twice changes nothing."""
        message = IdentityRegistration(card=card, manager=self.manager, issued_at=self._now())
        self._wire.post("/v1/identities", self._signed(message))

    def rotate(self, rotation: Envelope) -> None:
        """Hand over to a new key (:class:`svetovid.crypto.Rotation`, signed by both)."""
        self._wire.post("/v1/rotations", rotation)

    def revoke(self, revocation: Envelope) -> None:
        """End a key (:class:`svetovid.crypto.Revocation`)."""
        self._wire.post("/v1/revocations", revocation)

    # -- owners

    def deposit_key(self, manifest: Manifest, key: Secret) -> str:
        """Seal an asset's key to the manager's card and deposit it; the asset's digest back.

        The signer is the manifest's owner, or the key that one was rotated to.
        """
        if self._before_deposit is not None:
            self._before_deposit(self)
        asset = manifest.digest()
        deposit = KeyDeposit(
            manifest=manifest.to_json(),
            sealed=seal(
                key, self.card.receiving, deposit_context(asset, manifest.owner, self.manager)
            ),
            owner=manifest.owner,
            manager=self.manager,
        )
        self._wire.post("/v1/assets", self._signed(deposit))
        return asset

    def publish(self, document: Envelope) -> str:
        """Publish signed TrustAnchors or ReferenceValues; the document's digest back."""
        self._wire.post("/v1/documents", document, private=True)
        return document.payload_digest()

    def put_policy(self, policy: Envelope) -> str:
        """Put a signed policy in force; its digest back."""
        self._wire.post("/v1/policies", policy)
        return policy.payload_digest()

    def policy(self, owner: str, name: str) -> Envelope:
        """The policy in force: for its owner, and for those it exports to."""
        return Envelope.from_json(self._wire.get(f"/v1/policies/{owner}/{name}"))

    def document(self, digest: str) -> Envelope:
        """A published document, a host record, or a document the caller is a party to."""
        return Envelope.from_json(self._wire.get(f"/v1/documents/{digest}"))

    def put_job(self, job: Envelope) -> str:
        """Propose a signed job; its digest back."""
        self._wire.post("/v1/jobs", job)
        return job.payload_digest()

    def job(self, digest: str) -> JobStatus:
        """Where a job stands: for its owners, proposer, recipients, and enrolled hosts."""
        return JobStatus.from_json(self._wire.get(f"/v1/jobs/{digest}"))

    def standing(self, host: str) -> HostStanding:
        """Whether a host that attests at an interval still does, by its host id."""
        return HostStanding.from_json(self._wire.get(f"/v1/hosts/{host}/standing"))

    def consent(self, consent: Envelope) -> None:
        """Give an owner's signed consent to a job."""
        self._wire.post("/v1/consents", consent)

    def records(self, first: int = 0, limit: int = 100) -> RecordsPage:
        """Up to ``limit`` (at most 1,000) log records from ``first`` on."""
        path = f"/v1/records?first={first}&limit={limit}"
        return RecordsPage.from_json(self._wire.get(path))

    def proof(self, index: int) -> LogProof:
        """Proof that an entry the caller is a party to stands in the log."""
        return LogProof.from_json(self._wire.get(f"/v1/proofs/{index}"))

    # -- hosts

    def enrol(
        self,
        statement: Envelope,
        device_certificates: Sequence[bytes],
        ek_public: bytes | None = None,
        ak_public: bytes | None = None,
    ) -> EnrolAnswer:
        """Ask for enrolment (T3): the operator's statement, DER certificates leaf first,
        TPMT_PUBLIC bytes of EK and AK. The signer is the agent key of the statement.

        Args:
            statement: the operator's, signed.
            device_certificates: DER, leaf first.
            ek_public, ak_public: TPMT_PUBLIC bytes; None for a TEE.
        """
        message = EnrolRequest(
            manager=self.manager,
            statement=statement,
            device_certificates=tuple(b64encode(c) for c in device_certificates),
            ek_public=None if ek_public is None else b64encode(ek_public),
            ak_public=None if ak_public is None else b64encode(ak_public),
            issued_at=self._now(),
        )
        return EnrolAnswer.from_json(self._wire.post("/v1/hosts", self._signed(message)))

    def activate(self, id: str, activated: bytes) -> Envelope:  # noqa: A002 (the wire's own name)
        """Answer a credential activation; the signed :class:`HostRecord` back, verified."""
        return self._activate(
            Activation(id=id, activated=b64encode(activated), issued_at=self._now())
        )

    def possess(self, id: str, report: bytes, signature: bytes) -> Envelope:  # noqa: A002
        """Answer with a simulated TEE's report and its signature; as :meth:`activate`.

        Args:
            id: of the challenge.
            report: canonical bytes of the report.
            signature: ECDSA, DER.
        """
        return self._activate(
            Activation(
                id=id,
                report=b64encode(report),
                signature=b64encode(signature),
                issued_at=self._now(),
            )
        )

    def _activate(self, message: Activation) -> Envelope:
        record = Envelope.from_json(self._wire.post("/v1/activations", self._signed(message)))
        record.open(HostRecord, by=self.manager)
        return record

    def challenge(self, host: str, job: str, role: HostRole, *, fresh: bool = False) -> Envelope:
        """A signed :class:`Challenge`, verified.

        ``fresh`` asks for one that wants the whole measurement log.

        Args:
            host: digest of the operator's statement on it.
            job: its digest; ``NO_JOB`` for role ``attest``.
            role: what the evidence will be for.
            fresh: whether the whole measurement log is to be sent again.
        """
        message = ChallengeRequest(
            manager=self.manager,
            host=host,
            job=job,
            role=role,
            fresh=fresh,
            issued_at=self._now(),
            nonce=b64encode(secrets.token_bytes(16)),
        )
        body = self._wire.post("/v1/challenges", self._signed(message))
        challenge = Envelope.from_json(body)
        challenge.open(Challenge, by=self.manager)
        return challenge

    def release(self, evidence: TpmEvidence | TeeEvidence) -> Release:
        """Evidence for keys."""
        message = EvidenceRequest(evidence=evidence)
        return Release.from_json(self._wire.post("/v1/releases", message))

    def renew(self, lease: str, evidence: TpmEvidence | TeeEvidence) -> Renewal:
        """Evidence, better or equal, for more time (T12)."""
        message = EvidenceRequest(evidence=evidence, lease=lease)
        return Renewal.from_json(self._wire.post("/v1/renewals", message))

    def attest(self, evidence: TpmEvidence | TeeEvidence) -> Attested:
        """Evidence of role ``attest``: where the host stands, and the next challenge, verified."""
        message = EvidenceRequest(evidence=evidence)
        found = Attested.from_json(self._wire.post("/v1/attestations", message))
        found.challenge.open(Challenge, by=self.manager)
        return found

    def record_head(self, update: HeadUpdate, job_signer: Signer) -> Head:
        """Record a checkpoint as the newest (T11), signed by the job's key."""
        return Head.from_json(self._wire.post("/v1/heads", sign(update, job_signer)))

    def end_lease(self, lease: str, why: str, job_signer: Signer) -> None:
        """Give a lease back before its end, signed by the job's key.

        Args:
            lease: its id.
            why: for people.
            job_signer: the key that evidence named as ``keys.signing``.
        """
        message = LeaseEnd(manager=self.manager, lease=lease, why=why)
        self._wire.post("/v1/lease-ends", sign(message, job_signer))

    def finish(
        self,
        lease: str,
        evidence: TpmEvidence | TeeEvidence,
        receipt: Envelope,
        outputs: Mapping[str, Manifest],
    ) -> Envelope:
        """Final evidence and the host's receipt (T13); the manager's countersignature back.

        ``outputs`` are the manifests of what the receipt names.

        Args:
            lease: id of the lease that the job ran under.
            evidence: role ``finish``.
            receipt: the host's, signed by the job's key.
            outputs: name to manifest of each output that the receipt names.
        """
        message = FinishRequest(
            lease=lease, evidence=evidence, receipt=receipt, outputs=dict(outputs)
        )
        return Envelope.from_json(self._wire.post("/v1/finishes", message))
