"""The policies that a job's imports rest on, as they were signed: a receipt brings them along."""

from __future__ import annotations

from typing import cast

from svetovid.crypto import Envelope
from svetovid.errors import SvetovidError
from svetovid.manager.core import Core
from svetovid.policy.consents import open_consents
from svetovid.policy.documents import Job, JobAsset, Policy
from svetovid.transparency.imports import stand_ins

__all__ = ["policies_behind"]


def policies_behind(core: Core, name: str) -> tuple[Envelope, ...]:
    """Of every slot that its owner did not consent to: the importer's policy, and the exporter's.

    They are those that the release's consents name, whatever is in force by now.

    Args:
        core: whose job it is.
        name: digest of the job.
    """
    store = core.store
    released = store.entry(core.state.jobs[name].release).body
    named = cast(list[str], released["consents"])
    consents, _ = open_consents([store.envelope(d) for d in named])
    job = store.document(name, Job)
    found: set[str] = set()
    for slot, given in stand_ins(job, consents).items():
        asset = job.assets[slot]
        for consent in given:
            inner = _held(core, consent.policy)
            for pin in inner.imports if inner is not None else ():
                outer = _held(core, pin.policy) if pin.asset == asset.manifest else None
                if outer is not None and _exported(outer, asset, consent.owner):
                    found |= {consent.policy, pin.policy}
    return tuple(store.envelope(d) for d in sorted(found))


def _exported(policy: Policy, asset: JobAsset, to: str) -> bool:
    """Nobody but whom the owner exports to brings policies into a receipt."""
    to_it = any((e.asset, e.to) == (asset.manifest, to) for e in policy.exports)
    return policy.owner == asset.owner and to_it


def _held(core: Core, name: str) -> Policy | None:
    """A policy of this digest. A consent can name whatever it likes: it must not stop a receipt."""
    try:
        return core.store.document(name, Policy)
    except SvetovidError:
        return None
