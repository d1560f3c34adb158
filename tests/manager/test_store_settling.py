"""A manager or replica that is stopped, or fails, between two steps, and what goes on beside it."""

from __future__ import annotations

import fcntl
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from managerworld import World
from storeworld import CountingSealer, CrashError, put_back
from svetovid.crypto import Identity, sign
from svetovid.errors import HostError, IntegrityError, SvetovidError
from svetovid.manager import anchor, tables
from svetovid.manager import store as store_module
from svetovid.protocol import IdentityRegistration
from svetovid.transparency.checkpoint import Checkpoint


def stranger(world: World) -> bytes:
    eve = Identity.generate("eve")
    card = IdentityRegistration(card=eve.signed_card(), manager=world.me, issued_at=world.now)
    return sign(card, eve).canonical()


def fails_once(world: World, sealer: CountingSealer) -> None:
    """A decision is on the disk, and the counter cannot follow."""
    real = sealer.increment

    def broken() -> int:
        sealer.increment = real  # type: ignore[method-assign]
        raise HostError("tpm.io")

    sealer.increment = broken  # type: ignore[method-assign]
    with pytest.raises(SvetovidError):
        world.propose(world.job_document(seed=7), consent=False)


def replica_killed(world: World, _sealer: CountingSealer) -> None:
    armed: list[str] = []

    def fault(point: str) -> None:
        if point in armed:
            raise CrashError(point)

    replica = world.open(fault=fault)
    armed.append("after commit")
    with pytest.raises(CrashError):
        replica.register(stranger(world), "127.0.0.1")
    replica.close()


Stop = Callable[[World, CountingSealer], None]


@pytest.mark.parametrize("stop", [fails_once, replica_killed])
def test_t15_what_follows_a_stopped_writer_takes_a_value_of_its_own(
    tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T15, V14: a copy of what the stopped one left is older once somebody else has written."""
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    job = world.ready()
    host = world.host()
    stop(world, sealer)
    left = copy_now(world)
    # As when the other was stopped just after this one had looked.
    monkeypatch.setattr(world.manager._store, "refresh", lambda: None)
    assert host.release(job).keys
    world.stop()
    put_back(world, left)
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()


def copy_now(world: World, name: str = "left.db") -> Path:
    """The store of a world that runs, as whoever reads its disk has it."""
    copy = world.folder / name
    with sqlite3.connect(world.folder / "store.db") as source, sqlite3.connect(copy) as to:
        source.backup(to)
    return copy


def test_t15_what_a_stopped_writer_left_is_not_shown_before_the_counter_followed(
    tmp_path: Path,
) -> None:
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    replica_killed(world, sealer)
    size, value = world.manager._store.size, sealer.value
    assert world.clients["alice"].status().entries == size + 1
    assert sealer.value == value + 1
    assert world.manager._store.tip[0].peek(Checkpoint).counter == sealer.value
    world.close()


def test_t15_a_counter_that_went_on_without_this_store(tmp_path: Path) -> None:
    """While it runs: somebody exchanged the file for an older one, or serves two of them."""
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    sealer.increment()
    with pytest.raises(SvetovidError, match=re.escape("store.rollback")):
        world.publish()
    world.close()


def test_what_could_not_be_read_to_its_end_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A6: entries of another manager, half of which were applied when the disk failed."""
    job = world.ready()
    host = world.host()
    replica = world.open()
    store = replica._store
    host.release(job)
    world.propose(world.job_document(seed=3), consent=False)
    real, seen = store._log._replay, []

    def once(connection: sa.Connection, index: int, data: bytes) -> None:
        seen.append(index)
        if len(seen) == 2:
            raise sa.exc.OperationalError("disk I/O error", None, Exception())
        real(connection, index, data)

    with monkeypatch.context() as m:
        m.setattr(store._log, "_replay", once)
        with pytest.raises(HostError, match=re.escape("store.unavailable")):
            store.refresh()
        with pytest.raises(HostError, match=re.escape("store.unavailable")):
            _ = store.tip
    store.refresh()
    held = world.manager._store
    assert (store.size, store.leaves, store.parties) == (held.size, held.leaves, held.parties)
    assert store.state.runs == held.state.runs
    assert store.state.jobs[job].releases == 1
    replica.close()


def test_a_disk_that_fails_before_a_request_is_no_fault_of_ours(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> int:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as m:
        m.setattr(tables, "data_version", broken)
        with pytest.raises(HostError, match=re.escape("store.unavailable")):
            world.manager._store.refresh()


def test_t15_a_commit_that_failed_and_is_on_the_disk_does_not_come_back(tmp_path: Path) -> None:
    """Whoever owns the disk lets a flush fail and keeps what was to be flushed."""
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    dialect: Any = world.manager._store._engine.dialect
    real = dialect.do_commit
    before = copy_now(world, "before.db")
    left = world.folder / "left.db"

    def failing(connection: Any) -> None:
        """On the disk for whoever copies it now; for SQLite it was never written."""
        dialect.do_commit = real
        real(connection)
        copy_now(world)
        with sqlite3.connect(before) as source, sqlite3.connect(world.folder / "store.db") as to:
            source.backup(to)
        raise sqlite3.OperationalError("disk I/O error")

    dialect.do_commit = failing
    with pytest.raises(HostError, match=re.escape("store.unavailable")):
        world.manager.register(stranger(world), "127.0.0.1")
    with sqlite3.connect(left) as kept, sqlite3.connect(world.folder / "store.db") as there:
        count = "SELECT count(*) FROM entries"
        assert kept.execute(count).fetchone()[0] == there.execute(count).fetchone()[0] + 1
    world.manager.register(stranger(world), "127.0.0.1")  # one decision, and no more
    world.stop()
    put_back(world, left)
    with pytest.raises(IntegrityError, match=re.escape("store.rollback")):
        world.start()


def test_a_manager_that_stops_in_its_transaction_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it answered for before is shown all the same; who waits to write waits a while."""
    world = World(tmp_path, sealer=CountingSealer())
    world.register()
    replica = world.open()
    store = replica._store
    world.publish()
    with (world.folder / "store.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        begun = time.monotonic()
        store.refresh()
        assert store.size == world.manager._store.size
        monkeypatch.setattr(anchor, "_WAIT_S", 0.1)
        with pytest.raises(HostError, match="another manager"):
            replica.register(stranger(world), "127.0.0.1")
        assert time.monotonic() - begun < 5
    replica.register(stranger(world), "127.0.0.1")
    replica.close()
    world.close()


def test_t15_what_another_is_about_to_answer_for_is_not_shown(tmp_path: Path) -> None:
    sealer = CountingSealer()
    world = World(tmp_path, sealer=sealer)
    world.register()
    replica_killed(world, sealer)
    store = world.manager._store
    size = store.size
    with (world.folder / "store.lock").open("rb") as held:  # as if it still had to move the counter
        fcntl.flock(held, fcntl.LOCK_EX)
        store.refresh()
        assert store.size == size
    store.refresh()
    assert store.size == size + 1
    world.close()


def test_nobody_is_answered_by_a_closed_store(world: World) -> None:
    world.register()
    replica = world.open()
    replica.close()
    store = replica._store
    store.heard.put({"host": 1})
    assert store.heard.of(["host"]) == {}
    for ask in (store.refresh, lambda: store.entry(0), lambda: store.challenge_used("x")):
        with pytest.raises(HostError, match="closed"):
            ask()
    with pytest.raises(HostError, match="closed"):
        replica.register(stranger(world), "127.0.0.1")


def test_a_store_is_not_closed_under_whoever_is_at_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite ends a process whose connection is closed under a statement."""
    replica = world.open()
    store = replica._store
    monkeypatch.setattr(store_module, "_CLOSE_S", 0.1)
    inside, go = threading.Event(), threading.Event()

    def slow(_: Any) -> int:
        inside.set()
        assert go.wait(10)
        return -2

    monkeypatch.setattr(tables, "data_version", slow)
    worker = threading.Thread(target=store.refresh)
    worker.start()
    assert inside.wait(10)
    store.close()
    assert not store._watch.closed
    go.set()
    worker.join(10)
    store.close()
    assert store._watch.closed
