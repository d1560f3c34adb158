"""What one decision writes into the store."""

from __future__ import annotations

import sqlalchemy as sa

from svetovid.crypto import Envelope
from svetovid.manager import tables as t
from svetovid.manager.state import State
from svetovid.protocol.messages import PrivatePart
from svetovid.protocol.records import LogEntry

__all__ = ["Transaction"]

_FORGET_AT = "00"
"""Every 256th challenge on average: digests are drawn by chance, whatever the log's size."""
_FORGET_S = 86_400
"""What was decided upon is kept for this long after it expires: a clock may be set back."""


class Transaction:
    """What one decision writes. Made by :meth:`Store.write`; gone when that returns."""

    def __init__(self, connection: sa.Connection, state: State, size: int, now: int) -> None:
        self._connection = connection
        self._now = now
        self.state = state
        self._size = size
        self.added: list[tuple[LogEntry, Envelope | None, bytes]] = []

    def append(
        self,
        entry: LogEntry,
        document: Envelope | None = None,
        privates: tuple[PrivatePart, ...] = (),
    ) -> int:
        """Add an entry, with the document it rests on; its index back."""
        index = self._size + len(self.added)
        data = entry.canonical()
        self.added.append((entry, document, data))
        if document is not None:
            self.put_document(str(entry.body["document"]), document)
        self._insert(t.entries, position=index, data=data)
        if privates:
            rows = [{"position": index, "owner": p.owner, "data": p.canonical()} for p in privates]
            self._connection.execute(sa.insert(t.privates), rows)
        return index

    def put_document(self, name: str, envelope: Envelope) -> None:
        """Keep a signed document under its digest. The first envelope stays."""
        held = sa.select(t.documents.c.digest).where(t.documents.c.digest == name)
        if self._connection.execute(held).first() is None:
            self._insert(t.documents, digest=name, envelope=envelope.canonical())

    def put_key(self, label: str, subject: str, owner: str, sealed: bytes) -> None:
        self._insert(t.keys, label=label, subject=subject, owner=owner, sealed=sealed)

    def use_challenge(self, name: str, expires_at: int, *, recorded: bool = True) -> bool:
        """Mark a challenge used; False where it was used already.

        Args:
            recorded: whether an entry rests on it. Where none does, it is forgotten as it expires:
                nobody's room is charged for it, and a clock set back makes it no more than one
                that was never answered.
        """
        c = t.used.c
        if self._connection.execute(sa.select(c.digest).where(c.digest == name)).first():
            return False
        if name.endswith(_FORGET_AT):
            self._connection.execute(sa.delete(t.used).where(c.until < self._now))
        self._insert(t.used, digest=name, until=expires_at + (_FORGET_S if recorded else 0))
        return True

    def _insert(self, table: sa.Table, **values: object) -> None:
        self._connection.execute(sa.insert(table), values)
