"""Releases and renewals: evidence in, keys out for a time.

Rules:

1. Counts are taken inside the transaction that records the release, so limits hold under any
   number of requests at once (K3). A release is charged all that it may let out, and nothing is
   given back: whether something left is the host's word, and its operator may lose that word.
2. One live instance a job (T11). While a lease may still run, nobody else gets the job; only proof
   that its very machine was restarted since ends it early (T12). One live job a device, in the same
   way (T8).
3. A renewal takes the keys, the host and the boot of its lease, and nothing weaker (K4). A refused
   lease is not renewed again, and stays taken until what was granted is over.
4. Keys are sealed to the receiving key inside the evidence, for this job, host and challenge.
"""

from __future__ import annotations

from pydantic import JsonValue

from svetovid.crypto import Secret, canonical, digest, seal
from svetovid.errors import EvidenceError
from svetovid.evidence.verify import Proven
from svetovid.manager.admission import Admission
from svetovid.manager.core import Core
from svetovid.manager.deciding import Deciding, Views
from svetovid.manager.examining import Case, Examiner, boot_of, require
from svetovid.manager.freshness import no_lease
from svetovid.manager.registry import key_label
from svetovid.manager.state import LeaseState, State
from svetovid.manager.transaction import Transaction
from svetovid.policy.decide import decide
from svetovid.policy.documents import Job
from svetovid.policy.renewal import decide_renewal
from svetovid.policy.request import Decision
from svetovid.protocol.contexts import checkpoint_context, release_context
from svetovid.protocol.messages import (
    EvidenceRequest,
    JsonObject,
    KeyDeposit,
    Lease,
    Release,
    ReleasedKey,
    Renewal,
)

__all__ = ["Leasing", "live_lease"]


def live_lease(state: State, name: str, now: int) -> LeaseState:
    """The lease ``name`` while it lives.

    Raises:
        PolicyError: ``lease.none``.
    """
    lease = state.leases.get(name)
    if lease is None or not lease.live(now) or lease.refused:
        raise no_lease(lease)
    return lease


def check_same(case: Case, proven: Proven, lease: LeaseState) -> None:
    """Whether evidence speaks of the job, host and keys that hold the lease (K2).

    Raises:
        EvidenceError: ``lease.scope``.
    """
    if (case.name, case.host, proven.keys) != (lease.job, lease.host, lease.keys):
        raise EvidenceError(
            "lease.scope",
            expected="evidence by the instance that holds the lease",
            observed="another job, host or other keys",
            next_step="renew with the keys the release was sealed to, or ask for a new release",
        )


class Leasing:
    """Gives keys for a time, and more time."""

    def __init__(
        self, core: Core, examiner: Examiner, deciding: Deciding, admission: Admission
    ) -> None:
        self._core = core
        self._admission = admission
        self._examiner = examiner
        self._deciding = deciding

    def release(self, request: EvidenceRequest) -> JsonObject:
        """Evidence for keys; a :class:`Release` back.

        Raises:
            EvidenceError, PolicyError: why not, as the host may see it.
        """
        return self._examiner.examine(request.evidence, "release", self._released)

    def _released(self, tx: Transaction, case: Case, proven: Proven, views: Views) -> JsonObject:
        decision = self._decide(tx.state, case, proven, views)
        self._admission.lease_room(tx.state, case.host, case.name)
        keys = self._keys(case, decision, proven)
        checkpoint = self._checkpoint_key(case, proven)
        lease, body = self._lease(case, proven, digest(canonical(case.body())))
        policies = {owner: views.names[owner] for owner in decision.parties}
        importers = dict(decision.importers)
        body["policies"], body["importers"] = {**policies}, {**importers}
        body["uses"] = [*_uses(case.job, decision)]
        body["bytes_out"] = case.job.bytes_out
        held = tx.state.jobs[case.name]
        consents = self._deciding.consents(held, {*case.job.owners, *importers.values()})
        body["consents"] = [*sorted(c.payload_digest() for c in consents)]
        index = self._examiner.append(tx, "release", case, body, views)
        return Release(
            lease=lease,
            job=self._core.store.envelope(case.name),
            consents=consents,
            keys=keys,
            checkpoint_key=checkpoint,
            head=held.head,
            decision=index,
        ).to_json()

    def _decide(self, state: State, case: Case, proven: Proven, views: Views) -> Decision:
        challenge = case.admitted.challenge
        live, busy = self._taken(state, case, proven), self._busy(state, case, proven)
        request = self._deciding.request(state, case.name, challenge, views, live=live, busy=busy)
        decision = decide(request)
        require(decision, views)
        return decision

    def _taken(self, state: State, case: Case, proven: Proven) -> bool:
        """Whether an instance may still run: not if its machine was provably restarted since."""
        lease = state.leases.get(state.jobs[case.name].lease)
        if lease is None or not lease.live(self._core.now()):
            return False
        return not (lease.host == case.host and _restarted_since(lease, proven))

    def _busy(self, state: State, case: Case, proven: Proven) -> bool:
        """Whether another job may still run on this very device, whatever name the host has (T8).

        Only the newest lease counts: an older one was over, or proven dead, when it was given.
        """
        lease = state.leases.get(state.lent.get(state.hosts[case.host].device, ""))
        if lease is None or lease.job == case.name or not lease.live(self._core.now()):
            return False
        return not _restarted_since(lease, proven)

    def _keys(self, case: Case, decision: Decision, proven: Proven) -> tuple[ReleasedKey, ...]:
        core = self._core
        granted = frozenset(decision.assets)
        keys = []
        for slot, asset in sorted(case.job.assets.items()):
            if asset.manifest not in granted or asset.manager != core.me:
                continue
            key = self._open("asset", asset.manifest)
            context = release_context(
                asset.manifest, case.name, case.host, case.admitted.name, core.me
            )
            deposit = core.store.document(core.state.deposits[asset.manifest], KeyDeposit)
            sealed = seal(key, proven.keys.receiving, context)
            keys.append(ReleasedKey(slot=slot, manifest=deposit.manifest, sealed=sealed))
        return tuple(keys)

    def _checkpoint_key(self, case: Case, proven: Proven) -> str:
        context = checkpoint_context(case.name, case.host, case.admitted.name, self._core.me)
        return seal(self._open("checkpoint", case.name), proven.keys.receiving, context)

    def _open(self, label: str, subject: str) -> Secret:
        owner, sealed = self._core.store.key(label, subject)
        return self._core.root.open(sealed, key_label(label, subject, owner))

    def _lease(self, case: Case, proven: Proven, name: str) -> tuple[Lease, JsonObject]:
        seconds = self._core.settings.lease_s
        lease = Lease(
            id=name,
            job=case.name,
            host=case.host,
            seconds=seconds,
            renew_after=max(1, seconds // 3),
        )
        reset, restart, clock = boot_of(proven)
        body: JsonObject = {
            **case.body(),
            "lease": name,
            "keys": proven.keys.to_json(),
            "expires_at": self._core.now() + seconds,
            "reset_count": reset,
            "restart_count": restart,
            "clock": clock,
        }
        return lease, body

    def renew(self, request: EvidenceRequest) -> JsonObject:
        """Evidence, better or equal, for more time; a :class:`Renewal` back.

        Raises:
            PolicyError: ``lease.none``, ``renew.weaker``, ``renew.reset``, or an owner's reasons.
            EvidenceError: ``lease.scope``, or what is wrong with the evidence.
        """
        name = request.lease or ""
        live_lease(self._core.state, name, self._core.now())
        return self._examiner.examine(request.evidence, "renew", self._renewed, lease=name)

    def _renewed(self, tx: Transaction, case: Case, proven: Proven, views: Views) -> JsonObject:
        check_same(case, proven, live_lease(tx.state, case.lease, self._core.now()))
        challenge = case.admitted.challenge
        request = self._deciding.request(tx.state, case.name, challenge, views, live=True)
        released_on = self._deciding.released_on(tx.state, case.name)
        require(decide_renewal(request, released_on=released_on), views)
        self._admission.lease_room(tx.state, case.host, case.name)
        lease, body = self._lease(case, proven, case.lease)
        index = self._examiner.append(tx, "renewal", case, body, views)
        return Renewal(lease=lease, decision=index).to_json()


def _uses(job: Job, decision: Decision) -> list[dict[str, JsonValue]]:
    """Every grant that this release draws on: owners' own, or those to an importer, with that one's
    own of the same asset."""
    here = [(s, a) for s, a in job.assets.items() if a.manifest in decision.assets]
    importers = decision.importers
    out = {(a.owner, a.manifest, importers.get(s, "")) for s, a in here}
    out |= {(importers[s], a.manifest, "") for s, a in here if s in importers}
    return [{"owner": owner, "asset": asset, "to": to} for owner, asset, to in sorted(out)]


def _restarted_since(lease: LeaseState, proven: Proven) -> bool:
    """Whether the TPM that proves now was reset or restarted after it got ``lease`` (T12)."""
    return boot_of(proven)[:2] > (lease.reset_count, lease.restart_count)
