"""What a manager says of itself, and how whoever pins it has it proven (T1)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from svetovid.crypto import Base64, Document, Envelope, KeyId, Name, Text
from svetovid.evidence.documents import ReferenceValues, TpmEvidence, TrustAnchors
from svetovid.protocol.messages import Size

__all__ = ["ManagerDemand", "ManagerProof", "ManagerStatus", "ProofRequest"]


class ManagerDemand(Document):
    """By what a stakeholder appraises its manager's own evidence: its own choice (T1, T2).

    Attributes:
        anchors: whose devices count for the manager's machine.
        references: what may run on it.
    """

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


class ManagerStatus(Document):
    """What a manager says of itself.

    Attributes:
        evidence: whether it can give evidence of its own machine. What that is worth is for whoever
            asks for it to say (T1).
        store_rollback: whether an older copy of its store would be noticed by itself (T15).
        manager: its key, which is also its log's name.
        name: of its card.
        version: of the software that it runs.
        root_key: what its root key is sealed by: a passphrase that is given at start, or its TPM.
        entries: size of its log.
    """

    TYPE: ClassVar[str] = "manager-status"
    manager: KeyId
    name: Name
    version: Text
    evidence: Literal["none", "tpm"]
    root_key: Literal["passphrase", "tpm"]
    store_rollback: Literal["not detected", "detected"]
    entries: Size
