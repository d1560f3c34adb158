"""When hosts were heard of: kept apart from the store, and nothing lost with it (A6)."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from managerworld import SoftHost, World, sha
from svetovid.manager.heard import Heard

FULL = 2


@pytest.fixture
def synchronous() -> Iterator[set[int]]:
    """What stood for ``PRAGMA synchronous`` whenever a connection to a store committed."""
    seen: set[int] = set()

    def committing(connection: sa.Connection) -> None:
        raw = connection.connection.driver_connection
        assert raw is not None
        seen.add(raw.execute("PRAGMA synchronous").fetchone()[0])

    event.listen(sa.Engine, "commit", committing)
    yield seen
    event.remove(sa.Engine, "commit", committing)


@pytest.fixture
def host(world: World) -> SoftHost:
    world.register()
    return world.host()


def test_a6_every_commit_to_the_store_is_on_the_disk(world: World, synchronous: set[int]) -> None:
    """A6: of one file, whoever commits without waiting takes along what others waited for."""
    job = world.ready()
    host = world.host()
    host.attest()
    world.manager.watching.tick()
    host.release(job)
    assert synchronous == {FULL}


def test_a6_hosts_that_are_heard_of_take_no_decision_away(world: World, tmp_path: Path) -> None:
    """A6: a power cut. What nobody waited for is lost: of the store's file all that was not
    synced, of its write-ahead log nothing, since each commit waited for that."""
    job = world.ready()
    host = world.host()
    store = world.manager._core.store
    synced = shutil.copy(world.store, tmp_path / "synced")
    for now in range(400):
        store.heard.put({sha(b"%d" % n): now for n in range(200)})
    assert host.release(job).keys
    size = store.size
    after = tmp_path / "after"
    after.mkdir()
    shutil.copy(synced, after / "store.db")
    shutil.copy(f"{world.store}-wal", after / "store.db-wal")
    world.stop()
    world.store = after / "store.db"
    world.start()
    assert world.manager._core.store.size == size


@pytest.mark.parametrize("broken", ["missing", "cut", "scribbled", "another's", "not a file"])
def test_what_is_lost_is_made_anew(world: World, host: SoftHost, broken: str) -> None:
    """It may be lost; nobody is refused for it."""
    store = world.manager._core.store
    store.heard.put({sha(b"%d" % n): 1 for n in range(1000)})
    path = world.folder / "store.heard"
    world.stop()
    content = path.read_bytes()
    if broken == "missing":
        path.unlink()
    elif broken == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif broken == "scribbled":
        path.write_bytes(content[:100] + b"\xff" * 8000 + content[8100:])
    elif broken == "another's":
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE heard (what TEXT)")
    else:
        path.unlink()
        path.mkdir()
    world.start()
    host.attest()
    world.manager.watching.tick()
    assert world.manager.watching.standing(host.host_id).heard_at == world.now
    replica = world.open()
    heard = replica.watching.standing(host.host_id).heard_at
    assert heard == (None if broken == "not a file" else world.now)
    replica.close()


def test_managers_over_one_store_share_one_file(world: World, host: SoftHost) -> None:
    """Also one that was made anew under their hands."""
    replica = world.open()
    host.attest()
    world.manager.watching.tick()
    assert replica.watching.standing(host.host_id).heard_at == world.now
    for path in world.folder.glob("store.heard*"):
        path.unlink()
    assert replica.watching.standing(host.host_id).heard_at is None
    host.attest()
    world.manager.watching.tick()
    assert replica.watching.standing(host.host_id).heard_at == world.now
    replica.close()


def test_what_another_heard_later_stays(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    one, other = Heard(tmp_path / "store.db"), Heard(tmp_path / "store.db")
    many = {sha(b"%d" % n): n for n in range(1200)}
    one.put(many)
    other.put(dict.fromkeys(many, 600))
    assert one.of([*many, sha(b"nobody")]) == {h: max(n, 600) for h, n in many.items()}
    one.close()
    other.close()


def test_it_is_as_private_as_the_store(world: World, host: SoftHost) -> None:
    world.stop()
    for path in world.folder.glob("store.heard*"):
        path.unlink()
    world.store.chmod(0o640)
    world.start()
    host.attest()
    world.manager.watching.tick()
    modes = {p.name: p.stat().st_mode & 0o777 for p in world.folder.glob("store.heard*")}
    assert modes["store.heard"] == 0o640
    assert set(modes.values()) == {0o640}
