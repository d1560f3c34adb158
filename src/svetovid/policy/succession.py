"""One policy after another: no edition is lost, rolled back or forked."""

from __future__ import annotations

from svetovid.errors import PolicyError
from svetovid.policy.documents import Policy

__all__ = ["check_successor"]


def check_successor(old: Policy | None, new: Policy) -> None:
    """Whether ``new`` may take the place of ``old`` (``None``: nothing is held yet).

    The very same policy again is no error, so that sending it twice does no harm.

    Raises:
        PolicyError: ``policy.owner`` (another owner, name or manager), ``policy.version`` (older,
            or a number left out), ``policy.fork`` (same number, other content),
            ``policy.predecessor`` (it follows another edition than the one held).
    """
    where = f"policy {new.name}"
    if old is None:
        if new.sequence != 1:
            raise PolicyError(
                "policy.version",
                expected="sequence 1, as none is held",
                observed=str(new.sequence),
                next_step="send the owner's policies from the first one on, in order",
                clause=where,
                owner=new.owner,
            )
        if new.predecessor is not None:
            raise PolicyError(
                "policy.predecessor",
                expected="none for the first policy",
                observed=new.predecessor,
                next_step="leave predecessor out of a first policy",
                clause=where,
                owner=new.owner,
            )
        return
    if (old.owner, old.name, old.manager) != (new.owner, new.name, new.manager):
        raise PolicyError(
            "policy.owner",
            expected=f"{old.name} of {old.owner} under {old.manager}",
            observed=f"{new.name} of {new.owner} under {new.manager}",
            next_step="a policy keeps its owner, name and manager; publish another one instead",
            clause=where,
            owner=new.owner,
        )
    if new == old:
        return
    if new.sequence == old.sequence:
        raise PolicyError(
            "policy.fork",
            expected=old.digest(),
            observed=new.digest(),
            next_step=f"fetch edition {old.sequence}, then sign edition {old.sequence + 1} upon it",
            clause=where,
            owner=new.owner,
        )
    if new.sequence != old.sequence + 1:
        raise PolicyError(
            "policy.version",
            expected=f"sequence {old.sequence + 1}",
            observed=str(new.sequence),
            next_step=f"sign the change as edition {old.sequence + 1}",
            clause=where,
            owner=new.owner,
        )
    if new.predecessor != old.digest():
        raise PolicyError(
            "policy.predecessor",
            expected=old.digest(),
            observed=new.predecessor or "none",
            next_step="fetch the current policy, and sign the change upon it",
            clause=where,
            owner=new.owner,
        )
