"""The store: tampering, older copies, faults at named points, keys at rest."""

from __future__ import annotations

import re
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from managerworld import World
from storeworld import CountingSealer, CrashError, copy_of, put_back
from svetovid.crypto import Identity, Secret, sign
from svetovid.errors import HostError, IntegrityError, SvetovidError
from svetovid.manager import PassphraseSealer, RootKey
from svetovid.manager.rootkey import open_root_key
from svetovid.protocol import IdentityRegistration, SeenFile
from svetovid.transparency.checkpoint import Checkpoint


def sql(world: World, statement: str, *values: Any) -> None:
    with sqlite3.connect(world.folder / "store.db") as connection:
        assert connection.execute(statement, values).rowcount != 0
    connection.close()


def start_refused(world: World) -> SvetovidError:
    world.stop()
    with pytest.raises(SvetovidError) as e:
        world.start()
    return e.value


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE position = (SELECT MAX(position) FROM entries)",
        "UPDATE entries SET data = replace(data, 'policy', 'polish') WHERE position = 9",
        "UPDATE entries SET position = 1000 WHERE position = 4",
        "UPDATE documents SET digest = 'sha256:' || hex(randomblob(32)) WHERE rowid = 2",
        "UPDATE documents SET envelope = (SELECT envelope FROM documents WHERE rowid = 3)"
        " WHERE rowid = 2",
        "UPDATE documents SET envelope = x'7b7d' WHERE rowid = 2",
        "UPDATE keys SET sealed = randomblob(60)",
        "UPDATE tip SET checkpoint = x'7b7d'",
        "DELETE FROM entries",
    ],
)
def test_a_store_changed_by_its_operator(world: World, statement: str) -> None:
    """V13, A1: every row is held against what is signed."""
    world.ready()
    world.stop()
    sql(world, statement)
    assert start_refused(world).code == "store.tamper"
    world.manager = world.open  # type: ignore[assignment]
    world.stop = lambda: None  # type: ignore[method-assign]


def test_a_checkpoint_signed_by_another(world: World) -> None:
    """V13."""
    world.ready()
    world.stop()
    other = Identity.generate("x")
    held = Checkpoint(log=other.key_id, size=0, root="sha256:" + "0" * 64, issued_at=1)
    sql(world, "UPDATE tip SET checkpoint = ?", sign(held, other).canonical())
    assert start_refused(world).code == "store.tamper"
    world.stop = lambda: None  # type: ignore[method-assign]


def test_a_private_part_changed(world: World) -> None:
    """V13: while the manager runs."""
    job = world.ready()
    world.host().release(job)
    sql(world, "UPDATE privates SET data = x'7b7d'")
    size = world.clients["alice"].status().entries
    with pytest.raises(SvetovidError, match=re.escape("store.tamper")):
        world.clients["alice"].records(size - 1, 1)


def test_an_asset_key_row_of_another_asset(world: World) -> None:
    """Keys at rest are bound to what they are, and to the log."""
    job = world.ready()
    host = world.host()
    sql(world, "UPDATE keys SET sealed = (SELECT sealed FROM keys WHERE label = 'checkpoint')")
    with pytest.raises(SvetovidError, match=re.escape("store.tamper")):
        host.release(job)


def test_an_older_copy_is_noticed_by_the_client(world: World, tmp_path: Path) -> None:
    """V14, T15: by whoever saw more than the copy holds, also in another process."""
    world.register()
    world.publish()
    seen = SeenFile(tmp_path / "seen.json")
    alice = world.client(world.alice, seen=seen)
    world.stop()
    shutil.copy(world.folder / "store.db", tmp_path / "old.db")
    world.start()
    world.seal()
    alice.status()
    world.stop()
    shutil.copy(tmp_path / "old.db", world.folder / "store.db")
    world.start()
    again = world.client(world.alice, seen=SeenFile(tmp_path / "seen.json"))
    with pytest.raises(SvetovidError, match=re.escape("store.rollback")):
        again.status()
    fresh = world.client(Identity.generate("new"))
    assert fresh.status().store_rollback == "not detected"


def test_a_fork_is_noticed_by_the_client(world: World, tmp_path: Path) -> None:
    """T15, A2: an older copy that grew another way."""
    world.register()
    world.stop()
    shutil.copy(world.folder / "store.db", tmp_path / "old.db")
    world.start()
    world.publish()
    world.stop()
    shutil.copy(tmp_path / "old.db", world.folder / "store.db")
    world.start()
    for n in range(12):
        identity = Identity.generate(f"n{n}")
        world.client(identity).register_identity(identity.signed_card())
    with pytest.raises(IntegrityError, match=re.escape("log.fork")):
        world.clients["alice"].status()


def test_an_older_copy_is_noticed_by_a_counter(tmp_path: Path) -> None:
    """V14, T15: the manager itself refuses to start."""
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    assert world.clients["alice"].status().store_rollback == "detected"
    world.register()
    world.stop()
    shutil.copy(tmp_path / "store.db", tmp_path / "old.db")
    world.start()
    world.publish()
    world.stop()
    world.start()
    world.stop()
    shutil.copy(tmp_path / "old.db", tmp_path / "store.db")
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()
    world.close()


def test_a_crash_between_commit_and_counter_is_no_rollback(tmp_path: Path) -> None:
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    world.stop()
    sealer.value -= 1
    world.start()
    world.publish()
    world.close()


@pytest.mark.parametrize("column", ["anchor", "counter"])
def test_v14_no_cell_of_the_store_says_how_old_it_is(tmp_path: Path, column: str) -> None:
    """V14: the manager's signature does, over size, root and counter."""
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    world.stop()
    old = copy_of(world, "old.db")
    world.start()
    world.publish()
    world.stop()
    put_back(world, old)
    with sqlite3.connect(world.folder / "store.db") as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(tip)")]
        assert columns == ["id", "checkpoint"]
        connection.execute(f"ALTER TABLE tip ADD COLUMN {column} BIGINT DEFAULT 1000000000")
    connection.close()
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()
    (world.folder / "store.db").unlink()
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()  # and the empty one that it made is none either


def test_v14_no_store_at_all_is_noticed_without_a_counter(world: World) -> None:
    world.register()
    world.stop()
    (world.folder / "store.db").unlink()
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()


def test_v14_a_store_for_a_value_to_come(tmp_path: Path) -> None:
    """V14: the machine's own TPM was exchanged, or its counter defined anew."""
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    world.stop()
    sealer.value -= 3
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()


def test_v14_of_two_commits_for_one_value_one_counts(tmp_path: Path) -> None:
    """V14: whoever stops the manager between commit and counter keeps a copy that was never
    answered. It does not take the place of what was written, and answered, in its stead."""
    crash: list[str] = []

    def fault(point: str) -> None:
        if point in crash:
            raise CrashError(point)

    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    world.stop()
    before = copy_of(world, "before.db")
    world.start(fault=fault)
    crash.append("after commit")
    with pytest.raises(SvetovidError):
        world.publish()
    crash.clear()
    world.stop()
    unanswered = copy_of(world, "unanswered.db")
    value = sealer.value
    put_back(world, before)
    sealer.value = value
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()  # the copy from before the start is older
    put_back(world, unanswered)
    world.start()
    world.publish()
    world.seal()
    world.stop()
    put_back(world, unanswered)
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()


def test_v14_what_a_start_signed_does_not_come_back(tmp_path: Path) -> None:
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    world.stop()

    def fault(point: str) -> None:
        if point == "before anchor at start":
            raise CrashError(point)

    with pytest.raises(CrashError):
        world.start(fault=fault)
    halfway = copy_of(world, "halfway.db")
    world.start()  # a crash at a start is no rollback
    world.publish()
    world.stop()
    put_back(world, halfway)
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()


def test_two_managers_over_one_counter(tmp_path: Path) -> None:
    """T15: the counter follows one's commit before the other commits, so that both start again."""
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    replica = world.open()
    reached, go = threading.Event(), threading.Event()
    real = sealer.increment

    def slow() -> int:
        sealer.increment = real  # type: ignore[method-assign]
        reached.set()
        assert go.wait(30)
        return real()

    sealer.increment = slow  # type: ignore[method-assign]
    eve = Identity.generate("eve")
    card = IdentityRegistration(card=eve.signed_card(), manager=world.me, issued_at=world.now)
    body = sign(card, eve).canonical()
    first = threading.Thread(target=world.publish)
    second = threading.Thread(target=replica.register, args=(body, "127.0.0.1"))
    first.start()
    assert reached.wait(30)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    go.set()
    first.join(30)
    second.join(30)
    replica.close()
    world.stop()
    world.start()
    assert eve.key_id in world.manager._core.state.pinned
    world.close()


@pytest.mark.parametrize("point", ["before commit", "after commit", "after anchor"])
def test_no_release_without_its_record(world: World, point: str) -> None:
    """K6: whatever stops the manager where, a key that left stands in the log."""
    job = world.ready()
    host = world.host()
    armed: list[bool] = []

    def fault(at: str) -> None:
        if armed and at == point:
            raise CrashError

    world.stop()
    world.start(fault=fault)
    challenge = host.client.challenge(host.host_id, job, "release", fresh=True)
    evidence = host.evidence(challenge)
    size = world.clients["alice"].status().entries
    armed.append(True)
    with pytest.raises(SvetovidError, match=re.escape("server.fault")):
        host.client.release(evidence)
    world.stop()
    world.start()
    recorded = world.clients["alice"].status().entries - size
    if point == "before commit":
        assert recorded == 0
        host.release(job)
    else:
        assert recorded == 1
        with pytest.raises(SvetovidError, match=re.escape("challenge.used")):
            host.client.release(evidence)


def test_a_disk_that_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A6: releases stop, and go on when there is space again."""
    job = world.ready()
    host = world.host()
    store = world.manager._store
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    limited = sqlite3.connect

    def small(*args: Any, **more: Any) -> sqlite3.Connection:
        connection = limited(*args, **more)
        connection.execute(f"PRAGMA max_page_count={pages}")
        return connection

    store._engine.dispose()
    monkeypatch.setattr(store._engine.dialect.dbapi, "connect", small)

    def fill() -> None:
        for _ in range(50):
            host.client.release(host.evidence(host.client.challenge(host.host_id, job, "release")))
            host.client.end_lease(
                world.manager._core.state.jobs[job].lease, "measured", host.job_key
            )

    with pytest.raises(HostError, match=re.escape("store.unavailable")):
        fill()
    monkeypatch.undo()
    store._engine.dispose()
    size = world.clients["alice"].status().entries
    world.propose(world.job_document(seed=5))
    assert world.clients["alice"].status().entries > size


def test_a_successor_is_replayed_by_another_manager(world: World) -> None:
    """Two managers over one store see the same state."""
    world.register()
    replica = world.open()
    new, rotation = world.alice.rotate(world.now)
    world.clients["alice"].rotate(rotation)
    replica._store.refresh()
    assert replica._store.state.signer(world.alice.key_id) == new.key_id
    assert replica.answer("sha256:" + "0" * 64, world.manager._store.size, {}) is not None
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        replica.answer("sha256:" + "0" * 64, 10_000, {})
    replica.close()


def test_the_root_key_is_sealed_under_the_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    first = open_root_key(path, PassphraseSealer(Secret(b"right")))
    again = open_root_key(path, PassphraseSealer(Secret(b"right")))
    assert first.derive("tls") == again.derive("tls")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(IntegrityError, match=re.escape("key.passphrase")):
        open_root_key(path, PassphraseSealer(Secret(b"wrong")))
    with pytest.raises(SvetovidError, match=re.escape("key.passphrase")):
        PassphraseSealer(Secret(b""))
    with pytest.raises(SvetovidError, match=re.escape("store.counter")):
        PassphraseSealer(Secret(b"x")).increment()
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(SvetovidError, match=re.escape("key.file")):
        open_root_key(folder, PassphraseSealer(Secret(b"x")))


def test_a_sealed_key_opens_for_what_it_is_only() -> None:
    root = RootKey(Secret.random(32))
    box = root.seal(Secret(b"k"), {"label": "asset", "subject": "a"})
    assert root.open(box, {"label": "asset", "subject": "a"}) == Secret(b"k")
    for what in ({"label": "asset", "subject": "b"}, {"label": "checkpoint", "subject": "a"}):
        with pytest.raises(IntegrityError, match=re.escape("store.tamper")):
            root.open(box, what)
    with pytest.raises(IntegrityError, match=re.escape("store.tamper")):
        root.open(box[:8], {"label": "asset", "subject": "a"})


def test_what_the_store_does_not_hold(world: World) -> None:
    world.register()
    store = world.manager._store
    with pytest.raises(SvetovidError, match=re.escape("document.unknown")):
        store.envelope("sha256:" + "0" * 64)
    with pytest.raises(SvetovidError, match=re.escape("record.unknown")):
        store.entry(10_000)
    with pytest.raises(SvetovidError, match=re.escape("store.tamper")):
        store.key("asset", "sha256:" + "0" * 64)
    sql(world, "UPDATE entries SET data = 'text' WHERE position = 1")
    with pytest.raises(SvetovidError, match=re.escape("store.tamper")):
        store.entry(1)
    store.refresh()
