"""Clauses of one grant: code, mode, recipients, devices and workers; conditions; limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svetovid.policy.documents import Export, Grant, Job, JobAsset, Policy
from svetovid.policy.offload import collusion_bound
from svetovid.policy.once import MAX_ALTERNATIVES, Noted, Once
from svetovid.policy.request import Book, GrantUse, Request

__all__ = ["Context", "check_export", "check_narrower", "check_slot"]

_NAMED = 4
_NEAREST = 8


@dataclass(frozen=True, slots=True)
class Context:
    """What all grants of one request are held against.

    Attributes:
        recipients: the job's recipients, or ``None`` where a card does not hold.
        counting: whether this decision uses up a run: releases do, renewals do not.
        once: what this decision found out so far.
        import_bytes: what one policy behind an import may take in the job's receipt.
    """

    request: Request
    recipients: tuple[str, ...] | None
    counting: bool
    once: Once
    import_bytes: int


def check_slot(ctx: Context, asset: JobAsset, importer: str | None) -> Noted:
    """The clauses of the grant that admits ``asset``: the owner's own, or an export.

    With several grants for one asset, one that holds as a whole is enough; where none does, the
    clauses of the eight that come nearest are noted.
    """
    key = ("grants", asset.owner, asset.manifest, asset.use, importer)
    return ctx.once.noted(key, lambda book: _slot(book, ctx, asset, importer))


def check_export(ctx: Context, asset: JobAsset, importer: str) -> Noted:
    """The clauses of what the owner of ``asset`` exports to ``importer``."""
    key = ("export", asset.owner, asset.manifest, asset.use, importer)
    return ctx.once.noted(key, lambda book: _export(book, ctx, asset, importer))


def check_narrower(ctx: Context, asset: JobAsset, importer: str) -> Noted:
    """The clauses of the importer's own grants of ``asset``, if there are any."""

    def note(book: Book) -> None:
        inner = ctx.request.policies[importer]
        if narrower := _grants(inner, asset):
            _one_of(book, ctx, inner, narrower)

    return ctx.once.noted(("narrower", asset.manifest, asset.use, importer), note)


def _slot(book: Book, ctx: Context, asset: JobAsset, importer: str | None) -> None:
    policy = ctx.request.policies.get(asset.owner)
    if policy is None:
        return
    if importer is None:
        _one_of(book, ctx, policy, _grants(policy, asset))
        return
    book.clauses.extend(check_export(ctx, asset, importer).clauses)
    book.clauses.extend(check_narrower(ctx, asset, importer).clauses)


def _export(book: Book, ctx: Context, asset: JobAsset, importer: str) -> None:
    policy, inner = ctx.request.policies[asset.owner], ctx.request.policies[importer]
    name = ctx.request.policy_names[asset.owner]
    pinned = any(i.asset == asset.manifest and i.policy == name for i in inner.imports)
    book.check(
        pinned,
        "policy.import",
        f"policy {inner.name} imports",
        owner=importer,
        observed=name,
        expected="the exporter's current policy",
        next_step="the importer must look at the exporter's new policy, and pin it",
    )
    for party in (policy, inner):
        _fits(book, ctx, party)
    exports = [
        (f"policy {policy.name} exports[{i}]", e)
        for i, e in enumerate(policy.exports)
        if (e.asset, e.use, e.to) == (asset.manifest, asset.use, importer)
    ]
    _one_of(book, ctx, policy, exports)


def _fits(book: Book, ctx: Context, policy: Policy) -> None:
    """Whether a receipt can hold a policy that an import rests on (T13).

    Each has a part of its own, so that nobody's policy leaves too little to another's. Renewals do
    not ask: the receipt brings what the release was decided by.
    """
    size = ctx.request.policy_bytes[policy.owner]
    book.check(
        not ctx.counting or size <= ctx.import_bytes,
        "receipt.policies",
        f"policy {policy.name}",
        owner=policy.owner,
        observed=f"{size} bytes",
        expected=f"at most {ctx.import_bytes} bytes: the receipt holds the policies of an import",
        next_step="ask the asset's owner to consent itself, or split the policy",
    )


def _grants(policy: Policy, asset: JobAsset) -> list[tuple[str, Grant]]:
    return [
        (f"policy {policy.name} grants[{i}]", g)
        for i, g in enumerate(policy.grants)
        if (g.asset, g.use) == (asset.manifest, asset.use)
    ]


def _one_of(
    book: Book, ctx: Context, policy: Policy, candidates: Sequence[tuple[str, Grant]]
) -> None:
    if not candidates:
        book.check(
            False,
            "policy.grant",
            f"policy {policy.name} grants",
            owner=policy.owner,
            observed="no grant",
            expected="a grant for this asset in this use",
            next_step="ask the owner to grant it",
        )
        return
    if len(candidates) > MAX_ALTERNATIVES:
        book.check(
            False,
            "limit.grants",
            f"policy {policy.name} grants",
            owner=policy.owner,
            observed=f"{len(candidates)} grants of one asset in one use",
            expected=f"at most {MAX_ALTERNATIVES}",
            next_step="the owner must merge them",
        )
        return
    tried: list[Book] = []
    for where, grant in candidates:
        attempt = Book()
        _grant(attempt, ctx, policy.owner, where, grant)
        if all(c.ok for c in attempt.clauses):
            tried = [attempt]
            break
        tried.append(attempt)
    nearest = sorted(range(len(tried)), key=lambda i: sum(not c.ok for c in tried[i].clauses))
    for attempt in (tried[i] for i in sorted(nearest[:_NEAREST])):
        book.clauses.extend(attempt.clauses)


def _grant(book: Book, ctx: Context, owner: str, where: str, grant: Grant) -> None:
    job = ctx.request.job
    code = job.code.manifest
    itself = grant.use == "code" and not grant.code and grant.asset == code
    book.check(
        itself or code in grant.code,
        "grant.code",
        f"{where}.code",
        owner=owner,
        observed=code,
        expected=_any_of(grant.code, "code bundle"),
        next_step="run the agreed code, or ask the owner to review and grant this one",
    )
    book.check(
        job.mode in grant.modes,
        "grant.mode",
        f"{where}.modes",
        owner=owner,
        observed=job.mode,
        expected=" or ".join(grant.modes),
        next_step="propose the job in a granted mode",
    )
    unknown = sorted(set(ctx.recipients or ()) - set(grant.recipients))
    book.check(
        bool(ctx.recipients) and not unknown,
        "grant.recipient",
        f"{where}.recipients",
        owner=owner,
        observed=", ".join(unknown) or f"{len(ctx.recipients or ())} recipients",
        expected=_any_of(grant.recipients, "recipient"),
        next_step="propose the job with granted recipients only",
    )
    devices = sorted(set(job.devices) - set(grant.devices))
    book.check(
        not devices,
        "grant.device",
        f"{where}.devices",
        owner=owner,
        observed=", ".join(devices) or "granted devices only",
        expected=", ".join(grant.devices) or "no device",
        next_step="propose the job without these devices, or ask the owner to grant them",
    )
    _collusion(book, job, owner, where, grant)
    for i, condition in enumerate(grant.conditions):
        outcome = ctx.once.condition(owner, condition.cel)
        book.check(
            outcome.ok,
            outcome.code,
            f'{where}.conditions[{i}] "{condition.name}"',
            owner=owner,
            observed=outcome.observed,
            expected=condition.cel,
            next_step=condition.because or "meet the condition, or ask its owner to change it",
        )
    _limits(book, ctx, owner, where, grant)


def _collusion(book: Book, job: Job, owner: str, where: str, grant: Grant) -> None:
    if job.offload is not None:
        holds = collusion_bound(job.offload)
        book.check(
            holds >= grant.collusion,
            "grant.collusion",
            f"{where}.collusion",
            owner=owner,
            observed=f"{holds}, with protocol {job.offload.protocol} and workers of "
            + ", ".join(job.offload.operators),
            expected=f"a collusion bound of at least {grant.collusion}",
            next_step="propose the job with workers of different operators, spare ones included, "
            "or ask the owner what it puts up with",
        )


def _any_of(names: Sequence[str], what: str) -> str:
    """The first few, which fit into a reason, and how many more there are."""
    more = len(names) - _NAMED
    told = ", ".join(names[:_NAMED]) or f"no {what}"
    return f"{told} or {more} more" if more > 0 else told


def _limits(book: Book, ctx: Context, owner: str, where: str, grant: Grant) -> None:
    request, limits = ctx.request, grant.limits
    to = grant.to if isinstance(grant, Export) else ""
    use = request.history.uses.get((owner, grant.asset, to), GrantUse())
    if limits.expires_at is not None:
        book.check(
            request.now < limits.expires_at,
            "limit.expired",
            f"{where}.limits.expires_at",
            owner=owner,
            observed=request.now,
            expected=f"before {limits.expires_at}",
            next_step="ask the owner to extend the grant",
        )
    if limits.runs is not None and ctx.counting:
        book.check(
            use.runs < limits.runs,
            "limit.runs",
            f"{where}.limits.runs",
            owner=owner,
            observed=f"{use.runs} used",
            expected=f"at most {limits.runs} runs, resumes included",
            next_step="ask the owner for more runs",
        )
    if limits.output_bytes is not None:
        # A renewal takes nothing: its release was charged.
        wanted = request.job.bytes_out if ctx.counting else 0
        needed = use.output_bytes + wanted
        book.check(
            needed <= limits.output_bytes,
            "limit.output_bytes",
            f"{where}.limits.output_bytes",
            owner=owner,
            observed=f"{use.output_bytes} used by earlier releases, {wanted} asked for",
            expected=f"at most {limits.output_bytes} in all; {needed} would admit this release, "
            f"and each further one takes {wanted} more",
            next_step="propose the job with smaller outputs, or ask the owner to raise "
            "limits.output_bytes: every release is charged, resumes included, for good",
        )
