"""From the manager's records and the evidence to a request that :mod:`svetovid.policy` decides on.

Each owner's clause is appraised with that owner's own anchors and reference values (T2), resolved
from its policy's pins among what was published here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from svetovid.crypto import Envelope
from svetovid.errors import Reason, SvetovidError
from svetovid.evidence.appraisal import Appraisal, appraise
from svetovid.evidence.documents import Challenge, HostRecord, ReferenceValues, TrustAnchors
from svetovid.evidence.verify import Proven
from svetovid.manager.core import Core
from svetovid.manager.state import JobState, State
from svetovid.policy.documents import Job, Policy
from svetovid.policy.pins import resolve_policy
from svetovid.policy.request import GrantUse, History, Request

__all__ = ["Deciding", "Views"]

Choice = tuple[TrustAnchors, tuple[ReferenceValues, ...]]
_MAX_CHOICES = 4096


@dataclass(frozen=True, slots=True)
class Views:
    """The evidence as each owner here sees it.

    Attributes:
        policies: current policy of each owner that takes part.
        appraisals: by owner; missing where its pins cannot be resolved.
        references: by owner, digests of the reference values used.
        reasons: why a view is missing.
    """

    policies: dict[str, Policy]
    appraisals: dict[str, Appraisal] = field(default_factory=dict)
    references: dict[str, frozenset[str]] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()


class Deciding:
    """Gathers what a decision depends on; decides nothing itself."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._choices: dict[tuple[str, int], Choice] = {}

    def views(self, job: Job, proven: Proven, record: HostRecord) -> Views:
        """Appraise for every owner and importer whose policy this manager holds."""
        core = self._core
        views = Views(self.policies(job))
        reasons: list[Reason] = []
        for owner, policy in views.policies.items():
            try:
                anchors, references = self._choice(policy)
                appraisal = appraise(proven, record, anchors, references, now=core.now())
            except SvetovidError as e:
                reasons += [
                    Reason(r.code, r.expected, r.observed, r.next_step, r.clause, owner)
                    for r in e.reasons
                ]
                continue
            views.appraisals[owner] = appraisal
            views.references[owner] = frozenset(r.digest() for r in references)
        return Views(views.policies, views.appraisals, views.references, tuple(reasons))

    def policies(self, job: Job) -> dict[str, Policy]:
        """By owner: the policy its consent names if it is in force, else the first in force."""
        core = self._core
        state = core.state
        held = state.jobs[job.digest()]
        here = {a.owner for a in job.assets.values() if a.manager == core.me}
        out: dict[str, Policy] = {}
        for owner in sorted(here | set(held.consents)):
            current = [d for (o, _), d in sorted(state.policies.items()) if o == owner]
            if current:
                named = held.policies.get(owner)
                chosen = named if named in current else current[0]
                out[owner] = core.store.document(str(chosen), Policy)
        return out

    def _choice(self, policy: Policy) -> Choice:
        state = self._core.state
        key = (policy.digest(), len(state.publications))
        found = self._choices.get(key)
        if found is None:
            pins = (policy.anchors, *policy.references)
            wanted = {p.document for p in pins} | {(p.signer, p.product) for p in pins}
            held = [
                self._core.store.envelope(p.envelope)
                for p in state.publications
                if p.digest in wanted or (p.signer, p.product) in wanted
            ]
            found = resolve_policy(policy, held)
            if len(self._choices) >= _MAX_CHOICES:
                self._choices.clear()
            self._choices[key] = found
        return found

    def request(
        self, state: State, job: Job, challenge: Challenge, views: Views, *, live: bool
    ) -> Request:
        """Everything a decision depends on, as the log stands in this very transaction."""
        core = self._core
        name = job.digest()
        held = state.jobs[name]
        uses = self.uses(job, views.policies)
        history = History(
            uses={use: self._use(state, use, name) for use in uses},
            started=held.releases > 0,
            live=live,
            resumes=max(0, held.releases - 1),
            finished=bool(held.finished),
        )
        return Request(
            job=job,
            manager=core.me,
            role=challenge.role,
            evidence_job=challenge.job,
            consents=self.consents(held),
            policies=views.policies,
            deposits=state.assets,
            appraisals=views.appraisals,
            references=views.references,
            history=history,
            revoked=frozenset(state.revoked),
            now=core.now(),
        )

    def consents(self, held: JobState) -> tuple[Envelope, ...]:
        return tuple(self._core.store.envelope(held.consents[o]) for o in sorted(held.consents))

    def uses(self, job: Job, policies: dict[str, Policy]) -> list[tuple[str, str]]:
        """(policy owner, asset) of every grant this job draws on: owners', and importers'."""
        out: set[tuple[str, str]] = set()
        for asset in job.assets.values():
            if asset.manager == self._core.me:
                out.add((asset.owner, asset.manifest))
                for owner, policy in policies.items():
                    if any(i.asset == asset.manifest for i in policy.imports):
                        out.add((owner, asset.manifest))
        return sorted(out)

    def _use(self, state: State, use: tuple[str, str], this_job: str) -> GrantUse:
        now = self._core.now()
        put_out = 0
        for name in state.users.get(use, ()):
            other = state.jobs[name]
            lease = state.leases.get(other.lease)
            if name == this_job:
                continue
            if other.finished:
                put_out += other.put_out
            elif lease is not None and lease.live(now):
                put_out += self._core.store.document(name, Job).limits.output_bytes
        return GrantUse(runs=state.runs[use], output_bytes=put_out)

    def waiting_for(self, job: Job, held: JobState) -> tuple[str, ...]:
        """Owners whose consent is still missing."""
        return tuple(sorted({a.owner for a in job.assets.values()} - set(held.consents)))
