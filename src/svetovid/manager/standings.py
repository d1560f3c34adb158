"""How hosts stand that attest at an interval: who is heard of, who is overdue, what is recorded.

Rules:

1. A change of a host's standing is on the record, while its operator has room for it. That is
   looked for before a transaction is begun: there may be many such hosts, and each would take a
   turn from whoever waits for keys. Past that the change is in memory, and told to whoever asks.
2. Of one device, the newest enrolment has a standing.
3. When a host was heard of is in memory, and in a file once a second: another manager over the same
   store, and this one after a restart, go on from there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from svetovid.manager.core import Core
from svetovid.manager.rejecting import Rejecting
from svetovid.manager.state import LeaseState, State
from svetovid.protocol.hosts import HostStanding, StandingName
from svetovid.protocol.messages import JsonObject

__all__ = ["Standings", "lease_on"]

_GRACE_S = 1
_AGAIN_S = 600
"""After so long is looked again whether there is room for what could not be recorded."""


@dataclass(frozen=True, slots=True)
class _Unrecorded:
    """A standing that there was no room to record, and since when it is kept here."""

    standing: StandingName
    since: int

    def settled(self, now: int) -> bool:
        return self.since <= now < self.since + _AGAIN_S


class Standings:
    """Notes who attests, and notices who no longer does. Threads may share it."""

    def __init__(self, core: Core, rejecting: Rejecting) -> None:
        self._core = core
        self._rejecting = rejecting
        self._lock = threading.Lock()
        self._started = core.now()
        self._heard: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}
        self._unrecorded: dict[str, _Unrecorded] = {}

    def proved(self, host: str) -> None:
        """Note that a host proved itself just now."""
        now = self._core.now()
        with self._lock:
            self._heard[host] = self._unwritten[host] = now
        self._change(host, "fresh")

    def refused(self, host: str, codes: tuple[str, ...]) -> None:
        """Note that a host's evidence did not hold."""
        self._change(host, "refused", codes)

    def of(self, host: str) -> HostStanding:
        """How ``host`` stands, be it on the record or not."""
        kept, at = self._unrecorded.get(host), self._heard.get(host, 0)
        if kept is not None or not at:
            at = max(at, self._core.store.heard.of([host]).get(host, 0))
        standing = self._core.state.standings.get(host)
        # Whoever was heard of since, at another manager, is not silent any more.
        if kept is not None and (kept.standing == "fresh" or at <= kept.since):
            standing = kept.standing
        return HostStanding(host=host, standing=standing, heard_at=at or None)

    def tick(self) -> None:
        """Write down who was heard of, and note who is overdue. Call it once a second."""
        core = self._core
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
        if unwritten:
            core.store.heard.put(unwritten)
        core.store.refresh()
        late = core.now() - (2 * core.settings.interval_s + _GRACE_S)
        if late <= self._started:
            return  # nobody knows what became of them while this process was not there
        silent = [h for h in self._watched() if self._heard.get(h, self._started) < late]
        if not silent:
            return
        elsewhere = core.store.heard.of(silent)
        with self._lock:
            for host, at in elsewhere.items():
                self._heard[host] = max(at, self._heard.get(host, 0))
        for host in silent:
            self._change(host, "overdue", silent_since=late)

    def _watched(self) -> set[str]:
        """Hosts that stand as fresh, and those of which it is time to look again."""
        now = self._core.now()
        watched = {h for h, s in list(self._core.state.standings.items()) if s == "fresh"}
        for host, kept in list(self._unrecorded.items()):
            if kept.standing == "fresh" or not kept.settled(now):
                watched.add(host)
            else:
                watched.discard(host)
        return watched

    def _change(
        self,
        host: str,
        standing: StandingName,
        codes: tuple[str, ...] = (),
        *,
        silent_since: int | None = None,
    ) -> None:
        """Note a change of standing; with ``silent_since``, unless the host was heard then."""
        core = self._core
        if not self._news(host, standing, silent_since):
            return
        if not self._rejecting.room(core.state, core.state.hosts[host].operator):
            with self._lock:
                if not self._heard_since(host, silent_since):
                    self._unrecorded[host] = _Unrecorded(standing, core.now())
            return
        with core.store.write() as tx:
            enrolled = tx.state.hosts[host]
            if tx.state.standings.get(host) == standing or not tx.state.newest(host):
                return  # another request, or manager over this store, was first
            if self._heard_since(host, silent_since):
                return
            if not self._rejecting.room(tx.state, enrolled.operator):
                return
            lease = lease_on(tx.state, host, core.now())
            concerned = tx.state.jobs[lease.job].parties if lease else frozenset[str]()
            parties = [*concerned, enrolled.operator, enrolled.agent]
            body: JsonObject = {"host": host, "standing": standing, "codes": [*codes]}
            tx.append(core.entry("standing", parties, body))
        with self._lock:
            self._unrecorded.pop(host, None)

    def _news(self, host: str, standing: StandingName, silent_since: int | None) -> bool:
        """Whether this is not on the record, of a host that may have a standing."""
        state = self._core.state
        with self._lock:
            if (
                state.standings.get(host) == standing
                or not state.newest(host)
                or self._heard_since(host, silent_since)
            ):
                self._unrecorded.pop(host, None)
                return False
        return True

    def _heard_since(self, host: str, silent_since: int | None) -> bool:
        return silent_since is not None and self._heard.get(host, 0) >= silent_since


def lease_on(state: State, host: str, now: int) -> LeaseState | None:
    """The lease that ``host`` may still be using."""
    lease = state.leases.get(state.lent.get(state.hosts[host].device, ""))
    live = lease is not None and lease.host == host and lease.live(now)
    return lease if live else None
