"""A manager or replica that is stopped, or fails, between two steps, and what goes on beside it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from managerworld import World
from storeworld import CountingSealer, CrashError, put_back
from svetovid.crypto import Identity, sign
from svetovid.errors import HostError, IntegrityError, SvetovidError
from svetovid.manager import tables
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


def copy_now(world: World) -> Path:
    """The store of a world that runs, as whoever reads its disk has it."""
    copy = world.folder / "left.db"
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
    real, seen = store._replay, []

    def once(connection: sa.Connection, index: int, data: bytes) -> bytes:
        seen.append(index)
        if len(seen) == 2:
            raise sa.exc.OperationalError("disk I/O error", None, Exception())
        return real(connection, index, data)

    with monkeypatch.context() as m:
        m.setattr(store, "_replay", once)
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
