"""A manager's log as it is read back: what was decided, by whom it may be seen, and where it stands.

The log is an RFC 9162 Merkle tree over the canonical bytes of :class:`LogEntry`. Everybody may see
every leaf's hash; an entry itself is shown to its parties; what one owner's clauses expected and
observed is shown to that owner alone, and bound to the entry by a salted digest.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from svetovid.crypto import Digest, Document, Envelope, KeyId
from svetovid.protocol.messages import JsonObject, PrivatePart, Size

__all__ = ["EntryKind", "LogEntry", "LogProof", "Record", "RecordsPage"]

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
    "release",
    "renewal",
    "revocation",
    "rotation",
]


class LogEntry(Document):
    """One decision of a manager, in its log before it takes effect.

    Attributes:
        at: the manager's clock, Unix seconds.
        parties: keys that may see this entry.
        body: digests and ids of what was decided; its form follows from ``kind``.
        private: owner to digest of that owner's :class:`PrivatePart`.
    """

    TYPE: ClassVar[str] = "log-entry"
    kind: EntryKind
    at: int
    parties: Annotated[tuple[KeyId, ...], Field(max_length=256)]
    body: JsonObject
    private: dict[KeyId, Digest] = {}


class Record(Document):
    """One place in the log: its leaf hash, and as much of its entry as the reader may see."""

    index: Size
    leaf: Digest
    entry: LogEntry | None = None
    private: PrivatePart | None = None


class RecordsPage(Document):
    """Records from ``first`` on; ``size`` is how many there are."""

    first: Size
    size: Size
    records: Annotated[tuple[Record, ...], Field(max_length=1000)]


class LogProof(Document):
    """That ``entry`` stands at ``index`` of the log of the signed ``checkpoint`` (RFC 9162)."""

    TYPE: ClassVar[str] = "log-proof"
    index: Size
    entry: LogEntry
    path: Annotated[tuple[Digest, ...], Field(max_length=64)]
    checkpoint: Envelope
