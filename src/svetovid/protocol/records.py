"""A manager's log as it is read back: what was decided, who may see it, and where it stands.

The log is an RFC 9162 Merkle tree over the canonical bytes of :class:`LogEntry`. Everybody may see
every leaf's hash; an entry itself is shown to its parties; what one owner's clauses expected and
observed is shown to that owner alone, and bound to the entry by a salted digest.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from svetovid.crypto import Digest, Document
from svetovid.protocol.messages import PrivatePart, Size
from svetovid.transparency.entries import EntryKind, LogEntry, LogProof

__all__ = ["EntryKind", "LogEntry", "LogProof", "Record", "RecordsPage"]


class Record(Document):
    """One place in the log: its leaf hash, and as much of its entry as the reader may see.

    Attributes:
        index: place in the log, from 0.
        leaf: RFC 9162 hash of the entry.
        entry: absent for whoever is no party to it.
        private: the reader's own part of it, where there is one.
    """

    index: Size
    leaf: Digest
    entry: LogEntry | None = None
    private: PrivatePart | None = None


class RecordsPage(Document):
    """Records from ``first`` on; ``size`` is how many there are.

    Attributes:
        first: index of the first of them.
        size: of the log.
        records: in order, without a gap.
    """

    MAX_MEMBERS: ClassVar[int] = 1 << 21
    first: Size
    size: Size
    records: Annotated[tuple[Record, ...], Field(max_length=1000)]
