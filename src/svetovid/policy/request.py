"""What a decision is made from, and what comes of it. Plain values only: no clock, no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from svetovid.crypto import digest
from svetovid.crypto.envelope import Envelope
from svetovid.errors import PolicyError, Reason
from svetovid.evidence.documents import Role
from svetovid.policy.documents import Job, Policy

__all__ = ["Appraised", "ClauseResult", "Decision", "GrantUse", "Held", "History", "Request"]

_SIGNATURES_BYTES = 8 << 10
"""Of an envelope, beside its payload in base64: sixteen signatures fit."""


class Appraised(Protocol):
    """One owner's view of the evidence; :class:`svetovid.evidence.Appraisal` is one."""

    @property
    def affirmed(self) -> bool:
        """Whether everything that was claimed holds."""
        ...

    def reasons(self) -> Sequence[Reason]:
        """Why not, where it does not."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What conditions see as ``claims``."""
        ...


@dataclass(frozen=True, slots=True)
class GrantUse:
    """What was used so far of one owner's grants for one asset, or of its exports of it to one
    importer, over all jobs.

    Attributes:
        runs: releases that started or resumed a run.
        output_bytes: what those releases could let out, each its job's
            :attr:`~svetovid.policy.Job.bytes_out`, whatever became of it.
    """

    runs: int = 0
    output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """What the manager's own records say (T11).

    Attributes:
        uses: by (policy owner, asset, importer that it is exported to; empty for the owner's own
            grants). No importer uses up what another was given.
        started: whether this job ran before, so that this release would be a resume.
        live: whether an instance of this job holds a lease now.
        busy: whether this host's device holds a lease for another job now (T8).
        resumes: resumes so far.
        finished: whether this job handed in its outputs.
    """

    uses: Mapping[tuple[str, str, str], GrantUse] = field(default_factory=dict)
    started: bool = False
    live: bool = False
    busy: bool = False
    resumes: int = 0
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """One policy that an owner may be held to, and the evidence as that owner sees it by it.

    Attributes:
        appraisal: ``None`` where what the policy pins is not there.
        references: digests of the reference-value documents that the appraisal used.
    """

    policy: Policy
    appraisal: Appraised | None
    references: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything a decision depends on.

    Attributes:
        job: as stored; its digest is what owners consented to.
        manager: key id of the deciding manager.
        role, evidence_job: what the verified evidence was bound to (T6).
        consents: signed :class:`Consent` documents; opened here.
        policies: current policy of each owner that this manager holds.
        deposits: asset to the owner that deposited its key here.
        appraisals: each owner's own view of the evidence (T2).
        references: by owner, digests of the reference-value documents its appraisal used.
        history: see :class:`History`.
        revoked: every key of each history of which one was revoked.
        now: Unix seconds.
        job_name, policy_names: digests of ``job`` and ``policies``, made here from these very
            documents, once for all the clauses that speak of them.
        policy_bytes: by owner, the most that its policy takes where it is signed.
    """

    job: Job
    manager: str
    role: Role
    evidence_job: str
    consents: Sequence[Envelope]
    policies: Mapping[str, Policy]
    deposits: Mapping[str, str]
    appraisals: Mapping[str, Appraised]
    references: Mapping[str, frozenset[str]]
    history: History
    revoked: frozenset[str]
    now: int
    job_name: str = field(init=False)
    policy_names: Mapping[str, str] = field(init=False)
    policy_bytes: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "job_name", self.job.digest())
        object.__setattr__(self, "policy_names", {})
        object.__setattr__(self, "policy_bytes", {})
        for owner, policy in self.policies.items():
            self._measure(owner, policy)

    def held_to(self, owner: str, held: Held) -> Request:
        """The same request, with ``owner`` held to another policy; no other is digested anew."""
        other = object.__new__(Request)
        for member in fields(self):
            object.__setattr__(other, member.name, getattr(self, member.name))
        views = {o: v for o, v in self.appraisals.items() if o != owner}
        if held.appraisal is not None:
            views[owner] = held.appraisal
        object.__setattr__(other, "appraisals", views)
        object.__setattr__(other, "policies", {**self.policies, owner: held.policy})
        object.__setattr__(other, "references", {**self.references, owner: held.references})
        other._measure(owner, held.policy)
        return other

    def _measure(self, owner: str, policy: Policy) -> None:
        data = policy.canonical()
        size = -(-len(data) // 3) * 4 + _SIGNATURES_BYTES
        object.__setattr__(self, "policy_names", {**self.policy_names, owner: digest(data)})
        object.__setattr__(self, "policy_bytes", {**self.policy_bytes, owner: size})


@dataclass(frozen=True, slots=True)
class ClauseResult:
    """One clause, met or not.

    Attributes:
        owner: whose clause it is; empty for the manager's own rules.
        clause: where it stands, for example ``policy hospital-a grants[0].conditions[1] "gpu"``.
        reason: set where it is not met.
    """

    owner: str
    clause: str
    ok: bool
    observed: str
    expected: str
    reason: Reason | None = None

    def to_dict(self) -> dict[str, object]:
        """As a JSON value."""
        return {
            "owner": self.owner,
            "clause": self.clause,
            "ok": self.ok,
            "observed": self.observed,
            "expected": self.expected,
            "code": self.reason.code if self.reason else "",
        }


@dataclass(frozen=True, slots=True)
class Stakes:
    """What a decision is about: the assets held here, by digest; parties and importers."""

    assets: tuple[str, ...]
    parties: tuple[str, ...]
    importers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """Granted or not, with every clause that was looked at.

    Attributes:
        granted: all clauses hold.
        assets: digests of the manifests whose keys this manager may release; empty if refused.
        clauses: in a fixed order, so that equal requests give equal decisions.
        parties: owners of the assets held here, and importers. Nobody else's policy has a say.
        importers: slot to the importer that consented in its owner's stead.
    """

    granted: bool
    assets: tuple[str, ...]
    clauses: tuple[ClauseResult, ...]
    parties: tuple[str, ...] = ()
    importers: Mapping[str, str] = field(default_factory=dict)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it was refused, in full: for the owners and the manager's log."""
        return tuple(c.reason for c in self.clauses if c.reason is not None)

    def require(self) -> Decision:
        """This decision if it grants.

        Raises:
            PolicyError: with all reasons; the first one names it.
        """
        if not self.granted:
            raise PolicyError.from_reasons(self.reasons)
        return self

    def to_dict(self) -> dict[str, object]:
        """As a JSON value, clause by clause."""
        return {
            "granted": self.granted,
            "assets": list(self.assets),
            "clauses": [c.to_dict() for c in self.clauses],
        }


class Book:
    """Collects clauses, in the order they were looked at."""

    def __init__(self) -> None:
        self.clauses: list[ClauseResult] = []

    def check(
        self,
        ok: bool,
        code: str,
        clause: str,
        *,
        owner: str = "",
        observed: object = "",
        expected: object = "",
        next_step: str = "",
    ) -> bool:
        """Note one clause; the reason is made where it does not hold."""
        seen, wanted = str(observed)[:400], str(expected)[:400]
        reason = None
        if not ok:
            reason = Reason(code, wanted, seen, next_step, clause, owner)
        self.clauses.append(ClauseResult(owner, clause, ok, seen, wanted, reason))
        return ok

    @property
    def ok(self) -> bool:
        """Whether anything was looked at, and all of it holds."""
        return bool(self.clauses) and all(c.ok for c in self.clauses)

    def decision(self, stakes: Stakes) -> Decision:
        assets = stakes.assets if self.ok else ()
        return Decision(self.ok, assets, tuple(self.clauses), stakes.parties, stakes.importers)
