"""The policies that a job's imports rest on, as they were signed: a receipt brings them along."""

from __future__ import annotations

from collections.abc import Mapping

from svetovid.crypto import Envelope
from svetovid.manager.store import Store
from svetovid.policy.documents import Job

__all__ = ["policies_behind"]


def policies_behind(
    store: Store, job: Job, policies: Mapping[str, str], importers: Mapping[str, str]
) -> tuple[Envelope, ...]:
    """Of every slot that an importer consented to: that one's policy, and the exporter's.

    A receipt has room for them: the release asked for that (``receipt.policies``).

    Args:
        policies: by party, digest of the policy that the release was decided by.
        importers: by slot.
    """
    links = {(importer, job.assets[slot].owner) for slot, importer in importers.items()}
    names = sorted({policies[owner] for link in links for owner in link})
    return tuple(store.envelope(name) for name in names)
