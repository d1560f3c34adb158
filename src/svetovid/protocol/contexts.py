"""What a sealed key is for: the HPKE contexts that the wings share.

A key sealed in one context opens in no other, so a key deposited for one asset, job or host is
worth nothing anywhere else.
"""

from __future__ import annotations

__all__ = ["checkpoint_context", "deposit_context", "output_context", "release_context"]


def deposit_context(manifest: str, owner: str, manager: str) -> dict[str, str]:
    """An owner gives the key of asset ``manifest`` to its manager.

    Args:
        manifest: digest of the asset's.
        owner: the owner's key id.
        manager: the manager's key id.
    """
    return {"purpose": "asset key", "manifest": manifest, "owner": owner, "manager": manager}


def release_context(
    manifest: str, job: str, host: str, challenge: str, manager: str
) -> dict[str, str]:
    """A manager gives the key of asset ``manifest`` to an appraised host, for one challenge.

    Args:
        manifest: digest of the asset's.
        job: its digest.
        host: digest of the operator's statement on it.
        challenge: digest of the challenge that the evidence answers.
        manager: the manager's key id.
    """
    return {
        "purpose": "release",
        "manifest": manifest,
        "job": job,
        "host": host,
        "challenge": challenge,
        "manager": manager,
    }


def checkpoint_context(job: str, host: str, challenge: str, manager: str) -> dict[str, str]:
    """A manager gives the key of a job's own checkpoints to an appraised host (T11).

    Args:
        job: its digest.
        host: digest of the operator's statement on it.
        challenge: digest of the challenge that the evidence answers.
        manager: the manager's key id.
    """
    return {
        "purpose": "checkpoint",
        "job": job,
        "host": host,
        "challenge": challenge,
        "manager": manager,
    }


def output_context(manifest: str, job: str, recipient: str) -> dict[str, str]:
    """A host gives the key of a sealed output to one recipient of the job.

    Args:
        manifest: digest of the sealed output's.
        job: its digest.
        recipient: the recipient's key id.
    """
    return {"purpose": "output", "manifest": manifest, "job": job, "recipient": recipient}
