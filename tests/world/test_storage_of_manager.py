"""The manager's store in its administrator's hands: T15, attacks V8, V13, V14, A, K6, K9."""

from __future__ import annotations

import base64
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from svetovid.crypto import Secret, sign
from svetovid.errors import SvetovidError
from svetovid.manager import RootKey
from svetovid.transparency.checkpoint import Checkpoint
from svetovid.transparency.merkle import MerkleTree
from world.managers import PASSPHRASE
from world.world import CANARY, OWNERS, World


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[World]:
    """A manager whose store is anchored in a counter."""
    world = World(tmp_path, counter=True)
    yield world
    world.close()


def test_t15_v14_clients_notice_an_older_store(world: World) -> None:
    """T15, V14: whoever saw more does not believe less."""
    copy = world.manager.backup()
    world.policy("alice", runs=1)
    world.manager.stop()
    world.manager.restore(copy)
    world.manager.start()
    with pytest.raises(SvetovidError, match=r"store\.rollback"):
        world.client("alice").status()


def test_t15_a_rolled_back_store_that_grew_again(world: World) -> None:
    """T15: as long as what was seen, and another: a fork."""
    copy = world.manager.backup()
    world.policy("alice", runs=1)
    world.manager.stop()
    world.manager.restore(copy)
    world.manager.start()
    bob = world.manager.client(world.people["bob"])
    world._clients["bob", "north"] = bob
    world.policy("bob", runs=1)
    world.policy("bob", runs=2)
    with pytest.raises(SvetovidError) as e:
        world.client("alice").status()
    assert e.value.code in ("log.fork", "store.rollback")


def test_t15_a_counter_notices_at_the_start(counted: World) -> None:
    world = counted
    assert world.client("alice").status().store_rollback == "detected"
    copy = world.manager.backup()
    world.policy("alice", runs=1)
    world.manager.stop()
    world.manager.restore(copy)
    with pytest.raises(SvetovidError, match=r"store\.rollback"):
        world.manager.start()


def test_t15_without_a_counter_it_says_so(world: World) -> None:
    assert world.client("alice").status().store_rollback == "not detected"


def test_v8_two_replicas_two_successors(world: World) -> None:
    """V8: of two next editions exactly one is taken."""
    one = world.draft("alice", runs=1)
    two = world.draft("alice", runs=2)
    replica = world.manager.open()
    alice = world.people["alice"]
    world.client("alice").put_policy(sign(one, alice))
    with world.refuses("policy.fork", records=0):
        replica.changes["/v1/policies"](sign(two, alice).canonical())
    replica.close()
    held = world.client("alice").policy(alice.key_id, "main")
    assert held.payload_digest() == one.digest()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET data = replace(data, '\"sequence\":1', '\"sequence\":0')",
        "UPDATE entries SET data = replace(data, 'release', 'refusal')",
        "DELETE FROM entries WHERE position = 3",
        "DELETE FROM entries WHERE position = (SELECT max(position) FROM entries)",
        "UPDATE entries SET position = 1000 + position WHERE position < 2",
        "UPDATE documents SET envelope = (SELECT envelope FROM documents LIMIT 1)",
        "UPDATE keys SET sealed = zeroblob(60)",
        "UPDATE keys SET sealed = (SELECT sealed FROM keys ORDER BY subject LIMIT 1)",
        'UPDATE tip SET checkpoint = replace(checkpoint, \'"sig":"\', \'"sig":"A\')',
    ],
)
def test_v13_a1_an_edited_store_does_not_start(world: World, statement: str) -> None:
    """V13, A1: edited, removed, reordered, swapped: the signed log knows."""
    world.run(world.agreed())
    world.manager.stop()
    world.manager.sql(statement)
    with pytest.raises(SvetovidError, match=r"store\.tamper"):
        world.manager.start()


def test_v13_while_it_runs(world: World) -> None:
    """V13: a key that is swapped under a running manager is not released."""
    run = world.start(world.agreed())
    world.manager.sql(
        "UPDATE keys SET sealed = (SELECT sealed FROM keys WHERE label = 'asset' "
        "ORDER BY subject DESC LIMIT 1) WHERE label = 'asset'"
    )
    given = world.released()
    with pytest.raises(SvetovidError, match=r"store\.tamper"):
        run.ask()
    assert world.released() == given


def test_a1_a_reader_recomputes_the_log(world: World) -> None:
    """A1: every leaf is shown to everybody, and together they are what was signed."""
    world.run(world.agreed()).finish()
    client = world.client("bob")
    page = client.records(0, 1000)
    leaves = [bytes.fromhex(r.leaf.removeprefix("sha256:")) for r in page.records]
    assert client.checkpoint is not None
    signed = client.checkpoint.open(Checkpoint, by=world.manager.key_id)

    def root(hashes: list[bytes]) -> str:
        tree = MerkleTree()
        for h in hashes:
            tree.append(h)
        return tree.root()

    assert (signed.size, signed.root) == (len(leaves), root(leaves))
    for wrong in (leaves[1:], leaves[:-1], leaves[::-1], [*leaves, leaves[0]]):
        assert root(wrong) != signed.root
    for record in page.records:
        if record.entry is not None:
            assert "sha256:" + record.entry.leaf.hex() == record.leaf


def test_a3_a_log_from_a_backup_never_goes_on_unseen(world: World) -> None:
    """A3: also where it grew meanwhile; see T15 above."""
    saw = world.client("alice").status().entries
    copy = world.manager.backup()
    world.consent("alice", world.propose())
    world.manager.stop()
    world.manager.restore(copy)
    world.manager.start()
    assert world.manager.size == saw
    with pytest.raises(SvetovidError, match=r"store\.rollback"):
        world.client("alice").records()


def test_a7_no_personal_data_in_the_leaves(world: World) -> None:
    """A7: an owner's reasons stand in the log as a salted digest only."""
    world.host.log.append("/tmp/evil.so")
    with world.refuses("ima.unlisted"):
        world.run(world.agreed())
    entry = world.manager.entries()[-1]
    assert b"evil.so" not in entry.canonical()
    assert set(entry.private) == {world.key(o) for o in OWNERS}


def failing(point: str, error: Exception) -> object:
    def fault(at: str) -> None:
        if at == point:
            raise error

    return fault


def test_a6_a_full_disk_releases_nothing(world: World) -> None:
    """A6: no record, no key; and it goes on when there is space again."""
    run = world.start(world.agreed())
    full = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    world.manager.restart(fault=failing("before commit", full))
    evidence = world.evidence(run)
    size = world.manager.size
    with pytest.raises(SvetovidError, match=r"store\.unavailable"):
        world.replay(evidence)
    assert world.manager.size == size
    world.manager.restart()
    assert world.released() == 0
    world.replay(evidence)
    assert world.released() == 1


def test_k6_killed_before_the_record(world: World) -> None:
    """K6: what was not recorded was not released."""
    run = world.start(world.agreed())
    world.manager.restart(fault=failing("before commit", RuntimeError("killed")))
    evidence = world.evidence(run)
    with pytest.raises(SvetovidError, match=r"server\.fault"):
        world.replay(evidence)
    world.manager.restart()
    assert world.released() == 0
    world.replay(evidence)
    assert world.released() == 1


def test_k6_killed_after_the_record(world: World) -> None:
    """K6: what was recorded counts, though nobody got the answer."""
    world.policy("alice", runs=1)
    run = world.start(world.agreed())
    world.manager.restart(fault=failing("after commit", RuntimeError("killed")))
    evidence = world.evidence(run)
    with pytest.raises(SvetovidError, match=r"server\.fault"):
        world.replay(evidence)
    world.manager.restart()
    assert world.released() == 1
    with world.refuses("challenge.used", records=0):
        world.replay(evidence)
    world.clock.advance(60)
    with world.refuses("limit.runs"):
        world.run(world.agreed())


def spellings(secret: bytes) -> list[bytes]:
    """How a secret could turn up."""
    return [
        secret,
        secret.hex().encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        repr(secret)[2:-1].encode(),
    ]


def test_k9_no_secret_anywhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """K9: not in the log, an error, a repr, an answer, or the manager's files."""
    caplog.set_level(logging.DEBUG)
    told: list[bytes] = []
    job = world.agreed()
    run = world.run(job)
    run.save(run.checkpoints(), CANARY + b" in a checkpoint")
    opened = run.open()
    assert opened["left"].startswith(CANARY)
    host_key = run.main.keys()["left"][1]
    told += [repr(x).encode() for x in (run.main, run.main.release, host_key, run.receiving)]
    told += [repr(world.people["alice"]).encode(), str(host_key).encode()]
    told += [repr(world.manager.sealer).encode(), repr(RootKey(world.manager.root_secret)).encode()]
    with world.refuses("job.live") as refusal:
        world.run(job)
    told.append(str(refusal.error.to_dict()).encode())
    with world.refuses("signature.missing", kind="rejection") as refusal:
        world.client("bob").put_policy(sign(world.draft("alice"), world.people["bob"]))
    told.append((str(refusal.error.to_dict()) + str(refusal.error)).encode())
    run.finish(CANARY + b" in the weights")
    with pytest.raises(SvetovidError) as e:
        run.receiving.open("AAAA", {"purpose": "x"})
    told.append((str(e.value.to_dict()) + repr(e.value)).encode())
    world.manager.restart()

    secrets = [CANARY, PASSPHRASE.encode(), world.manager.root_secret.reveal()]
    secrets += [k.reveal() for k in world.keys.values()]
    secrets += [run.main.checkpoint_key().reveal()]
    secrets += [p.signing_seed.reveal() for p in world.people.values()]
    places = {
        "wire": b"\n".join(world.manager.tap.seen),
        "told": b"\n".join(told),
        "logged": "\n".join(r.getMessage() + str(r.__dict__) for r in caplog.records).encode(),
    }
    for path in [*world.manager.folder.iterdir(), *world.folder.glob("*")]:
        if path.is_file():
            places[path.name] = path.read_bytes()
    assert len(places["wire"]) > 10_000
    assert any(name.startswith("store.db") for name in places)
    assert any(name.endswith(".sealed") for name in places)
    for where, text in places.items():
        for secret in secrets:
            for spelling in spellings(secret):
                assert spelling not in text, f"a secret stands in {where}"


def test_k9_the_search_would_find_one(world: World) -> None:
    """The canary search is worth something: every spelling of a planted key is found."""
    key = Secret.random(32).reveal()
    for text in (key, key.hex().encode(), base64.b64encode(key), repr(key).encode()):
        assert any(s in text for s in spellings(key))
