"""What follows from the log of a store, as far as this process has read and verified it."""

from __future__ import annotations

import sqlalchemy as sa

from svetovid.crypto import Envelope
from svetovid.errors import SvetovidError
from svetovid.manager import tables as t
from svetovid.manager.state import State
from svetovid.manager.store_faults import as_bytes, tampered, unavailable
from svetovid.protocol.records import LogEntry
from svetovid.transparency.checkpoint import Checkpoint
from svetovid.transparency.merkle import MerkleTree, leaf_hash

__all__ = ["FollowedLog"]

_SUCCESSION = ("rotation", "revocation")


class FollowedLog:
    """Read entry by entry, up to a checkpoint that the manager signed.

    Args:
        key_id: the manager's key, which signs checkpoints.

    Attributes:
        state: what the entries come to.
        parties, leaves: of each entry, in order: who may see it, and its leaf hash.
        verified: the checkpoint's bytes as they stand in the store.
    """

    def __init__(self, key_id: str) -> None:
        self._key_id = key_id
        self._forget()

    def _forget(self) -> None:
        """All is read again before anybody is served."""
        self.state = State()
        self.parties: list[frozenset[str]] = []
        self.leaves: list[bytes] = []
        self.verified = b""
        self._checkpoint: Envelope | None = None
        self._tree = MerkleTree()

    @property
    def tip(self) -> tuple[Envelope, MerkleTree]:
        """The newest signed checkpoint and the tree it stands for, which nobody changes.

        Raises:
            HostError: ``store.unavailable`` while nothing is read.
        """
        if self._checkpoint is None:
            raise unavailable("one that could not be read to its end just now")
        return self._checkpoint, self._tree

    @property
    def tree(self) -> MerkleTree:
        return self._tree

    def reach(self, checkpoint: Envelope, tree: MerkleTree) -> None:
        """Go on to a checkpoint whose entries were all taken."""
        self._checkpoint, self._tree = checkpoint, tree
        self.verified = checkpoint.canonical()

    def take(self, entry: LogEntry, document: Envelope | None, data: bytes) -> None:
        """The next entry, with the document that it rests on."""
        self.state.apply(len(self.leaves), entry, document, len(data))
        self.parties.append(self.state.parties(entry))
        self.leaves.append(leaf_hash(data))

    def newest(self, connection: sa.Connection) -> tuple[Envelope, Checkpoint]:
        """The checkpoint in the store, which may be further than this.

        Raises:
            IntegrityError: ``store.tamper``.
        """
        tip = connection.execute(sa.select(t.tip)).one()
        try:
            envelope = Envelope.parse(as_bytes(tip.checkpoint))
            return envelope, envelope.open(Checkpoint, by=self._key_id)
        except SvetovidError as e:
            raise tampered("a checkpoint signed by this manager", e.code) from e

    def read_on(self, connection: sa.Connection) -> None:
        """Take in what was added since.

        Raises:
            IntegrityError: ``store.tamper``.
        """
        # These very bytes were verified, and the tree compared with them, by this process.
        if connection.execute(sa.select(t.tip)).one().checkpoint == self.verified:
            return
        envelope, checkpoint = self.newest(connection)
        try:
            self.reach(envelope, self._grown(connection, checkpoint))
        except BaseException:
            # Entries may have been applied that no checkpoint was found to stand for.
            self._forget()
            raise

    def _grown(self, connection: sa.Connection, checkpoint: Checkpoint) -> MerkleTree:
        tree = self._tree.copy()
        c = t.entries.c
        if checkpoint.size > tree.size:
            query = sa.select(t.entries).where(c.position >= tree.size).order_by(c.position)
            for row in connection.execute(query):
                if row.position != tree.size:
                    raise tampered(f"entry {tree.size}", f"entry {row.position}")
                self._replay(connection, tree.size, row.data)
                tree.append(self.leaves[-1])
        if checkpoint.size != tree.size or checkpoint.root != tree.root():
            raise tampered(
                f"the log of {checkpoint.size} entries that the checkpoint signs",
                f"another log of {tree.size} entries",
            )
        return tree

    def _replay(self, connection: sa.Connection, index: int, data: bytes) -> None:
        try:
            entry = LogEntry.parse(as_bytes(data))
            document = None
            if entry.kind in _SUCCESSION:
                c = t.documents.c
                query = sa.select(c.envelope).where(c.digest == str(entry.body["document"]))
                document = Envelope.parse(as_bytes(connection.execute(query).scalar_one()))
            self.take(entry, document, data)
        except (SvetovidError, KeyError, TypeError, sa.exc.NoResultFound) as e:
            raise tampered(f"a readable entry {index}", type(e).__name__) from e
