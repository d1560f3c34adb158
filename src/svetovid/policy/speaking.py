"""Who speaks for the owner that a document names: its key, or the one that key was rotated to.

An asset names its owner by one key, for good. After a rotation the newest key of that history
speaks for it: the document still names the older key, and carries the rotations that lead from it
to its signer. So a consent or a policy that somebody meets alone, offline or at another manager,
shows by what right it was signed. That nobody revoked the history meanwhile, only a manager knows.
"""

from __future__ import annotations

from typing import TypeVar

from svetovid.crypto.envelope import Envelope
from svetovid.crypto.identity import Rotation
from svetovid.crypto.succession import KeyHistory
from svetovid.policy.documents import Consent, Policy

__all__ = ["check_owned", "open_owned", "owner_keys"]

D = TypeVar("D", Consent, Policy)

_ANY_TIME = 2**53
"""The order of statements is what counts here; when they were made, a manager's log says."""


def open_owned(envelope: Envelope, kind: type[D]) -> D:
    """A document as signed by whoever speaks for its owner.

    Raises:
        IntegrityError: ``signature.*``; ``key.*`` where its rotations do not lead to a signer.
        ParseError: where it is no such document.
    """
    claimed = envelope.peek(kind)
    check_owned(envelope, claimed)
    return claimed


def check_owned(envelope: Envelope, claimed: Consent | Policy) -> None:
    """Refuse what ``envelope`` claims where nobody who speaks for its owner signed it.

    Args:
        claimed: what :meth:`Envelope.peek` showed of this very envelope.

    Raises:
        IntegrityError: ``signature.*``; ``key.*`` where its rotations do not lead to a signer.
    """
    history = KeyHistory.follow(claimed.owner, claimed.rotations, now=_ANY_TIME)
    envelope.require(history.current)


def owner_keys(document: Consent | Policy) -> tuple[str, ...]:
    """Every key that an opened document rests on: its owner's, and those that followed."""
    return (document.owner, *(r.peek(Rotation).new.signing for r in document.rotations))
