"""Evidence on its one way through a manager: admit, prove, appraise, decide, record.

Rules:

1. The challenge is used up, the decision written and the checkpoint signed in one transaction; the
   answer is given after it is on the disk (K6). A refusal is a record as well, while its host's
   operator has room for one; a refusal that ends a lease always is, once.
2. A verdict counts for as long as its challenge does (K5).
3. Owners get every reason of their own clauses; the host gets codes and next steps.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import JsonValue

from svetovid.crypto import Envelope, b64encode
from svetovid.errors import EvidenceError, PolicyError, Reason, SvetovidError
from svetovid.evidence.documents import NO_SUBJECT, Role, TeeEvidence, TpmEvidence
from svetovid.evidence.verify import Proven
from svetovid.manager.core import Core
from svetovid.manager.deciding import Deciding, Views, first
from svetovid.manager.freshness import Admitted, Freshness
from svetovid.manager.rejecting import Rejecting
from svetovid.manager.state import LeaseState, State
from svetovid.manager.transaction import Transaction
from svetovid.policy.documents import Job
from svetovid.policy.request import Decision
from svetovid.protocol.messages import JsonObject, PrivatePart, Reasons
from svetovid.protocol.records import EntryKind
from svetovid.transparency.receipt import without_log

__all__ = ["Case", "Examiner", "boot_of", "require"]

_MAX_REASONS = 256
"""Of one owner in one record: what many grants refuse for one cause need not be told for each."""
_CHARGE_BYTES = 64 << 10
_NOT_RECORDED = frozenset({"challenge.used", "policy.changed", "store.quota"})
"""Nothing was found against whoever asks: it may ask again."""


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of evidence under examination.

    Attributes:
        name, job: the job's digest and itself: the one that the evidence is for, or, at an
            interval, the one that its host holds a lease for.
        lease: the one it speaks of, if any.
        evidence: digest of the evidence without its log.
    """

    admitted: Admitted
    name: str
    job: Job
    lease: str
    evidence: str

    @property
    def host(self) -> str:
        return self.admitted.challenge.host

    def body(self) -> JsonObject:
        """What every record of this case says."""
        return {
            "job": self.name,
            "host": self.host,
            "role": self.admitted.challenge.role,
            "challenge": self.admitted.name,
            "evidence": self.evidence,
        }


Granted = Callable[[Transaction, Case, Proven, Views], JsonObject]
"""Runs inside the transaction: decides, appends what it grants last of all, and returns the answer;
or raises, having written nothing, and the refusal is recorded in its stead."""


class Examiner:
    """Takes evidence all the way to a recorded decision."""

    def __init__(
        self, core: Core, freshness: Freshness, deciding: Deciding, rejecting: Rejecting
    ) -> None:
        self._core = core
        self._freshness = freshness
        self._deciding = deciding
        self._rejecting = rejecting

    def examine(
        self,
        evidence: TpmEvidence | TeeEvidence,
        role: Role,
        granted: Granted,
        *,
        lease: str = "",
        subject: str = NO_SUBJECT,
    ) -> JsonObject:
        """Raises what was found, as the host may see it."""
        core = self._core
        with self._freshness.admit(evidence, role) as admitted:
            name = admitted.challenge.job
            job = core.store.document(name, Job)
            case = Case(admitted, name, job, lease, without_log(evidence).digest())
            ways = self._deciding.started(case.job, case.name, role)
            views = first(ways)
            try:
                proven = self._freshness.prove(admitted, subject)
                self.no_older_boot(proven, admitted)
                ways = self._deciding.appraised(ways, proven, admitted.record)
                views = first(ways)
                with core.store.write() as tx:
                    if not tx.use_challenge(admitted.name, admitted.challenge.expires_at):
                        raise _used(admitted.name)
                    self._freshness.unexpired(admitted.challenge)
                    self.no_older_boot(proven, admitted)
                    views = self._deciding.chosen(tx.state, name, admitted.challenge, ways)
                    if not self._deciding.unchanged(views):
                        raise _overtaken()
                    answer = granted(tx, case, proven, views)
                self._freshness.carry_on(proven)
                return answer
            except SvetovidError as e:
                if e.exit_code not in (2, 3) or e.code in _NOT_RECORDED:
                    raise  # a failure of our own, or recorded already
                self._refuse(case, e.reasons, views)
                raise type(e).from_reasons(_for_host(e.reasons)) from None

    def append(
        self,
        tx: Transaction,
        kind: EntryKind,
        case: Case,
        body: JsonObject,
        views: Views,
        *,
        parts: tuple[PrivatePart, ...] | None = None,
        document: Envelope | None = None,
    ) -> int:
        """Record a decision, with what each owner alone may see of it.

        Args:
            parts: what owners alone may see, where it is more than their views.
        """
        if parts is None:
            parts = _privates((), views)
            body = {**body, "bytes": _charge(parts)}
        host = tx.state.hosts[case.host]
        parties = [*tx.state.jobs[case.name].parties, *views.policies, host.operator, host.agent]
        entry = self._core.entry(kind, parties, body)
        digests = {p.owner: p.digest() for p in parts}
        return tx.append(entry.model_copy(update={"private": digests}), document, parts)

    def _refuse(self, case: Case, reasons: Iterable[Reason], views: Views) -> None:
        with self._core.store.write() as tx:
            recorded = self.record_refusal(tx, case, tuple(reasons), views)
            name, expires_at = case.admitted.name, case.admitted.challenge.expires_at
            if not tx.use_challenge(name, expires_at, recorded=recorded):
                raise _used(name)

    def record_refusal(
        self, tx: Transaction, case: Case, reasons: tuple[Reason, ...], views: Views
    ) -> bool:
        """Whether there was room; there is where it ends the lease that the case speaks of, once.

        Then, where owners' own reasons would be too much to keep, they are told the codes alone.
        """
        codes: list[JsonValue] = [*sorted({r.code for r in reasons})]
        parts = _privates(reasons, views)
        body: JsonObject = {**case.body(), "codes": codes}
        if lease := self._ended(tx.state, case):
            body["lease"] = lease.id
            parts = parts if self._rejecting.told(tx.state, lease, _charge(parts)) else ()
        elif not self._rejecting.room(tx.state, tx.state.hosts[case.host].operator, _charge(parts)):
            return False
        body["bytes"] = _charge(parts)
        self.append(tx, "refusal", case, body, views, parts=parts)
        return True

    def _ended(self, state: State, case: Case) -> LeaseState | None:
        """The lease that a refusal of this case ends: its own, and one that goes on."""
        lease = state.leases.get(case.lease)
        mine = lease and (lease.job, lease.host) == (case.name, case.host)
        return lease if lease and mine and not (lease.ended or lease.refused) else None

    def no_older_boot(self, proven: Proven, admitted: Admitted) -> None:
        """Refuse evidence from before what this host proved already (F9).

        Counters are held against the newest known. The clock of one boot is held against what was
        known when the challenge was made: a quote over its nonce is later, whatever other quotes
        were under way meanwhile.
        """
        now, last = boot_of(proven), self._freshness.known_boot(proven.host)
        if now[:2] < last[:2] or now < admitted.boot:
            raise EvidenceError(
                "tpm.clock_rollback",
                expected=f"resets, restarts and clock from {max(admitted.boot, (*last[:2], 0))}",
                observed=str(now),
                next_step="the TPM's time went back: find out what happened to this machine",
            )


def _overtaken() -> PolicyError:
    return PolicyError(
        "policy.changed",
        expected="the anchors, reference values and keys that the evidence was appraised by",
        observed="some were published or revoked meanwhile",
        next_step="ask again",
    )


def _used(name: str) -> EvidenceError:
    return EvidenceError(
        "challenge.used",
        expected="a challenge that was not answered",
        observed=f"{name}, answered at another manager over this store",
        next_step="ask for a new challenge",
    )


def boot_of(proven: Proven) -> tuple[int, int, int]:
    """Reset and restart count and clock of the TPM; zeros for a TEE, which has none."""
    clock = proven.clock
    return (0, 0, 0) if clock is None else (clock.reset_count, clock.restart_count, clock.clock)


def require(decision: Decision, views: Views) -> None:
    """Refuse unless the decision grants and the view of everybody whose clauses count is there."""
    missing = (r for r in views.reasons if r.owner in decision.parties)
    reasons = (*missing, *decision.reasons)
    if reasons or not decision.granted:
        raise PolicyError.from_reasons(reasons)


def _privates(reasons: tuple[Reason, ...], views: Views) -> tuple[PrivatePart, ...]:
    return tuple(_private(owner, reasons, views) for owner in sorted(views.policies))


def _private(owner: str, reasons: tuple[Reason, ...], views: Views) -> PrivatePart:
    view = views.appraisals.get(owner)
    mine = [r for r in reasons if r.owner in ("", owner)]
    return PrivatePart(
        salt=b64encode(secrets.token_bytes(16)),
        owner=owner,
        reasons=tuple(Reasons(**r.to_dict()) for r in mine[:_MAX_REASONS]),
        claims={} if view is None else dict(view.facts()),
    )


def _charge(parts: Iterable[PrivatePart]) -> int:
    """Their bytes, in steps: all parties see it, and what another owner was told is not theirs."""
    return -(-sum(len(p.canonical()) for p in parts) // _CHARGE_BYTES) * _CHARGE_BYTES


def _for_host(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Reasons about the host's own bytes in full; an owner's clauses as codes and next steps."""
    return tuple(dict.fromkeys(r.public() if r.owner else r for r in reasons))
