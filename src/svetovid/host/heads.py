"""A job's checkpoints as all of its managers keep them together: one key, one head (T1, T11).

A checkpoint holds whatever the job's code saves, so it may hold everybody's data. No owner trusts
another's manager; so no manager opens a checkpoint by itself, and none decides alone which one is
the newest:

1. The key is derived from the keys that *all* managers of the job release. Whoever lacks one of
   them learns nothing about it.
2. A head counts when all managers recorded it. They are told one after the other, so that after a
   crash some may be one step ahead; never more.
3. The newest head is gone on from. No manager's own head is ever newer than it, and it is the
   direct successor of every older one, by sequence and predecessor; anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from svetovid.crypto import Secret, canonical
from svetovid.errors import IntegrityError
from svetovid.protocol.messages import Head

__all__ = ["joint_key", "newest_head"]

_KEY_BYTES = 32


def joint_key(job: str, keys: Mapping[str, Secret]) -> Secret:
    """The 32-byte key of a job's checkpoints: HKDF-SHA256 (RFC 5869) over every manager's key.

    Args:
        job: digest of the agreed job.
        keys: manager key id to the checkpoint key that it released; one of each manager.

    Raises:
        IntegrityError: ``checkpoint.key`` where a manager's is not 32 bytes long.
    """
    managers = sorted(keys)
    for manager in managers:
        if len(keys[manager]) != _KEY_BYTES:
            raise IntegrityError(
                "checkpoint.key",
                expected=f"{_KEY_BYTES} bytes from {manager}",
                observed=f"{len(keys[manager])} bytes",
                next_step="report this manager to its stakeholders",
            )
    info = {"job": job, "label": "svetovid checkpoint key", "managers": managers, "version": 1}
    kdf = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=canonical(info))
    return Secret(kdf.derive(b"".join(keys[m].reveal() for m in managers)))


def newest_head(job: str, heads: Mapping[str, Head | None]) -> Head | None:
    """The one head to resume from; None where no checkpoint was ever recorded.

    A manager whose head differs from it is one step behind, and has to be told before the job
    goes on.

    Args:
        job: digest of the agreed job.
        heads: manager key id to the head that it recorded.

    Raises:
        IntegrityError: ``checkpoint.heads`` where the heads are not of this job, or differ by
            anything but the one step that a crash leaves.
    """
    known = [head for head in heads.values() if head is not None]
    newest = max(known, key=lambda head: head.sequence, default=None)
    if newest is None:
        return None
    for manager, head in heads.items():
        if newest.job == job and (head == newest or _precedes(head, newest)):
            continue
        raise IntegrityError(
            "checkpoint.heads",
            expected=f"checkpoint {newest.sequence} of this job, or the one before it",
            observed=f"{'none' if head is None else f'checkpoint {head.sequence}'} at {manager}",
            next_step="tell the owners: a manager lost or changed what it recorded of this job",
        )
    return newest


def _precedes(head: Head | None, newest: Head) -> bool:
    if head is None:
        return (newest.sequence, newest.predecessor) == (1, None)
    return (head.job, head.sequence + 1, head.checkpoint) == (
        newest.job,
        newest.sequence,
        newest.predecessor,
    )
