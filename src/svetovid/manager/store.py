"""The durable half of a manager: one transaction a decision, and a log that proves them all.

Rules:

1. Whatever decides is committed in the same transaction as its log entry, and the new signed
   checkpoint; only then does anybody see it.
2. One writer at a time (BEGIN IMMEDIATE), who first takes in what other writers added. So of two
   managers over one store, one decides after the other.
3. At the start everything is read again: the tree is rebuilt and must be the checkpoint's; every
   document must be what its name says, and signed; every sealed key must be the one the log names.
   Anything else is ``store.tamper``.
4. With a counter that cannot go back, a checkpoint is signed for the counter's next value, and the
   counter follows before anybody is answered, or another writer begins. Where it could not follow,
   it does before anything of that is shown, or signed over: of one manager no two are for one
   value. A store whose checkpoint was signed for a lower value is an older copy, and no store at
   all is one as well for a manager that had one: ``store.rollback`` (T15).
5. A write that fails, for whatever reason, is answered by the error alone (A6), and leaves nothing
   that counts: where it was signed, and the disk may have it, what is there is signed again for
   values beyond it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from svetovid.crypto import Document, Envelope, Signer, digest, sign
from svetovid.errors import InputError, SvetovidError
from svetovid.manager import tables as t
from svetovid.manager.anchor import AT_START, Anchor
from svetovid.manager.cache import Cache
from svetovid.manager.followed import FollowedLog
from svetovid.manager.heard import Heard
from svetovid.manager.rootkey import RootSealer
from svetovid.manager.state import State
from svetovid.manager.store_faults import as_bytes, guarded, older, tampered, unavailable
from svetovid.manager.transaction import Transaction
from svetovid.protocol.messages import PrivatePart
from svetovid.protocol.records import LogEntry
from svetovid.transparency.checkpoint import Checkpoint
from svetovid.transparency.merkle import MerkleTree, leaf_hash

__all__ = ["Fault", "Store"]

D = TypeVar("D", bound=Document)
Fault = Callable[[str], None]
"""Called with the name of a point between two steps; tests end the process there."""

_CACHE_BYTES = 64 << 20
"""Of envelopes, and of documents again, as written; in memory they take a few times as much."""
_CLOSE_S = 10.0
"""How long a thread that is at work in the store may take to end."""


def _no_fault(_point: str) -> None:
    return


class Store:
    """One manager's store. Threads may share it.

    Args:
        path: the SQLite file.
        signer: the manager's identity; signs checkpoints.
        clock: Unix seconds, for checkpoints.
        sealer: its counter anchors the store where it has one.
        begun: whether this manager had a store before.
        fault: for tests.

    Attributes:
        heard: when hosts attested at their interval; in a file of its own.

    Raises:
        IntegrityError: ``store.tamper``, ``store.rollback``.
        HostError: ``store.unavailable``.
    """

    def __init__(
        self,
        path: Path,
        signer: Signer,
        clock: Callable[[], int],
        *,
        sealer: RootSealer,
        begun: bool = False,
        fault: Fault = _no_fault,
    ) -> None:
        self._signer = signer
        self._clock = clock
        self._fault = fault
        self._lock = threading.RLock()
        self._log = FollowedLog(signer.key_id)
        self._anchor = Anchor(sealer, path)
        self._engine = t.open_engine(path)
        self._writer = self._engine.execution_options(**{t.WRITE: True})
        self._watch = self._engine.connect()
        self._version = -1
        self.heard = Heard(path)
        self._envelopes: Cache[str, Envelope] = Cache(_CACHE_BYTES)
        self._parsed: Cache[tuple[str, type[Document]], Document] = Cache(_CACHE_BYTES)
        self.key = lru_cache(maxsize=4096)(self._key)
        self._closed = self._doubtful = False
        try:
            with guarded(), self._anchor.one_writer() as mine:
                self._check(mine)
                self._open(begun)
        except BaseException:
            self.close()
            raise

    def _open(self, begun: bool) -> None:
        with self._writer.begin() as connection:
            t.metadata.create_all(connection)
            if connection.execute(sa.select(t.tip)).first() is None:
                if begun:
                    raise older("the store of this manager", "none, or an empty one")
                self._put_tip(connection, MerkleTree())
        self._load()
        self._anchor_at_start()

    @property
    def state(self) -> State:
        """What follows from the log."""
        return self._log.state

    @property
    def parties(self) -> list[frozenset[str]]:
        """Of each entry, who may see it."""
        return self._log.parties

    @property
    def leaves(self) -> list[bytes]:
        """Of each entry, its leaf hash."""
        return self._log.leaves

    @property
    def tip(self) -> tuple[Envelope, MerkleTree]:
        """The newest signed checkpoint and the tree it stands for, which nobody changes."""
        return self._log.tip

    @property
    def anchored(self) -> bool:
        """Whether an older copy would be noticed at the start."""
        return self._anchor.there

    @property
    def tree(self) -> MerkleTree:
        return self._log.tree

    @property
    def size(self) -> int:
        return self.tree.size

    def close(self) -> None:
        """From now on whoever asks is refused. A thread that is at work and does not end in time
        keeps the store until this process ends: closed under it, SQLite would bring that down."""
        if not self._lock.acquire(timeout=_CLOSE_S):
            return
        try:
            self._closed = True
            self._watch.close()
            self._engine.dispose()
            self.heard.close()
        finally:
            self._lock.release()

    def _check(self, mine: bool = True) -> None:
        if self._closed:
            raise unavailable("one that is closed")
        if not mine:
            raise unavailable("another manager over it that writes, and does not end")

    # -- writing

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One decision. Nothing is kept unless the block ends well and the disk has it all."""
        with self._lock, guarded(), self._anchor.one_writer() as mine:
            self._check(mine)
            if self._doubtful:
                self._leave_behind()
            try:
                with self._writer.begin() as connection:
                    self._log.read_on(connection)
                    self._settle()
                    tx = Transaction(connection, self.state, self.tree.size, self._clock())
                    yield tx
                    if tx.added:
                        grown = self.tree.copy()
                        for *_, data in tx.added:
                            grown.append(leaf_hash(data))
                        self._doubtful = self._anchor.there
                        checkpoint = self._put_tip(connection, grown)
                    self._fault("before commit")
                self._fault("after commit")
                if not tx.added:
                    return
                self._anchor.follow()
                self._fault("after anchor")
            except (sa.exc.SQLAlchemyError, SvetovidError):
                if self._doubtful:
                    with suppress(sa.exc.SQLAlchemyError, SvetovidError):
                        self._leave_behind()
                raise
            for added in tx.added:
                self._log.take(*added)
            self._log.reach(checkpoint, grown)
            self._doubtful = False

    def _leave_behind(self) -> None:
        """A commit that failed may be on the disk all the same, signed for the counter's next
        value. So what is there now is signed for more, as at a start, before anything else is."""
        with self._engine.begin() as connection:
            self._log.read_on(connection)
        self._anchor_at_start()
        self._doubtful = False

    def _put_tip(self, connection: sa.Connection, tree: MerkleTree, ahead: int = 1) -> Envelope:
        checkpoint = Checkpoint(
            log=self._signer.key_id,
            size=tree.size,
            root=tree.root(),
            issued_at=self._clock(),
            counter=self._anchor.value(ahead),
        )
        envelope = sign(checkpoint, self._signer)
        row = {"id": 1, "checkpoint": envelope.canonical()}
        if not connection.execute(sa.update(t.tip), row).rowcount:
            connection.execute(sa.insert(t.tip), row)
        return envelope

    # -- reading

    def refresh(self) -> None:
        """Take in what another manager over the same store added: asked before every request.

        Whoever writes in this process has just looked, and nobody else can write meanwhile.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            with guarded():
                self._check()
                version = t.data_version(self._watch)
                if version == self._version:
                    return
                # Our own writes change it as well: most often there is nothing to take in.
                if t.stored_tip(self._watch) == self._log.verified or self._take_in():
                    self._version = version
        finally:
            self._lock.release()

    def _take_in(self) -> bool:
        """What other managers added, but for what one of them may yet have to answer for: whether
        nothing was left out."""
        with self._engine.begin() as connection:
            if self._anchor.stands_for(self._log.newest(connection)[1].counter):
                self._log.read_on(connection)
                return True
        with self._anchor.one_writer(0.0) as mine:
            if mine:
                with self._engine.begin() as connection:
                    self._log.read_on(connection)
                self._settle()
        return mine

    def document(self, name: str, kind: type[D]) -> D:
        """A held document, parsed; its signatures were verified when it came."""
        found = self._parsed.get((name, kind))
        if found is None:
            envelope = self.envelope(name)
            found = envelope.peek(kind)
            self._parsed.keep((name, kind), found, len(envelope.payload))
        if not isinstance(found, kind):
            raise AssertionError("the cache is keyed by kind")
        return found

    def envelope(self, name: str) -> Envelope:
        """A held document as it was signed.

        Raises:
            InputError: ``document.unknown``.
        """
        found = self._envelopes.get(name)
        if found is not None:
            return found
        row = self._one(sa.select(t.documents.c.envelope).where(t.documents.c.digest == name))
        if row is None:
            raise InputError(
                "document.unknown",
                expected="a document this manager holds",
                observed=name,
                next_step="send it the signed document first",
            )
        data = as_bytes(row[0])
        found = Envelope.parse(data)
        self._envelopes.keep(name, found, len(data))
        return found

    def entry(self, index: int) -> LogEntry:
        row = self._one(sa.select(t.entries.c.data).where(t.entries.c.position == index))
        if row is None:
            raise InputError(
                "record.unknown",
                expected=f"below {self.size}",
                observed=str(index),
                next_step="ask for an entry below the size of the log",
            )
        return LogEntry.parse(as_bytes(row[0]))

    def private(self, index: int, owner: str) -> PrivatePart | None:
        c = t.privates.c
        row = self._one(sa.select(c.data).where(c.position == index, c.owner == owner))
        if row is None:
            return None
        if digest(as_bytes(row[0])) != self.entry(index).private.get(owner):
            raise tampered(f"the private part of entry {index}", "another")
        return PrivatePart.parse(as_bytes(row[0]))

    def _key(self, label: str, subject: str) -> tuple[str, bytes]:
        """Owner and sealed bytes of a key the log names; checked against the log."""
        c = t.keys.c
        query = sa.select(c.owner, c.sealed).where(c.label == label, c.subject == subject)
        row = self._one(query)
        if row is None or digest(as_bytes(row[1])) != self.state.sealed.get((label, subject)):
            raise tampered(f"the sealed key of {subject}", "none, or another")
        return str(row[0]), as_bytes(row[1])

    def challenge_used(self, name: str) -> bool:
        return self._one(sa.select(t.used.c.digest).where(t.used.c.digest == name)) is not None

    def _one(self, query: Any) -> Any:
        self._check()
        with guarded(), self._engine.connect() as connection:
            return connection.execute(query).first()

    # -- start

    def _load(self) -> None:
        with self._engine.begin() as connection:
            for row in connection.execute(sa.select(t.documents)):
                self._check_document(row.digest, row.envelope)
            self._log.read_on(connection)
            for key in connection.execute(sa.select(t.keys)):
                if digest(as_bytes(key.sealed)) != self.state.sealed.get((key.label, key.subject)):
                    raise tampered(f"the sealed key of {key.subject}", "another")

    def _check_document(self, name: str, data: bytes) -> None:
        try:
            envelope = Envelope.parse(as_bytes(data))
            envelope.signed_by()
        except SvetovidError as e:
            raise tampered(f"document {name}", e.code) from e
        if name not in (envelope.payload_digest(), envelope.digest()):
            raise tampered(f"document {name}", envelope.payload_digest())

    def _settle(self) -> None:
        if self._anchor.there:
            self._anchor.settle(self.tip[0].peek(Checkpoint).counter)

    def _anchor_at_start(self) -> None:
        """Compare the store with the counter; then make every other copy an older one.

        A writer that was stopped between its commit and the counter leaves a checkpoint signed for
        one more, a start leaves one signed for two more. Whoever stops writers at will could keep
        such a copy, and put it in the place of what was written in its stead. So each start signs
        what it found for two more, and nothing that was signed before holds any longer.
        """
        self._settle()
        if not self._anchor.there:
            return
        with self._writer.begin() as connection:
            checkpoint = self._put_tip(connection, self.tree, AT_START)
        self._fault("before anchor at start")
        self._anchor.follow(AT_START)
        self._log.reach(checkpoint, self.tree)
