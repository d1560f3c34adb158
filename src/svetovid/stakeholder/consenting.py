"""Consent: look at a job, hold it against the own policy, sign (T5)."""

from __future__ import annotations

from svetovid.crypto import Envelope, sign
from svetovid.errors import PolicyError, Reason
from svetovid.policy import Consent, History, Job, Policy, Request, decide
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.manager import connect
from svetovid.stakeholder.policies import own_policies
from svetovid.stakeholder.standing import no_one_policy

__all__ = ["check_job", "consent", "own_slots"]

_ONLY_A_HOST_CAN_TELL = frozenset({"policy.appraisal"})


def own_slots(job: Job, policy: Policy) -> list[str]:
    """Slots of ``job`` that a policy decides about: its owner's assets, and those it imports."""
    imported = {i.asset for i in policy.imports}
    return sorted(
        slot
        for slot, asset in job.assets.items()
        if asset.owner == policy.owner or asset.manifest in imported
    )


def check_job(who: Stakeholder, job: Job, now: int) -> tuple[Policy, list[Reason]]:
    """Hold ``job`` against the own policy, by the clauses the manager will decide by.

    Clauses that need a host's evidence, and limits that other jobs have used up, are not known
    here; the manager looks at those.

    Returns:
        The policy, and every reason for which it would refuse the job; none if it would not.

    Raises:
        PolicyError: ``consent.policy`` where no own policy speaks of an asset in the job, or
            more than one does; ``consent.version`` for a version that is not the newest;
            ``consent.owner`` where nothing in the job is one's own.
    """
    policies = [p for p in own_policies(who) if _speaks_of(p, job)]
    if len(policies) != 1:
        raise no_one_policy(who, job, policies)
    policy = policies[0]
    slots = own_slots(job, policy)
    request = Request(
        job=job,
        manager=policy.manager,
        role="release",
        evidence_job=job.digest(),
        consents=[_signed(who, _consent(job, policy, slots, now))],
        policies={policy.owner: policy},
        deposits={job.assets[s].manifest: job.assets[s].owner for s in slots},
        appraisals={},
        references={},
        history=History(),
        revoked=frozenset(),
        now=now,
    )
    reasons = [
        r for r in decide(request).reasons if r.owner in ("", policy.owner) and not _unknown(r)
    ]
    return policy, reasons + _environment(policy, job)


def consent(who: Stakeholder, job: Job, now: int) -> Envelope:
    """Agree that the own assets are used in ``job`` under the own current policy, and say so to
    the own manager and to nobody else.

    Raises:
        PolicyError: every reason for which the own policy refuses the job; nothing was signed.
    """
    policy, reasons = check_job(who, job, now)
    if reasons:
        raise PolicyError.from_reasons(reasons)
    slots = own_slots(job, policy)
    signed = _signed(who, _consent(job, policy, slots, now))
    with connect(who) as client:
        client.consent(signed)
    return signed


def _signed(who: Stakeholder, document: Consent) -> Envelope:
    """Signed by the current key, and by the one the job knows this owner by, if that is older."""
    signers = {k: who.identity_of(k) for k in (document.owner, who.key_id)}
    return sign(document, *signers.values())


def _consent(job: Job, policy: Policy, slots: list[str], now: int) -> Consent:
    return Consent(
        job=job.digest(),
        policy=policy.digest(),
        owner=policy.owner,
        slots=tuple(slots),
        issued_at=now,
    )


def _speaks_of(policy: Policy, job: Job) -> bool:
    ours = {g.asset for g in (*policy.grants, *policy.exports)} | {i.asset for i in policy.imports}
    return any(a.manifest in ours for a in job.assets.values())


def _unknown(reason: Reason) -> bool:
    """Whether only a host's evidence, or another party, can settle this clause."""
    claims = reason.code == "policy.error" and reason.observed.startswith("claims.")
    return claims or reason.code in _ONLY_A_HOST_CAN_TELL


def _environment(policy: Policy, job: Job) -> list[Reason]:
    """The runtime must be one whose reference values the policy pins; pins by signer stay open."""
    pins = [pin.document for pin in policy.references]
    if None in pins or job.environment in pins:
        return []
    return [
        Reason(
            code="policy.environment",
            expected=f"an environment whose reference values policy {policy.name} pins",
            observed=job.environment,
            next_step="propose the job with a runtime that all owners accept",
            clause=f"policy {policy.name} references",
            owner=policy.owner,
        )
    ]
