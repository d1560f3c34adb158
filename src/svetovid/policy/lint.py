"""The linter: what an owner most likely did not mean.

Errors are refused when a policy is signed and when a manager is given one; warnings are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from svetovid.errors import InputError, PolicyError, Reason
from svetovid.policy.cel_subset import Expression, parse
from svetovid.policy.conditions import CLAIM_FIELDS, JOB_FIELDS, OFFLOAD_FIELDS
from svetovid.policy.documents import Condition, Export, Grant, JobLimits, Policy
from svetovid.policy.lattice import enumerable, outcomes
from svetovid.policy.modes import NOT_BUILT
from svetovid.policy.offload import strongest
from svetovid.policy.once import MAX_ALTERNATIVES, MAX_POLICY_WORK, policy_work

__all__ = ["Finding", "lint", "require_sound"]

_PARTS = {"limits": JobLimits.model_fields, "offload": OFFLOAD_FIELDS}
"""Members of those fields of a job whose members are always the same."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the linter saw.

    Attributes:
        severity: an ``error`` is refused, a ``warning`` shown.
        code: stable, ``lint.*``.
        where: path in the policy, for example ``grants[0].conditions[1]``.
        message: what is wrong, in words.
        next_step: what to do about it.
    """

    severity: Literal["error", "warning"]
    code: str
    where: str
    message: str
    next_step: str


def lint(policy: Policy, *, now: int | None = None, warnings: bool = True) -> list[Finding]:
    """All findings, errors first.

    Codes: ``lint.any_tpm``, ``lint.accepts``, ``lint.any_code``, ``lint.no_recipients``,
    ``lint.plain``, ``lint.no_limits``, ``lint.expired``, ``lint.duplicate``, ``lint.mode``,
    ``lint.self_export``, ``lint.no_grants``, ``lint.grants``, ``lint.cel``, ``lint.cel_loop``,
    ``lint.conditions``, ``lint.unknown_claim``,
    ``lint.unknown_field``, ``lint.never``, ``lint.always``, ``lint.pinned_by_signer``,
    ``lint.unavailable``, ``lint.collusion``.

    Args:
        now: Unix seconds; without it nothing is said about expiry.
        warnings: try conditions on values that can only lead to warnings, which takes seconds for
            many of them. Without, all errors are found, and only some warnings.
    """
    found = [*_policy(policy), *_work(policy)]
    seen: dict[tuple[str, str, str], str] = {}
    entries: list[tuple[str, Grant]] = [
        *((f"grants[{i}]", g) for i, g in enumerate(policy.grants)),
        *((f"exports[{i}]", e) for i, e in enumerate(policy.exports)),
    ]
    for where, grant in entries:
        found += _grant(policy, where, grant, now)
        for i, condition in enumerate(grant.conditions):
            found += _condition(policy, f"{where}.conditions[{i}]", condition, warnings)
        key = (grant.asset, grant.use, grant.to if isinstance(grant, Export) else "")
        if key in seen:
            found.append(
                Finding(
                    "warning",
                    "lint.duplicate",
                    where,
                    f"{seen[key]} grants the same asset: one that holds is enough",
                    "merge the two, unless either is meant to be enough",
                )
            )
        seen.setdefault(key, where)
    return sorted(found, key=lambda f: (f.severity, f.where, f.code))


def require_sound(policy: Policy, *, now: int | None = None) -> None:
    """Refuse a policy with errors.

    Raises:
        PolicyError: with every error found, under its ``lint.*`` code.
    """
    reasons = [
        Reason(f.code, "", f.message, f.next_step, f"policy {policy.name} {f.where}", policy.owner)
        for f in lint(policy, now=now, warnings=False)
        if f.severity == "error"
    ]
    if reasons:
        raise PolicyError.from_reasons(reasons)


def _policy(policy: Policy) -> Iterator[Finding]:
    if not policy.operators and not policy.hosts:
        yield Finding(
            "error",
            "lint.any_tpm",
            "operators",
            "neither operators nor hosts are named: anyone can buy a TPM of any vendor",
            "name the operators, or the hosts, you rely on",
        )
    if policy.profile == "production" and policy.accepts:
        yield Finding(
            "error",
            "lint.accepts",
            "accepts",
            "a production policy refuses simulated and launcher whatever accepts says",
            "remove accepts, or use profile: test",
        )
    if not (policy.grants or policy.exports or policy.imports):
        yield Finding(
            "warning", "lint.no_grants", "grants", "nothing is granted to anybody", "add a grant"
        )
    for i, pin in enumerate((policy.anchors, *policy.references)):
        if pin.document is None and policy.profile == "production":
            yield Finding(
                "warning",
                "lint.pinned_by_signer",
                "anchors" if i == 0 else f"references[{i - 1}]",
                "whatever this signer publishes from now on is accepted",
                "pin the document by its digest, unless you trust the signer with the future",
            )
    for i, export in enumerate(policy.exports):
        if export.to == policy.owner:
            yield Finding(
                "error", "lint.self_export", f"exports[{i}]", "exported to its owner", "grant it"
            )


def _work(policy: Policy) -> Iterator[Finding]:
    """Whether decisions under this policy end soon: else they refuse (V10)."""
    alternatives = Counter((g.asset, g.use, "") for g in policy.grants)
    alternatives += Counter((e.asset, e.use, e.to) for e in policy.exports)
    if alternatives and max(alternatives.values()) > MAX_ALTERNATIVES:
        yield Finding(
            "error",
            "lint.grants",
            "grants",
            f"more than {MAX_ALTERNATIVES} grants of one asset in one use",
            "merge grants: each can name 64 code bundles and 64 recipients",
        )
    try:
        taken = policy_work(policy)
    except InputError:  # told of the condition itself
        return
    if taken > MAX_POLICY_WORK:
        yield Finding(
            "error",
            "lint.conditions",
            "grants",
            f"different conditions of {taken} characters together, of at most {MAX_POLICY_WORK};"
            " each list or map of a job that one reads whole counts as 128 more",
            "write fewer or shorter conditions; equal ones count once",
        )


def _grant(policy: Policy, where: str, grant: Grant, now: int | None) -> Iterator[Finding]:
    if not grant.code and grant.use != "code":
        yield Finding(
            "error",
            "lint.any_code",
            f"{where}.code",
            f"no code is named that may read this {grant.use}",
            "name the manifest of each code bundle you reviewed or trust",
        )
    if not grant.recipients:
        yield Finding(
            "error",
            "lint.no_recipients",
            f"{where}.recipients",
            "nobody may receive what comes out, so no job is ever granted",
            "name the recipients' keys",
        )
    if "plain" in grant.modes:
        yield Finding(
            "error",
            "lint.plain",
            f"{where}.modes",
            "plain mode protects nothing; no key is released for it",
            "remove plain",
        )
    if later := sorted(NOT_BUILT & set(grant.modes)):
        yield Finding(
            "warning",
            "lint.unavailable",
            f"{where}.modes",
            f"no job runs in mode {', '.join(later)} yet",
            "grant it when this software has it",
        )
    if "enclave" in grant.modes and len(grant.modes) > 1:
        yield Finding(
            "warning",
            "lint.mode",
            f"{where}.modes",
            "enclave and weaker modes are granted alike: the proposer of a job chooses",
            "grant enclave alone if memory must be protected from the operator",
        )
    if "masked" in grant.modes:
        yield from _collusion(where, grant)
    limits = grant.limits
    missing = [n for n in ("runs", "expires_at", "output_bytes") if getattr(limits, n) is None]
    if missing:
        yield Finding(
            "warning",
            "lint.no_limits",
            f"{where}.limits",
            f"no limit on {', '.join(missing)}",
            "set them, unless the grant is meant to be unlimited",
        )
    if now is not None and limits.expires_at is not None and limits.expires_at <= now:
        yield Finding(
            "warning", "lint.expired", f"{where}.limits", "the grant has expired", "extend it"
        )


def _collusion(where: str, grant: Grant) -> Iterator[Finding]:
    if grant.collusion < 1:
        yield Finding(
            "warning",
            "lint.collusion",
            f"{where}.collusion",
            "a job is granted whose workers learn everything",
            "ask for 1 or more, unless you trust whoever runs the workers",
        )
    elif grant.collusion > (most := strongest()):
        yield Finding(
            "warning",
            "lint.collusion",
            f"{where}.collusion",
            f"no protocol holds against more than {most} operators: no masked job is ever granted",
            f"ask for {most}",
        )


def _condition(
    policy: Policy, where: str, condition: Condition, warnings: bool
) -> Iterator[Finding]:
    try:
        expression = parse(condition.cel)
    except InputError as e:
        code = "lint.cel_loop" if e.code == "policy.cel_loop" else "lint.cel"
        yield Finding("error", code, where, str(e), e.reason.next_step or "shorten it")
        return
    unknown = list(_unknown(where, expression))
    if unknown:
        yield from unknown
        return
    if not warnings and not enumerable(expression, policy):
        return
    result = outcomes(expression, policy)
    if not result.can_be_true:
        yield Finding(
            "error" if result.exhaustive else "warning",
            "lint.never",
            where,
            "this condition is never true under this policy",
            "compare with values that can occur, and of the field's own type",
        )
    elif not result.can_be_false:
        yield Finding(
            "warning",
            "lint.always",
            where,
            "this condition is true for every value tried: it excludes nothing",
            "remove it, or say what it is to exclude",
        )


def _unknown(where: str, expression: Expression) -> Iterator[Finding]:
    for path in sorted(expression.paths | expression.tested):
        root, name = path[:2]
        if root == "claims" and (name not in CLAIM_FIELDS or len(path) > 2):
            yield Finding(
                "error",
                "lint.unknown_claim",
                where,
                f"no evidence gives {'.'.join(path)}",
                "use one of " + ", ".join(CLAIM_FIELDS),
            )
        elif root == "job" and (
            name not in JOB_FIELDS
            or (name in _PARTS and len(path) > 2 and path[2] not in _PARTS[name])
        ):
            yield Finding(
                "error",
                "lint.unknown_field",
                where,
                f"a job has no {'.'.join(path[1:])}",
                "use one of " + ", ".join(JOB_FIELDS),
            )
