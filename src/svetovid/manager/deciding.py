"""From the manager's records and the evidence to a request that :mod:`svetovid.policy` decides on.

Each owner's clause is appraised with that owner's own anchors and reference values (T2), resolved
from its policy's pins among what was published here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from svetovid.crypto import Envelope
from svetovid.errors import PolicyError, Reason, SvetovidError
from svetovid.evidence.appraisal import Appraisal, appraise
from svetovid.evidence.documents import Challenge, HostRecord, ReferenceValues, Role, TrustAnchors
from svetovid.evidence.verify import Proven
from svetovid.manager.choices import in_force
from svetovid.manager.core import Core
from svetovid.manager.state import JobState, Publication, State
from svetovid.policy.decide import choose
from svetovid.policy.documents import Job, Policy
from svetovid.policy.pins import resolve_policy
from svetovid.policy.request import GrantUse, Held, History, Request
from svetovid.protocol.messages import JsonObject

__all__ = ["Deciding", "Views", "Ways", "first"]


@dataclass(frozen=True, slots=True)
class _Choice:
    """An owner's own anchors and values, resolved.

    Attributes:
        names: the values' digests.
        key: digests of all of them: owners of one key made one choice.
    """

    anchors: TrustAnchors
    references: tuple[ReferenceValues, ...]
    names: frozenset[str]
    key: tuple[str, ...]


_MAX_CHOICES = 4096


@dataclass(frozen=True, slots=True)
class Views:
    """The evidence as each owner here sees it.

    Attributes:
        names, policies: digest of the policy in force of each owner that takes part, and itself.
        appraisals: by owner; missing where its pins cannot be resolved.
        references: by owner, digests of the reference values used.
        reasons: why a view is missing.
        choices: by owner, the anchors and reference values that its pins resolved to.
    """

    names: dict[str, str] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    appraisals: dict[str, Appraisal] = field(default_factory=dict)
    references: dict[str, frozenset[str]] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def held(self, owner: str) -> Held:
        """What ``owner`` is held to."""
        references = self.references.get(owner, frozenset())
        return Held(self.policies[owner], self.appraisals.get(owner), references)


Ways = Mapping[str, tuple[Views, ...]]
"""By owner: the view of that owner alone, by each policy that it may be held to, the best first."""


def first(ways: Ways) -> Views:
    return together(views[0] for views in ways.values())


def together(views: Iterable[Views]) -> Views:
    """The views of several owners as one."""
    whole = Views()
    reasons: list[Reason] = []
    for one in views:
        whole.names.update(one.names)
        whole.policies.update(one.policies)
        whole.appraisals.update(one.appraisals)
        whole.references.update(one.references)
        whole.choices.update(one.choices)
        reasons += one.reasons
    return replace(whole, reasons=tuple(reasons))


class Deciding:
    """Gathers what a decision depends on; decides nothing itself."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._choices: dict[tuple[str, tuple[str, ...]], _Choice] = {}
        self._meant: dict[tuple[str, int, int], tuple[str, ...]] = {}
        self._values: dict[str, ReferenceValues] = {}

    def appraised(self, ways: Ways, proven: Proven, record: HostRecord) -> Ways:
        """Appraise for every owner and importer, by each policy that it may be held to."""
        now = self._core.now()
        # An appraisal follows from the evidence and the choice alone: one choice, one appraisal.
        made: dict[tuple[str, ...], Appraisal] = {}

        def seen(owner: str, views: Views) -> Views:
            try:
                mine = self._choice(views.names[owner], views.policies[owner])
                if mine.key not in made:
                    made[mine.key] = appraise(
                        proven, record, mine.anchors, mine.references, now=now
                    )
            except SvetovidError as e:
                return replace(views, reasons=tuple(replace(r, owner=owner) for r in e.reasons))
            return replace(
                views,
                appraisals={owner: made[mine.key]},
                references={owner: mine.names},
                choices={owner: mine.key},
            )

        return {owner: tuple(seen(owner, v) for v in views) for owner, views in ways.items()}

    def started(self, job: Job, name: str, role: Role) -> Ways:
        """Whose policies take part, before anything is appraised."""
        store = self._core.store
        found = in_force(self._core, self._core.state, job, name, role)
        return {
            owner: tuple(Views({owner: d}, {owner: store.document(d, Policy)}) for d in names)
            for owner, names in found.items()
        }

    def chosen(self, state: State, name: str, challenge: Challenge, ways: Ways) -> Views:
        """Of each owner one policy, as the log stands in this very transaction.

        Raises:
            PolicyError: ``policy.changed`` where a policy was replaced since it was appraised: what
                an owner stopped a moment ago stays stopped.
        """
        job = self._core.store.document(name, Job)
        now = in_force(self._core, state, job, name, challenge.role)
        left = {
            owner: tuple(v for v in views if v.names[owner] in now.get(owner, ()))
            for owner, views in ways.items()
        }
        if now.keys() != ways.keys() or not all(left.values()):
            raise PolicyError(
                "policy.changed",
                expected="the policies that the evidence was appraised by",
                observed="an owner has changed its policy, or consented, meanwhile",
                next_step="ask again",
            )
        open_ = {owner: views for owner, views in left.items() if len(views) > 1}
        best = {owner: views[0] for owner, views in left.items()}
        if open_:
            request = self.request(state, name, challenge, first(left), live=False)
            counting = challenge.role == "release"
            for owner, views in open_.items():
                held = [v.held(owner) for v in views]
                best[owner] = views[choose(request, owner, held, counting=counting)]
        return together(best.values())

    def unchanged(self, views: Views) -> bool:
        """Whether what the evidence was appraised by is still each owner's choice.

        Only that counts: what strangers publish meanwhile is no business of this decision.
        """
        try:
            found = {o: self._choice(views.names[o], views.policies[o]).key for o in views.choices}
        except SvetovidError:
            return False
        return found == views.choices

    def _choice(self, name: str, policy: Policy) -> _Choice:
        key = (name, self._pinned(name, policy))
        found = self._choices.get(key)
        if found is None:
            anchors, references = resolve_policy(policy, map(self._core.store.envelope, key[1]))
            if len(self._choices) >= _MAX_CHOICES:
                self._choices.clear()
                self._values.clear()
            # Owners who choose the same values share one object: a log is held against it once.
            named = {r.digest(): r for r in references}
            shared = tuple(self._values.setdefault(n, r) for n, r in named.items())
            found = _Choice(anchors, shared, frozenset(named), (anchors.digest(), *named))
            self._choices[key] = found
        return found

    def _pinned(self, name: str, policy: Policy) -> tuple[str, ...]:
        """Which publications the pins may mean: of each document one, however many published it,
        and of a signer's product the newest edition. No other is loaded, or makes a new choice.
        """
        state = self._core.state
        key = (name, len(state.publications), len(state.revoked))
        meant = self._meant.get(key)
        if meant is None:
            pins = (policy.anchors, *policy.references)
            digests = {p.document for p in pins}
            products = {(p.signer, p.product) for p in pins}
            first: dict[tuple[str, str], Publication] = {}
            newest: dict[tuple[str, str, str], list[Publication]] = {}
            for p in state.publications:
                if p.digest in digests:
                    first.setdefault((p.type, p.digest), p)
                if (p.signer, p.product) in products and p.signer not in state.revoked:
                    known = newest.setdefault((p.type, p.signer, p.product), [])
                    if known and known[0].version < p.version:
                        known.clear()
                    if not known or known[0].version == p.version:
                        known.append(p)
            found = {*first.values(), *(p for known in newest.values() for p in known)}
            if len(self._meant) >= _MAX_CHOICES:
                self._meant.clear()
            meant = self._meant[key] = tuple(sorted(p.envelope for p in found))
        return meant

    def request(
        self,
        state: State,
        name: str,
        challenge: Challenge,
        views: Views,
        *,
        live: bool,
        busy: bool = False,
    ) -> Request:
        """Everything a decision depends on, as the log stands in this very transaction."""
        core = self._core
        job, held = core.store.document(name, Job), state.jobs[name]
        assets = job.assets.values()
        uses = {(o, a.manifest, "") for o in views.policies for a in assets}
        uses |= {(a.owner, a.manifest, importer) for importer in views.policies for a in assets}
        history = History(
            uses={use: GrantUse(state.runs[use], state.put_out[use]) for use in uses},
            started=held.releases > 0,
            live=live,
            busy=busy,
            resumes=max(0, held.releases - 1),
            finished=bool(held.finished),
        )
        return Request(
            job=job,
            manager=core.me,
            role=challenge.role,
            evidence_job=challenge.job,
            consents=self.consents(held, {*job.owners, *views.policies}),
            policies=views.policies,
            deposits=state.assets,
            appraisals=views.appraisals,
            references=views.references,
            history=history,
            revoked=frozenset(state.revoked),
            now=core.now(),
        )

    def consents(self, held: JobState, owners: Iterable[str]) -> tuple[Envelope, ...]:
        given = sorted(set(owners) & set(held.consents))
        return tuple(self._core.store.envelope(held.consents[o]) for o in given)

    def released_on(self, state: State, name: str) -> dict[str, JsonObject]:
        """By owner: the facts of its own view when the keys of a job were last released."""
        index = state.jobs[name].release
        store = self._core.store
        parts = {o: store.private(index, o) for o in store.entry(index).private}
        return {o: p.claims for o, p in parts.items() if p is not None}

    def waiting_for(self, job: Job, held: JobState) -> tuple[str, ...]:
        """Owners whose consent is still missing."""
        return tuple(sorted({a.owner for a in job.assets.values()} - set(held.consents)))
