"""Hosts that prove themselves at an interval, and what becomes of those that no longer do.

Rules:

1. Evidence at an interval is of no job and releases nothing. Its challenge counts in this process
   alone, so that a push costs no write.
2. Where the host holds a lease, every party to that release looks at the evidence as at a renewal.
   What would refuse a renewal takes the lease back at once, on the record.
3. A change of a host's standing is on the record, while its operator has room for it.
4. When a host was heard of is in memory, and in a table once a second: another manager over the
   same store, and this one after a restart, go on from there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from svetovid.errors import PolicyError, Reason, SvetovidError
from svetovid.evidence.documents import TeeEvidence, TpmEvidence
from svetovid.evidence.verify import Proven
from svetovid.manager.admission import Admission
from svetovid.manager.core import Core
from svetovid.manager.deciding import Deciding, Views
from svetovid.manager.examining import Case, Examiner, boot_of, require
from svetovid.manager.freshness import Admitted, Freshness
from svetovid.manager.rejecting import Rejecting
from svetovid.manager.state import LeaseState, State
from svetovid.manager.transaction import Transaction
from svetovid.policy.documents import Job
from svetovid.policy.renewal import decide_renewal
from svetovid.protocol.hosts import Attested, HostStanding, StandingName
from svetovid.protocol.messages import EvidenceRequest, JsonObject
from svetovid.transparency.receipt import without_log

__all__ = ["Watching"]

_GRACE_S = 1


@dataclass(frozen=True, slots=True)
class _Found:
    """What a party to a lease objects to, and to what it lost by it."""

    lease: LeaseState
    case: Case
    views: Views
    reasons: tuple[Reason, ...]


class Watching:
    """Takes evidence at an interval, and notices what does not come. Threads may share it."""

    def __init__(
        self,
        core: Core,
        freshness: Freshness,
        deciding: Deciding,
        examiner: Examiner,
        admission: Admission,
        rejecting: Rejecting,
    ) -> None:
        self._core = core
        self._freshness = freshness
        self._deciding = deciding
        self._examiner = examiner
        self._admission = admission
        self._rejecting = rejecting
        self._lock = threading.Lock()
        self._started = core.now()
        self._heard: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}

    def attest(self, request: EvidenceRequest) -> JsonObject:
        """Evidence of role ``attest``; :class:`Attested` back.

        Raises:
            EvidenceError, ParseError: what is wrong with the evidence.
        """
        evidence = request.evidence
        with self._freshness.admit(evidence, "attest") as admitted:
            try:
                proven = self._freshness.prove(admitted)
                self._examiner.no_older_boot(proven, admitted)
            except SvetovidError as e:
                if e.exit_code in (2, 3):
                    self._spoilt(admitted, evidence, e)
                raise
            self._freshness.seen_boot(admitted.challenge.host, boot_of(proven))
            found = self._hold_against(admitted, evidence, proven)
        host = admitted.challenge.host
        if found or self._trusted(host):
            self._freshness.carry_on(proven)
        self._hear(host)
        if self._core.state.standings.get(host) != "fresh":
            self._record(host, "fresh")
        return Attested(
            challenge=self._freshness.next(host),
            interval=self._core.settings.interval_s,
            lost=(found.lease.id,) if found and found.reasons else (),
            codes=tuple(sorted({r.code for r in found.reasons})) if found else (),
        ).to_json()

    def _hear(self, host: str) -> None:
        """Note that a host proved itself just now."""
        now = self._core.now()
        with self._lock:
            self._heard[host] = self._unwritten[host] = now

    def tick(self) -> None:
        """Write down who was heard of, and record who is overdue. Call it once a second."""
        core = self._core
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
        if unwritten:
            core.store.heard.put(unwritten)
        core.store.refresh()
        late = core.now() - (2 * core.settings.interval_s + _GRACE_S)
        if late <= self._started:
            return  # nobody knows what became of them while this process was not there
        watched = [h for h, s in core.state.standings.items() if s == "fresh"]
        silent = [h for h in watched if self._heard.get(h, self._started) < late]
        if not silent:
            return
        for host, at in core.store.heard.of(silent).items():
            self._heard[host] = max(at, self._heard.get(host, 0))
        for host in silent:
            self._record(host, "overdue", silent_since=late)

    def standing(self, host: str) -> HostStanding:
        return HostStanding(
            host=host,
            standing=self._core.state.standings.get(host),
            heard_at=self._heard.get(host) or self._core.store.heard.of([host]).get(host),
        )

    def _trusted(self, host: str) -> bool:
        state = self._core.state
        return self._admission.admitted(state, state.hosts[host].operator)

    def _lease(self, state: State, host: str) -> LeaseState | None:
        """The one that the host may still be using."""
        lease = state.leases.get(state.lent.get(state.hosts[host].device, ""))
        live = lease is not None and lease.host == host and lease.live(self._core.now())
        return lease if live else None

    def _case(
        self, admitted: Admitted, evidence: TpmEvidence | TeeEvidence, lease: LeaseState
    ) -> Case:
        job = self._core.store.document(lease.job, Job)
        return Case(admitted, lease.job, job, lease.id, without_log(evidence).digest())

    def _hold_against(
        self, admitted: Admitted, evidence: TpmEvidence | TeeEvidence, proven: Proven
    ) -> _Found | None:
        """What the parties to the host's live lease object to; on the record where they do."""
        core = self._core
        lease = self._lease(core.state, admitted.challenge.host)
        if lease is None:
            return None
        if boot_of(proven)[:2] > (lease.reset_count, lease.restart_count):
            self._over(lease)
            return None
        case = self._case(admitted, evidence, lease)
        views = self._deciding.started(case.job, case.name, "attest")
        views = self._deciding.appraised(views, proven, admitted.record)
        reasons = self._objections(case, views)
        found = _Found(lease, case, views, reasons)
        if reasons and not lease.refused:
            with core.store.write() as tx:
                self._take_back(tx, found)
        return found

    def _objections(self, case: Case, views: Views) -> tuple[Reason, ...]:
        state = self._core.state
        try:
            request = self._deciding.request(
                state, case.name, case.admitted.challenge, views, live=True
            )
            on = self._deciding.released_on(state, case.name)
            require(decide_renewal(request, released_on=on, role="attest"), views)
        except PolicyError as e:
            # A policy that is just being replaced is looked at again at the next push.
            return () if e.code == "policy.changed" else e.reasons
        return ()

    def _take_back(self, tx: Transaction, found: _Found) -> None:
        lease = self._lease(tx.state, found.lease.host)
        if lease is not None and lease.id == found.lease.id and not lease.refused:
            self._examiner.record_refusal(tx, found.case, found.reasons, found.views)

    def _over(self, lease: LeaseState) -> None:
        """The machine was restarted: whatever held the lease is gone (T12)."""
        core = self._core
        with core.store.write() as tx:
            if tx.state.leases[lease.id].live(core.now()):
                host = tx.state.hosts[lease.host]
                parties = [*tx.state.jobs[lease.job].parties, host.operator, host.agent]
                body: JsonObject = {"lease": lease.id, "job": lease.job, "why": "restarted"}
                tx.append(core.entry("lease-end", parties, body))

    def _spoilt(
        self, admitted: Admitted, evidence: TpmEvidence | TeeEvidence, error: SvetovidError
    ) -> None:
        """Evidence that proves nothing: the standing is gone, and with it the lease."""
        host = admitted.challenge.host
        codes = tuple(sorted({r.code for r in error.reasons}))
        self._freshness.forget(host)
        lease = self._lease(self._core.state, host)
        if lease is not None and not lease.refused:
            case = self._case(admitted, evidence, lease)
            views = self._deciding.started(case.job, case.name, "attest")
            with self._core.store.write() as tx:
                self._take_back(tx, _Found(lease, case, views, error.reasons))
        if self._core.state.standings.get(host) != "refused":
            self._record(host, "refused", codes)

    def _record(
        self,
        host: str,
        standing: StandingName,
        codes: tuple[str, ...] = (),
        *,
        silent_since: int | None = None,
    ) -> None:
        """Record a change of standing; with ``silent_since``, unless the host was heard then."""
        core = self._core
        with core.store.write() as tx:
            enrolled = tx.state.hosts[host]
            if tx.state.standings.get(host) == standing:
                return  # another manager over this store was first
            if silent_since is not None and self._heard.get(host, 0) >= silent_since:
                return
            if not self._rejecting.room(tx.state, enrolled.operator):
                return
            lease = self._lease(tx.state, host)
            concerned = tx.state.jobs[lease.job].parties if lease else frozenset[str]()
            parties = [*concerned, enrolled.operator, enrolled.agent]
            body: JsonObject = {"host": host, "standing": standing, "codes": [*codes]}
            tx.append(core.entry("standing", parties, body))
