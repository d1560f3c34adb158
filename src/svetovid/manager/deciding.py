"""From the manager's records and the evidence to a request that :mod:`svetovid.policy` decides on.

Each owner's clause is appraised with that owner's own anchors and reference values (T2), resolved
from its policy's pins among what was published here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import cast

from svetovid.crypto import Envelope
from svetovid.errors import PolicyError, Reason, SvetovidError
from svetovid.evidence.appraisal import Appraisal, appraise
from svetovid.evidence.documents import Challenge, HostRecord, ReferenceValues, Role, TrustAnchors
from svetovid.evidence.verify import Proven
from svetovid.manager.consenting import exporting
from svetovid.manager.core import Core
from svetovid.manager.state import JobState, Publication, State
from svetovid.policy.documents import Consent, Job, JobAsset, Policy
from svetovid.policy.pins import resolve_policy
from svetovid.policy.request import GrantUse, History, Request
from svetovid.protocol.messages import JsonObject

__all__ = ["Deciding", "Views"]


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
_MAX_ALTERNATIVES = 8
"""Ways to choose among the policies of exporters who say nothing themselves, that are tried."""


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


class Deciding:
    """Gathers what a decision depends on; decides nothing itself."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._choices: dict[tuple[str, tuple[str, ...]], _Choice] = {}
        self._meant: dict[tuple[str, int, int], tuple[str, ...]] = {}
        self._values: dict[str, ReferenceValues] = {}

    def appraised(self, views: Views, proven: Proven, record: HostRecord) -> Views:
        """Appraise for every owner and importer whose policy this manager holds."""
        now = self._core.now()
        reasons: list[Reason] = []
        # An appraisal follows from the evidence and the choice alone: one choice, one appraisal.
        made: dict[tuple[str, ...], Appraisal] = {}
        for owner, policy in views.policies.items():
            try:
                mine = self._choice(views.names[owner], policy)
                if mine.key not in made:
                    made[mine.key] = appraise(
                        proven, record, mine.anchors, mine.references, now=now
                    )
            except SvetovidError as e:
                reasons += [replace(r, owner=owner) for r in e.reasons]
                continue
            views.appraisals[owner] = made[mine.key]
            views.references[owner] = mine.names
            views.choices[owner] = mine.key
        return replace(views, reasons=tuple(reasons))

    def in_force(self, state: State, job: Job, name: str, role: Role) -> tuple[dict[str, str], ...]:
        """By owner: digest of the policy its consent names if that is in force; of an owner that
        did not consent, the one that it exports to an importer by; else the first in force. Where
        it exports to several by several, each way is one alternative: an importer can refuse for
        itself, and not for the others.

        Before a release: of owners of assets held here, and of importers who consented to a slot
        that its owner said nothing to, and are exported that one still. After it, of the parties to
        it: whoever consents later than that neither ends a job nor keeps it going.
        """
        held = state.jobs[name]
        if role == "release":
            here = [(s, a) for s, a in job.assets.items() if a.manager == self._core.me]
            imported = self._imported(held, here)
            parties = {a.owner for _, a in here} | {importer for _, importer, _ in imported}
        else:
            released = self._core.store.entry(held.release).body
            parties = set(cast(dict[str, str], released["policies"]))
            imported = [
                (a.owner, importer, exporting(self._core, importer, a))
                for s, importer in sorted(cast(dict[str, str], released["importers"]).items())
                for a in [job.assets[s]]
            ]
        ways: dict[str, list[str]] = {}
        for owner in sorted(parties):
            mine = [d for _, d in sorted(state.owned.get(owner, {}).items())]
            named = [held.policies[owner]] if owner in held.policies else []
            by = named or [d for exporter, _, ds in imported if exporter == owner for d in ds]
            if mine:
                ways[owner] = list(dict.fromkeys(d for d in by if d in mine)) or mine[:1]
        each = islice(product(*ways.values()), _MAX_ALTERNATIVES)
        return tuple(dict(zip(ways, chosen, strict=True)) for chosen in each)

    def _imported(
        self, held: JobState, here: list[tuple[str, JobAsset]]
    ) -> list[tuple[str, str, list[str]]]:
        """Exporter, importer and the exporter's policies, for each slot that only importers spoke
        to."""
        given = {
            owner: frozenset(self._core.store.document(consent, Consent).slots)
            for owner, consent in held.consents.items()
        }
        return [
            (asset.owner, importer, found)
            for slot, asset in here
            if slot not in given.get(asset.owner, ())
            for importer, slots in sorted(given.items())
            if slot in slots and (found := exporting(self._core, importer, asset))
        ]

    def started(self, job: Job, name: str, role: Role) -> Iterator[Views]:
        """Whose policies take part, before anything is appraised: at least one way."""
        state, store = self._core.state, self._core.store
        for names in self.in_force(state, job, name, role):
            yield Views(names, {o: store.document(d, Policy) for o, d in names.items()})

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
        """Everything a decision depends on, as the log stands in this very transaction.

        Raises:
            PolicyError: ``policy.changed`` where a policy was replaced since it was appraised: what
                an owner stopped a moment ago stays stopped.
        """
        core = self._core
        job, held = core.store.document(name, Job), state.jobs[name]
        if views.names not in self.in_force(state, job, name, challenge.role):
            raise PolicyError(
                "policy.changed",
                expected="the policies that the evidence was appraised by",
                observed="an owner has changed its policy, or consented, meanwhile",
                next_step="ask again",
            )
        uses = {(o, a.manifest) for o in views.policies for a in job.assets.values()}
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
