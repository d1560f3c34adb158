"""Hosts that prove themselves at an interval, and what becomes of those that no longer do.

Rules:

1. Evidence at an interval is of no job and releases nothing. Its challenge counts in this process
   alone, so that a push costs no write.
2. Where the host holds a lease, every party to that release looks at the evidence as at a renewal.
   What would refuse a renewal takes the lease back at once, on the record.
"""

from __future__ import annotations

from dataclasses import dataclass

from svetovid.errors import PolicyError, Reason, SvetovidError
from svetovid.evidence.documents import TeeEvidence, TpmEvidence
from svetovid.evidence.verify import Proven
from svetovid.manager.admission import Admission
from svetovid.manager.core import Core
from svetovid.manager.deciding import Deciding, Views, Ways, first
from svetovid.manager.examining import Case, Examiner, boot_of, require
from svetovid.manager.freshness import Admitted, Freshness
from svetovid.manager.standings import Standings, lease_on
from svetovid.manager.state import LeaseState, State
from svetovid.manager.transaction import Transaction
from svetovid.policy.documents import Job
from svetovid.policy.renewal import decide_renewal
from svetovid.protocol.hosts import Attested, HostStanding
from svetovid.protocol.messages import EvidenceRequest, JsonObject
from svetovid.transparency.receipt import without_log

__all__ = ["Watching"]


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
        standings: Standings,
    ) -> None:
        self._core = core
        self._freshness = freshness
        self._deciding = deciding
        self._examiner = examiner
        self._admission = admission
        self._standings = standings

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
        self._standings.proved(host)
        return Attested(
            challenge=self._freshness.next(host),
            interval=self._core.settings.interval_s,
            lost=(found.lease.id,) if found and found.reasons else (),
            codes=tuple(sorted({r.code for r in found.reasons})) if found else (),
        ).to_json()

    def tick(self) -> None:
        """Notice who falls silent. Call it once a second."""
        self._standings.tick()

    def standing(self, host: str) -> HostStanding:
        return self._standings.of(host)

    def _trusted(self, host: str) -> bool:
        state = self._core.state
        return self._admission.admitted(state, state.hosts[host].operator)

    def _lease(self, state: State, host: str) -> LeaseState | None:
        return lease_on(state, host, self._core.now())

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
        started = self._deciding.started(case.job, case.name, "attest")
        ways = self._deciding.appraised(started, proven, admitted.record)
        reasons, views = self._objections(case, ways)
        found = _Found(lease, case, views, reasons)
        if reasons and not lease.refused:
            with core.store.write() as tx:
                self._take_back(tx, found)
        return found

    def _objections(self, case: Case, ways: Ways) -> tuple[tuple[Reason, ...], Views]:
        """What is held against the lease, and whose views it was found by."""
        state, challenge, views = self._core.state, case.admitted.challenge, first(ways)
        try:
            views = self._deciding.chosen(state, case.name, challenge, ways)
            request = self._deciding.request(state, case.name, challenge, views, live=True)
            on = self._deciding.released_on(state, case.name)
            require(decide_renewal(request, released_on=on, role="attest"), views)
        except PolicyError as e:
            # A policy that is just being replaced is looked at again at the next push.
            return () if e.code == "policy.changed" else e.reasons, views
        return (), views

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
            views = first(self._deciding.started(case.job, case.name, "attest"))
            with self._core.store.write() as tx:
                self._take_back(tx, _Found(lease, case, views, error.reasons))
        self._standings.refused(host, codes)
