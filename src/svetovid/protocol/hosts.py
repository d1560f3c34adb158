"""What a host and a manager say of the host itself: how it enrols, proves itself, and stands."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from svetovid.crypto import Base64, Digest, Document, Envelope, KeyId
from svetovid.evidence.documents import HostRole

__all__ = [
    "Activation",
    "Attested",
    "ChallengeRequest",
    "EnrolAnswer",
    "EnrolChallenge",
    "EnrolRequest",
    "HostStanding",
    "PossessionChallenge",
    "StandingName",
]


class EnrolRequest(Document):
    """A host asks to be enrolled (T3). Signed by the agent key in the operator's statement.

    Attributes:
        manager: whom it is meant for.
        statement: the operator's signed :class:`HostStatement`.
        device_certificates: DER, the device's own first, then those that lead to an anchor.
        ek_public, ak_public: TPMT_PUBLIC of endorsement and attestation key; absent for a TEE.
        issued_at: by the host's clock, Unix seconds.
    """

    TYPE: ClassVar[str] = "enrol-request"
    MAX_MEMBERS: ClassVar[int] = 1024
    MAX_BYTES: ClassVar[int] = 256 << 10
    manager: KeyId
    statement: Envelope
    device_certificates: Annotated[tuple[Base64, ...], Field(min_length=1, max_length=8)]
    ek_public: Base64 | None = None
    ak_public: Base64 | None = None
    issued_at: int


class EnrolChallenge(Document):
    """Credential activation (TPM 2.0 part 1, section 24): only the TPM of EK and AK can answer.

    Attributes:
        credential: TPM2B_ID_OBJECT.
        secret: TPM2B_ENCRYPTED_SECRET.
        id: to be named in the answer.
        expires_at: Unix seconds; from then on no answer counts.
    """

    TYPE: ClassVar[str] = "enrol-challenge"
    id: Digest
    credential: Base64
    secret: Base64
    expires_at: int


class PossessionChallenge(Document):
    """A simulated TEE reports over this nonce (:func:`svetovid.evidence.enrolment_binding`): only
    who holds the key of its certificate can answer.

    Attributes:
        id: to be named in the answer.
        nonce: 32 random bytes.
        expires_at: Unix seconds; from then on no answer counts.
    """

    TYPE: ClassVar[str] = "possession-challenge"
    id: Digest
    nonce: Base64
    expires_at: int


class EnrolAnswer(Document):
    """What to prove before there is a record: ``challenge`` for a TPM, ``possession`` for a TEE.

    Attributes:
        challenge: for a TPM; absent for a TEE.
        possession: for a TEE; absent for a TPM.
    """

    challenge: EnrolChallenge | None = None
    possession: PossessionChallenge | None = None


class Activation(Document):
    """The proof that an enrolment asked for. Signed by the agent key.

    Attributes:
        id: of the challenge.
        activated: what a TPM found in the credential.
        report, signature: what a simulated TEE said of the nonce.
        issued_at: by the host's clock, Unix seconds.
    """

    TYPE: ClassVar[str] = "activation"
    id: Digest
    activated: Base64 = ""
    report: Base64 = ""
    signature: Base64 = ""
    issued_at: int


class ChallengeRequest(Document):
    """A host asks for a challenge. Signed by its agent key.

    Attributes:
        host: host id (digest of the operator's statement).
        job: its digest; ``NO_JOB`` for role ``attest``.
        fresh: the host wants to send its whole measurement log again.
        nonce: makes each request one of its own.
        manager: whom it is meant for.
        role: what the evidence will be for.
        issued_at: by the host's clock, Unix seconds.
    """

    TYPE: ClassVar[str] = "challenge-request"
    MAX_MEMBERS: ClassVar[int] = 1024
    manager: KeyId
    host: Digest
    job: Digest
    role: HostRole
    fresh: bool = False
    issued_at: int
    nonce: Base64


class Attested(Document):
    """What came of a host's evidence at an interval.

    Attributes:
        challenge: for the next evidence, which goes on where this one's log ended.
        interval: seconds from now until it is expected.
        lost: leases that this host held and lost by this evidence: their keys must go.
        codes: why.
    """

    TYPE: ClassVar[str] = "attested"
    challenge: Envelope
    interval: Annotated[int, Field(ge=1)]
    lost: tuple[Digest, ...] = ()
    codes: tuple[Annotated[str, StringConstraints(max_length=128)], ...] = ()


StandingName = Literal["fresh", "overdue", "refused"]


class HostStanding(Document):
    """Whether a host that attests at an interval still does.

    Attributes:
        standing: ``None`` for a host that never did.
        heard_at: when it last proved itself, by the manager's clock; ``None`` where this manager
            knows no more than the log says.
        host: digest of the operator's statement on it.
    """

    TYPE: ClassVar[str] = "host-standing"
    host: Digest
    standing: StandingName | None = None
    heard_at: int | None = None
