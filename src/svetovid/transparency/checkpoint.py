"""Signed checkpoints of a manager's log, and how a client moves from one to the next (T15).

Rules: the pinned key signs; a log never shrinks; a larger log provably grew from the smaller one;
one size has one root. The tree is the digest chain of T15: its size only rises, its root covers
every entry, and both are what a TPM counter anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from svetovid.crypto import Digest, Document, Envelope, KeyId
from svetovid.errors import IntegrityError
from svetovid.transparency.merkle import (
    MAX_LEAVES,
    check_consistency,
    check_inclusion,
)

__all__ = ["Checkpoint", "advance", "verify_consistency", "verify_inclusion"]


class Checkpoint(Document):
    """The head of a log at one moment.

    Attributes:
        log: key of the manager whose log it is; it signs.
        size: entries.
        root: RFC 9162 root over them.
        issued_at: the manager's clock, Unix seconds.
        counter: value that the manager's counter takes with this checkpoint, where it has one that
            no restored store turns back.
    """

    TYPE: ClassVar[str] = "checkpoint"
    log: KeyId
    size: Annotated[int, Field(ge=0, le=MAX_LEAVES)]
    root: Digest
    issued_at: int
    counter: Annotated[int, Field(ge=0)] | None = None


def verify_consistency(seen: Checkpoint, new: Checkpoint, proof: Sequence[str]) -> None:
    """Whether ``new`` only appends to ``seen``.

    Args:
        seen: what the reader holds already.
        new: what it was handed.
        proof: RFC 9162 consistency proof between the two, as digests.

    Raises:
        IntegrityError: ``store.rollback`` where it is smaller, ``log.fork`` where it is another
            log or another history.
        InputError: ``log.hash``, ``limit.log``.
    """
    if new.log != seen.log:
        raise IntegrityError(
            "log.fork",
            expected=f"the log of {seen.log}",
            observed=new.log,
            next_step="ask the pinned manager",
        )
    if new.size < seen.size:
        raise IntegrityError(
            "store.rollback",
            expected=f"at least the {seen.size} entries seen before",
            observed=f"{new.size} entries",
            next_step="the manager runs on an older copy of its store: trust nothing it says",
        )
    check_consistency(seen.size, seen.root, new.size, new.root, proof)


def advance(
    seen: Checkpoint | None, new: Envelope, proof: Sequence[str], *, log: str
) -> Checkpoint:
    """The checkpoint to keep from now on.

    Args:
        seen: the newest one this client accepted; ``None`` at first.
        new: as the manager signed it.
        proof: consistency proof from ``seen`` to ``new``.
        log: the pinned manager's key.

    Raises:
        IntegrityError: ``signature.*``, ``log.fork``, ``store.rollback``.
        InputError: ``log.hash``, ``limit.log``, ``document.invalid``.
    """
    checkpoint = new.open(Checkpoint, by=log)
    if checkpoint.log != log:
        raise IntegrityError(
            "log.fork",
            expected=f"the log of {log}",
            observed=checkpoint.log,
            next_step="ask the pinned manager",
        )
    if seen is not None:
        verify_consistency(seen, checkpoint, proof)
    return checkpoint


def verify_inclusion(leaf: bytes, index: int, path: Sequence[str], checkpoint: Checkpoint) -> None:
    """Whether ``leaf`` (a leaf hash) stands at ``index`` of the log of ``checkpoint``.

    Args:
        leaf: 32 bytes.
        index: from 0.
        path: RFC 9162 inclusion proof, from the leaf up, as digests.
        checkpoint: the verified head.

    Raises:
        IntegrityError: ``log.inclusion``.
        InputError: ``log.hash``, ``limit.log``.
    """
    check_inclusion(leaf, index, checkpoint.size, path, checkpoint.root)
