"""What every part of a manager works with: its store, its keys, its clock, its bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from svetovid.crypto import Document, Envelope, Identity, sign
from svetovid.errors import IntegrityError
from svetovid.manager.rootkey import RootKey
from svetovid.manager.state import State
from svetovid.manager.store import Store
from svetovid.policy.consents import CLOCK_SKEW_S
from svetovid.protocol.records import EntryKind, LogEntry

__all__ = ["Bounds", "Core", "Settings"]

D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one party may have stored: signed documents, and their bytes, over all its keys."""

    documents: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Settings:
    """A manager's bounds. Seconds and counts.

    Attributes:
        challenge_s: how long a challenge may be answered.
        lease_s: how long a lease lasts unless renewed; a third of it before hosts should renew.
        interval_s: how often a host that attests at an interval does so.
        skew_s: how far a caller's clock may be off, either way.
        open_challenges: unanswered challenges one host may have.
        head_burst, head_s: checkpoints that a lease may have recorded at once; and one more in each
            so many seconds since it was granted.
        log_bytes: of all hosts' measurement logs together, how much is kept in memory, as sent.
        strangers_hourly: how many strangers may register from one address in an hour; see
            :mod:`svetovid.manager.admission`.
        admitted, stranger: what each party may have stored, whom the administrator admitted or not;
            as much again of what was refused to it, and, of a stranger, of its hosts' leases.
    """

    challenge_s: int = 60
    lease_s: int = 60
    interval_s: int = 10
    skew_s: int = CLOCK_SKEW_S
    open_challenges: int = 16
    head_burst: int = 128
    head_s: int = 2
    log_bytes: int = 512 << 20
    strangers_hourly: int = 32
    admitted: Bounds = Bounds(documents=100_000, bytes=16 << 30)
    stranger: Bounds = Bounds(documents=1_000, bytes=64 << 20)


class Core:
    """Shared by the parts of a manager; decides nothing."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        root: RootKey,
        clock: Callable[[], int],
        settings: Settings,
    ) -> None:
        self.store = store
        self.identity = identity
        self.root = root
        self.settings = settings
        self._clock = clock

    @property
    def me(self) -> str:
        return self.identity.key_id

    @property
    def state(self) -> State:
        return self.store.state

    def now(self) -> int:
        return self._clock()

    def sign(self, document: Document) -> Envelope:
        return sign(document, self.identity)

    def entry(self, kind: EntryKind, parties: Iterable[str], body: dict[str, Any]) -> LogEntry:
        return LogEntry(kind=kind, at=self.now(), parties=tuple(sorted(set(parties))), body=body)

    def for_me(self, manager: str) -> None:
        """Refuse what names another manager (C2)."""
        if manager != self.me:
            raise IntegrityError(
                "request.manager",
                expected=self.me,
                observed=manager,
                next_step="send it to the manager it names, or have it signed again for this one",
            )

    def timely(self, issued_at: int) -> None:
        """Refuse a request whose signer's clock is far off, or that waited too long."""
        now = self.now()
        if abs(now - issued_at) > self.settings.skew_s:
            raise IntegrityError(
                "request.time",
                expected=f"a request made within {self.settings.skew_s} s of {now}",
                observed=str(issued_at),
                next_step="set the clock, and send it again",
            )

    def opened(self, envelope: Envelope, kind: type[D], owner: str) -> D:
        """``envelope`` as signed by whoever signs for ``owner`` now.

        Raises:
            IntegrityError: ``identity.unknown``, ``key.revoked``, ``key.rotated``, ``signature.*``.
        """
        history = self.state.history(owner)
        for key in envelope.signed_by():
            if key != history.current and key in history.keys:
                history.check(key, at=self.now())
        return envelope.open(kind, by=history.current)
