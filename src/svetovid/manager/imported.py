"""The policies that a job's imports rest on, as they were signed: a receipt brings them along."""

from __future__ import annotations

from collections.abc import Mapping

from svetovid.crypto import Envelope
from svetovid.errors import LimitError
from svetovid.manager.store import Store
from svetovid.policy.documents import Job

__all__ = ["policies_behind"]

_MAX_BYTES = 8 << 20
"""Of the 12 MB that a countersignature may take, with its proofs."""


def policies_behind(
    store: Store, job: Job, policies: Mapping[str, str], importers: Mapping[str, str]
) -> tuple[Envelope, ...]:
    """Of every slot that an importer consented to: that one's policy, and the exporter's.

    Args:
        policies: by party, digest of the policy that the release was decided by.
        importers: by slot.

    Raises:
        LimitError: ``receipt.policies``: no receipt could hold them, so nothing is released.
    """
    links = {(importer, job.assets[slot].owner) for slot, importer in importers.items()}
    names = sorted({policies[owner] for link in links for owner in link})
    found = tuple(store.envelope(name) for name in names)
    size = sum(len(envelope.canonical()) for envelope in found)
    if size > _MAX_BYTES:
        raise LimitError(
            "receipt.policies",
            expected=f"imports that rest on at most {_MAX_BYTES} bytes of policies",
            observed=f"{size} bytes in {len(found)} policies",
            next_step="ask the owners to consent themselves, or to split their policies",
        )
    return found
