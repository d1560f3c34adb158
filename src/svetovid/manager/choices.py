"""Whose policies take part in a decision, and which of its policies each may be held to (T5).

Rules:

1. Before a release: of owners of assets held here, and of importers who consented to a slot that
   its owner said nothing to, and are exported that one still. After it, of the parties to it:
   whoever consents later than that neither ends a job nor keeps it going.
2. An owner who consented is held to the policy that its consent names, if that is in force; one
   that exports nothing here, to the first in force.
3. An exporter who consented to nothing is held to one that it exports by: to each importer at most
   four of those that the policy under which that one consented pins. So each importer
   has choices of its own, whoever else consents and under what.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import cast

from svetovid.evidence.documents import Role
from svetovid.manager.consenting import exporting
from svetovid.manager.core import Core
from svetovid.manager.state import JobState, State
from svetovid.policy.documents import Consent, Job, Policy

__all__ = ["in_force"]

_MAX_EACH = 4

_Links = dict[str, dict[str, dict[str, list[str]]]]
"""Exporter, slot, importer, the exporter's policies that export the slot's asset to it."""


def in_force(
    core: Core, state: State, job: Job, name: str, role: Role
) -> dict[str, tuple[str, ...]]:
    """By owner that takes part: digests of the policies it may be held to, the best first."""
    held = state.jobs[name]
    before: Mapping[str, str] = {}
    if role == "release":
        links = _spoken_for(core, held, job)
        parties = {a.owner for a in job.assets.values() if a.manager == core.me}
        parties |= {i for slots in links.values() for by in slots.values() for i in by}
    else:
        released = core.store.entry(held.release).body
        before = cast(dict[str, str], released["policies"])
        parties = set(before)
        links = {}
        for slot, importer in sorted(cast(dict[str, str], released["importers"]).items()):
            asset = job.assets[slot]
            found = exporting(core, importer, asset)
            links.setdefault(asset.owner, {})[slot] = {importer: found}
    ways: dict[str, tuple[str, ...]] = {}
    for owner in sorted(parties):
        mine = [d for _, d in sorted(state.owned.get(owner, {}).items())]
        if owner in held.policies:
            by = [held.policies[owner]]
        else:
            by = _exports(core, state, held, job, links.get(owner, {}))
            last = before.get(owner)
            by = [d for d in by if d == last] + [d for d in by if d != last]
        if mine:
            ways[owner] = tuple(d for d in by if d in mine) or (mine[0],)
    return ways


def _spoken_for(core: Core, held: JobState, job: Job) -> _Links:
    """Of each slot here that its owner said nothing to: the importers who consented."""
    # A consent may come in meanwhile: what takes part is looked at again inside the transaction.
    consents = list(held.consents.items())
    given = {o: frozenset(core.store.document(d, Consent).slots) for o, d in consents}
    links: _Links = {}
    for slot, asset in sorted(job.assets.items()):
        if asset.manager != core.me or slot in given.get(asset.owner, ()):
            continue
        for importer, slots in sorted(given.items()):
            if slot in slots and (found := exporting(core, importer, asset)):
                links.setdefault(asset.owner, {}).setdefault(slot, {})[importer] = found
    return links


def _exports(
    core: Core,
    state: State,
    held: JobState,
    job: Job,
    slots: Mapping[str, Mapping[str, list[str]]],
) -> list[str]:
    """Policies of one exporter, in the order of their importers' keys; where none serves all of
    these slots, the first that serves any: so that a refusal can say what is wrong with it."""
    pinned: dict[str, set[tuple[str, str]]] = {}
    for importer in {i for by in slots.values() for i in by}:
        name = held.policies.get(importer, "")
        known = name in state.owned.get(importer, {}).values()
        imports = core.store.document(name, Policy).imports if known else ()
        pinned[importer] = {(i.policy, i.asset) for i in imports}
    serving: list[set[str]] = []
    of: dict[str, dict[str, None]] = {}
    for slot, by in slots.items():
        serving.append(set())
        for importer, found in by.items():
            mine = [d for d in found if (d, job.assets[slot].manifest) in pinned[importer]]
            serving[-1].update(mine)
            of.setdefault(importer, {}).update(dict.fromkeys(mine))
    whole = set.intersection(*serving) if serving else set()
    ways = [d for i in sorted(of) for d in [d for d in of[i] if d in whole][:_MAX_EACH]]
    anyway = (d for by in slots.values() for found in by.values() for d in found)
    return list(dict.fromkeys(ways)) or list(islice(anyway, 1))
