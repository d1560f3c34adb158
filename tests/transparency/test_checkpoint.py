"""Checkpoints only ever move forward (T15, A1, A2)."""

from __future__ import annotations

import pytest

from svetovid.crypto import sign
from svetovid.errors import IntegrityError
from svetovid.transparency import (
    Checkpoint,
    LogEntry,
    advance,
    verify_consistency,
    verify_inclusion,
    verify_proof,
)
from transparency.receipt_world import JOB_KEY, MANAGER, NOW, Log

KEY = MANAGER.key_id


def grown(n: int, kind: str = "policy") -> Log:
    log = Log()
    for i in range(n):
        log.add(kind, NOW + i, number=i)
    return log


def test_a_client_moves_forward() -> None:
    log = grown(3)
    seen = advance(None, log.checkpoint(), (), log=KEY)
    assert seen.size == 3
    log.add("job", NOW, job="x")
    later = advance(seen, log.checkpoint(), log.tree.consistency(3), log=KEY)
    assert later.size == 4
    assert advance(later, log.checkpoint(NOW + 9), (), log=KEY).size == 4


def test_an_older_log_is_a_rollback() -> None:
    """T15, V14: a restored store."""
    log = grown(4)
    seen = advance(None, log.checkpoint(), (), log=KEY)
    with pytest.raises(IntegrityError, match=r"store\.rollback") as e:
        advance(seen, grown(3).checkpoint(), (), log=KEY)
    assert e.value.reason.next_step


def test_another_history_is_a_fork() -> None:
    """A2: a split view."""
    seen = advance(None, grown(4).checkpoint(), (), log=KEY)
    other = grown(6, "consent")
    for proof in (other.tree.consistency(4), ()):
        with pytest.raises(IntegrityError, match=r"log\.fork"):
            advance(seen, other.checkpoint(), proof, log=KEY)
    same_size = grown(4, "consent")
    with pytest.raises(IntegrityError, match=r"log\.fork"):
        advance(seen, same_size.checkpoint(), (), log=KEY)


def test_another_signer_or_another_log() -> None:
    log = grown(2)
    with pytest.raises(IntegrityError, match=r"signature\.missing"):
        advance(None, log.checkpoint(), (), log=JOB_KEY.key_id)
    foreign = Checkpoint(log=JOB_KEY.key_id, size=2, root=log.tree.root(), issued_at=NOW)
    with pytest.raises(IntegrityError, match=r"log\.fork"):
        advance(None, sign(foreign, MANAGER), (), log=KEY)
    own = log.checkpoint().peek(Checkpoint)
    with pytest.raises(IntegrityError, match=r"log\.fork"):
        verify_consistency(own, foreign, ())


def test_a_checkpoint_is_signed_as_one() -> None:
    """C1-like: another document of the manager is no checkpoint."""
    entry = grown(1).entries[0]
    with pytest.raises(IntegrityError, match=r"signature\.type"):
        advance(None, sign(entry, MANAGER), (), log=KEY)


def test_a_proof_of_one_entry() -> None:
    log = grown(7)
    proof = log.proof(4)
    head = verify_proof(proof, log=KEY)
    verify_inclusion(proof.entry.leaf, 4, proof.path, head)
    changed = [
        {"entry": log.entries[5]},
        {"index": 5},
        {"path": proof.path[1:]},
        {"entry": proof.entry.model_copy(update={"at": NOW - 1})},
        {"checkpoint": grown(7, "consent").checkpoint()},
    ]
    for change in changed:
        with pytest.raises(IntegrityError, match=r"log\.inclusion"):
            verify_proof(proof.model_copy(update=change), log=KEY)


def test_an_entry_holds_commitments_only() -> None:
    """A7: what one owner sees is bound by a digest."""
    entry = LogEntry(
        kind="refusal", at=NOW, parties=(KEY,), body={}, private={KEY: "sha256:" + "0" * 64}
    )
    assert LogEntry.parse(entry.canonical()) == entry
