"""Consent: look at a job, hold it against the own policy, sign (T5)."""

from __future__ import annotations

from svetovid.crypto import Envelope, sign
from svetovid.errors import PolicyError, Reason
from svetovid.policy import Consent, History, Job, Policy, Request, decide
from svetovid.stakeholder.identity import Stakeholder, rotations
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


def check_job(who: Stakeholder, job: Job, now: int) -> tuple[list[Policy], list[Reason]]:
    """Hold ``job`` against the own policies, by the clauses the manager will decide by.

    Clauses that need a host's evidence, and limits that other jobs have used up, are not known
    here; the manager looks at those.

    Args:
        who: whose policies.
        job: as proposed.
        now: Unix seconds.

    Returns:
        The policies, one for each key of this home that an asset in the job names as its owner; and
        every reason for which they would refuse the job, none if they would not.

    Raises:
        PolicyError: ``consent.policy`` where no own policy speaks of an asset in the job, or
            more than one of one key does; ``consent.version`` for a version that is not the
            newest; ``consent.owner`` where nothing in the job is one's own.
    """
    policies = [p for p in own_policies(who) if _speaks_of(p, job)]
    if not policies or len({p.owner for p in policies}) != len(policies):
        raise no_one_policy(who, job, policies)
    slots = {s for p in policies for s in own_slots(job, p)}
    request = Request(
        job=job,
        manager=policies[0].manager,
        role="release",
        evidence_job=job.digest(),
        consents=[_consent(who, job, p, now) for p in policies],
        policies={p.owner: p for p in policies},
        deposits={job.assets[s].manifest: job.assets[s].owner for s in slots},
        appraisals={},
        references={},
        history=History(),
        revoked=frozenset(),
        now=now,
    )
    ours = {"", *(p.owner for p in policies)}
    reasons = [r for r in decide(request).reasons if r.owner in ours and not _unknown(r)]
    return policies, reasons + [r for p in policies for r in _environment(p, job)]


def consent(who: Stakeholder, job: Job, now: int) -> list[Envelope]:
    """Agree that the own assets are used in ``job`` under the own current policies, and say so to
    the own manager and to nobody else.

    Args:
        who: who agrees.
        job: as proposed.
        now: Unix seconds.

    Returns:
        One consent for each key of this home that an asset in the job names as its owner.

    Raises:
        PolicyError: every reason for which an own policy refuses the job; nothing was signed.
    """
    policies, reasons = check_job(who, job, now)
    if reasons:
        raise PolicyError.from_reasons(reasons)
    signed = [_consent(who, job, policy, now) for policy in policies]
    with connect(who) as client:
        for envelope in signed:
            client.consent(envelope)
    return signed


def _consent(who: Stakeholder, job: Job, policy: Policy, now: int) -> Envelope:
    """Signed by the current key, which speaks for the one that the assets name."""
    said = Consent(
        job=job.digest(),
        policy=policy.digest(),
        owner=policy.owner,
        rotations=rotations(who.home, policy.owner),
        slots=tuple(own_slots(job, policy)),
        issued_at=now,
    )
    return sign(said, who.identity)


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
