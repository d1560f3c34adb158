"""What stands in a manager's log, and the proof that it stands there.

An entry holds digests and ids. What one owner's clauses expected and observed is bound to it by a
salted digest, and shown to that owner alone: leaves can be published without telling anything (A7).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from svetovid.crypto import Digest, Document, Envelope, KeyId
from svetovid.transparency.checkpoint import Checkpoint, advance, verify_inclusion
from svetovid.transparency.merkle import MAX_LEAVES, leaf_hash

__all__ = ["MAX_PARTIES", "EntryKind", "LogEntry", "LogProof", "verify_proof"]

MAX_PARTIES = 512
"""More than any document names: 1 + 256 in a policy's exports; 1 + 64 owners + 16 recipients in a
job, with 32 importers, and the operator and agent of its host."""

EntryKind = Literal[
    "asset",
    "consent",
    "document",
    "finish",
    "head",
    "host",
    "identity",
    "job",
    "lease-end",
    "policy",
    "refusal",
    "rejection",
    "release",
    "renewal",
    "revocation",
    "rotation",
    "standing",
]


class LogEntry(Document):
    """One decision of a manager, in its log before it takes effect.

    Attributes:
        at: the manager's clock, Unix seconds.
        parties: keys that may see this entry.
        body: digests and ids of what was decided; its form follows from ``kind``.
        private: owner to salted digest of what only that owner may see of it.
        kind: what was decided.
    """

    TYPE: ClassVar[str] = "log-entry"
    kind: EntryKind
    at: int
    parties: Annotated[tuple[KeyId, ...], Field(max_length=MAX_PARTIES)]
    body: dict[str, JsonValue]
    private: dict[KeyId, Digest] = {}

    @property
    def leaf(self) -> bytes:
        """Its leaf hash in the log."""
        return leaf_hash(self.canonical())


class LogProof(Document):
    """That ``entry`` stands at ``index`` of the log of the signed ``checkpoint`` (RFC 9162).

    Attributes:
        index: place in the log, from 0.
        entry: as it stands in the log.
        path: RFC 9162 inclusion proof, from the leaf up.
        checkpoint: signed :class:`Checkpoint` of that log.
    """

    TYPE: ClassVar[str] = "log-proof"
    index: Annotated[int, Field(ge=0, le=MAX_LEAVES)]
    entry: LogEntry
    path: Annotated[tuple[Digest, ...], Field(max_length=64)]
    checkpoint: Envelope


def verify_proof(proof: LogProof, *, log: str) -> Checkpoint:
    """The checkpoint under which the entry is proven to stand in the log of ``log``.

    Raises:
        IntegrityError: ``signature.*``, ``log.fork``, ``log.inclusion``.
        InputError: ``log.hash``, ``limit.log``, ``document.invalid``.
    """
    checkpoint = advance(None, proof.checkpoint, (), log=log)
    verify_inclusion(proof.entry.leaf, proof.index, proof.path, checkpoint)
    return checkpoint
