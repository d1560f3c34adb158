"""Clauses of a whole policy: whose key, whose appraisal, which hosts, which weaknesses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from svetovid.policy.documents import Policy
from svetovid.policy.request import Book, ClauseResult, Request

__all__ = ["check_owner"]


def check_owner(book: Book, request: Request, owner: str) -> None:
    """Note every policy-wide clause of ``owner``."""
    policy = request.policies.get(owner)
    held = book.check(
        policy is not None,
        "policy.missing",
        f"policy of {owner}",
        owner=owner,
        observed="held" if policy else "none",
        expected="a policy held by this manager",
        next_step="the owner must send its policy to this manager",
    )
    book.check(
        owner not in request.revoked,
        "policy.key",
        f"policy of {owner}",
        owner=owner,
        observed="revoked" if owner in request.revoked else "not revoked",
        expected="a key that is not revoked",
        next_step="the owner must publish its assets and policy under a new key",
    )
    if not held or policy is None:
        return
    where = f"policy {policy.name}"
    book.check(
        policy.manager == request.manager and policy.owner == owner,
        "policy.manager",
        f"{where} manager",
        owner=owner,
        observed=request.manager,
        expected=policy.manager,
        next_step="ask the manager that the policy names",
    )
    appraisal = request.appraisals.get(owner)
    if appraisal is None:
        book.check(
            False,
            "policy.appraisal",
            f"{where} anchors",
            owner=owner,
            observed="no appraisal",
            expected="evidence appraised by this owner's anchors and reference values",
            next_step="give this manager the anchors and reference values that the policy pins",
        )
        return
    _appraisal(book, where, owner, appraisal.affirmed, list(appraisal.reasons()))
    facts = appraisal.facts()
    _weaknesses(book, policy, where, facts)
    _mode(book, request, policy, where, facts)
    _host(book, request, policy, where, facts)
    known = request.references.get(owner, frozenset())
    book.check(
        request.job.environment in known,
        "policy.environment",
        f"{where} references",
        owner=owner,
        observed=request.job.environment,
        expected="an environment whose reference values this policy pins",
        next_step="propose the job with a runtime that all owners accept",
    )


def _appraisal(book: Book, where: str, owner: str, affirmed: bool, reasons: list[Any]) -> None:
    clause = f"{where} references"
    if affirmed is True and not reasons:
        book.clauses.append(ClauseResult(owner, clause, True, "affirmed", "affirmed"))
        return
    for reason in reasons:
        told = replace(reason, owner=owner, clause=f"{clause}: {reason.clause or reason.code}")
        book.clauses.append(
            ClauseResult(owner, told.clause, False, told.observed, told.expected, told)
        )
    if not reasons:
        book.check(
            False,
            "policy.appraisal",
            clause,
            owner=owner,
            observed="not affirmed",
            expected="affirmed",
            next_step="look at the claims of this decision: svetovid job records",
        )


def _weaknesses(book: Book, policy: Policy, where: str, facts: Mapping[str, Any]) -> None:
    """Production refuses both, whatever ``accepts`` says; a missing fact counts as weak (T4)."""
    accepted = policy.accepts if policy.profile == "test" else ()
    clause = f"{where} profile {policy.profile}"
    next_step = (
        "use a host that is not weak in this way; a production policy has no exception"
        if policy.profile == "production"
        else "the owner would have to name this weakness under accepts"
    )
    book.check(
        facts.get("simulated") is False or "simulated" in accepted,
        "policy.simulated",
        clause,
        owner=policy.owner,
        observed=f"simulated: {facts.get('simulated')}",
        expected="a device that is not simulated",
        next_step=next_step,
    )
    strong = facts.get("measurement") in ("kernel", "enclave")
    weak = facts.get("measurement") == "launcher" and "launcher" in accepted
    book.check(
        strong or weak,
        "policy.launcher",
        clause,
        owner=policy.owner,
        observed=f"measurement: {facts.get('measurement')}",
        expected="measurement: kernel or enclave",
        next_step=next_step,
    )


def _mode(
    book: Book, request: Request, policy: Policy, where: str, facts: Mapping[str, Any]
) -> None:
    enclave = facts.get("measurement") == "enclave"
    book.check(
        request.job.mode != "enclave" or enclave,
        "mode.evidence",
        f"{where} mode {request.job.mode}",
        owner=policy.owner,
        observed=f"measurement: {facts.get('measurement')}",
        expected="measurement: enclave for an enclave job",
        next_step="run the job on a host with a TEE",
    )


def _host(
    book: Book, request: Request, policy: Policy, where: str, facts: Mapping[str, Any]
) -> None:
    """Each list that is not empty must name this host; with both empty, nobody is named (T3)."""
    operator, host = facts.get("operator"), facts.get("host")
    named = bool(policy.operators or policy.hosts)
    by_operator = not policy.operators or operator in policy.operators
    by_host = not policy.hosts or host in policy.hosts
    book.check(
        named and by_operator and by_host,
        "policy.host",
        f"{where} {'hosts' if by_operator and policy.hosts else 'operators'}",
        owner=policy.owner,
        observed=f"host {facts.get('host_name')} ({host}) of operator {operator}",
        expected="a host or operator that the policy names",
        next_step="use such a host, or ask the owner to name this one",
    )
    book.check(
        isinstance(operator, str) and operator not in request.revoked,
        "host.revoked",
        f"{where} operators",
        owner=policy.owner,
        observed=f"operator {operator}",
        expected="an operator's key that is not revoked",
        next_step="the operator must enrol its hosts again under a new key",
    )
