"""Only the recorded checkpoint is gone on from, by one instance at a time (T11)."""

from __future__ import annotations

import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentworld import World, trained
from svetovid.crypto import Secret, canonical
from svetovid.errors import HostError, IntegrityError, ParseError, SvetovidError
from svetovid.host import checkpoints
from svetovid.host.checkpoints import CheckpointStore

Make = Callable[..., World]


def refused(world: World, **changes: Any) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        world.run(**changes)
    return e.value


class _CrashError(BaseException):
    """Nobody handles it, like kill -9; leases are left to run out."""


def crash(world: World, monkeypatch: pytest.MonkeyPatch, *, head: int, recorded: bool) -> None:
    """Run until checkpoint ``head`` was written (and recorded), then fall over."""
    gate = world.data_house.gate
    heads = [0]

    def count(request: httpx.Request) -> None:
        if request.url.path == "/v1/heads":
            heads[0] += 1
            if heads[0] == head:
                raise _CrashError

    with monkeypatch.context() as m:
        m.setattr("svetovid.host.agent._Run._give_back", lambda *_: None)
        m.setattr(gate, "after" if recorded else "tap", count)
        with pytest.raises(_CrashError):
            world.run()


def release(world: World) -> None:
    """Let the crashed instance's lease run out at the manager."""
    world.data_house.ahead += world.lease_s + 1


@pytest.mark.parametrize("recorded", [False, True])
def test_t11_a_crash_around_a_checkpoint_resumes_to_the_same_end(
    make: Make, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    world = make()
    crash(world, monkeypatch, head=3, recorded=recorded)
    assert (world.out / "train.checkpoint.3").exists()
    error = refused(world)
    assert error.code == "job.live"
    release(world)
    status = world.data_house.client(world.carol).job(world.job.digest())
    assert status.head is not None
    assert status.head.sequence == (3 if recorded else 2)
    outcome = world.run()
    assert world.answer(outcome) == trained()
    assert world.verify(world.bundle_of(outcome, world.data_house)).resumes == 1
    assert not list(world.out.glob("*.checkpoint*"))


def test_t11_an_older_a_foreign_and_no_checkpoint_are_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    saved = world.folder / "saved"
    saved.mkdir()
    save = CheckpointStore.save

    def keep(self: Any, data: bytes) -> Any:
        head = save(self, data)
        for path in world.out.glob(f"*.checkpoint.{head.sequence}*"):
            shutil.copy(path, saved)
        return head

    monkeypatch.setattr(CheckpointStore, "save", keep)
    crash(world, monkeypatch, head=3, recorded=True)
    release(world)
    place = world.out / "train.checkpoint.3"
    note = place.with_name(place.name + ".manifest.json")
    whole = place.read_bytes(), note.read_bytes()

    def put_back(container: bytes | None, manifest: bytes | None) -> None:
        for path, data in ((place, container), (note, manifest)):
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)

    older = [(saved / f"train.checkpoint.2{s}").read_bytes() for s in ("", ".manifest.json")]
    put_back(*older)
    assert refused(world).code == "checkpoint.head"
    put_back(older[0], whole[1])
    assert refused(world).code.startswith("asset.")
    put_back(whole[0], None)
    assert refused(world).code == "checkpoint.missing"
    put_back(None, whole[1])
    assert refused(world).code == "checkpoint.missing"
    put_back(whole[0][:-1] + bytes([whole[0][-1] ^ 1]), whole[1])
    assert refused(world).code.startswith("asset.")

    other = world.propose(name="train", seed=1)
    monkeypatch.setattr("svetovid.host.agent._Run._give_back", lambda *_: None)
    put_back(*whole)
    assert world.answer(world.run()) == trained()
    assert other.digest() != world.job.digest()


def test_t11_a_second_live_instance_is_refused(make: Make) -> None:
    world = make(job_changes={"parameters": {"pause": 100}})
    first = world.home, world.agent
    world.make_host("another")
    another = world.home, world.agent
    world.home, world.agent = first
    second: list[str] = []

    def tap(request: httpx.Request) -> None:
        if request.url.path == "/v1/heads" and not second:
            second.append("")
            gate.tap = lambda _: None
            world.home, world.agent = another
            thread = threading.Thread(target=lambda: second.append(refused(world).code))
            thread.start()
            second_thread.append(thread)

    gate = world.data_house.gate
    second_thread: list[threading.Thread] = []
    gate.tap = tap
    world.run()
    second_thread[0].join()
    assert second == ["", "job.live"]


def test_leftovers_of_a_crash_before_the_end_are_replaced(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    gate = world.data_house.gate

    def fall(request: httpx.Request) -> None:
        if request.url.path == "/v1/finishes":
            raise _CrashError

    with monkeypatch.context() as m:
        m.setattr("svetovid.host.agent._Run._give_back", lambda *_: None)
        m.setattr(gate, "tap", fall)
        with pytest.raises(_CrashError):
            world.run()
    left = (world.out / "train.answer.sealed").read_bytes()
    release(world)
    outcome = world.run()
    assert (world.out / "train.answer.sealed").read_bytes() != left
    assert world.answer(outcome) == trained()
    assert world.verify(world.bundle_of(outcome, world.data_house)).affirmed


# -- the store by itself


@pytest.fixture
def world(make: Make) -> World:
    return make()


@pytest.fixture
def store(world: World) -> CheckpointStore:
    return CheckpointStore(f"file://{world.out}/c", world.job, Secret.random(32), None)


def again(store: CheckpointStore, **changes: Any) -> CheckpointStore:
    fields = {"job": store._job, "key": store._key, "head": store.head}
    return CheckpointStore(store._prefix, **(fields | changes))


def test_t11_a_checkpoint_comes_back_as_it_was(store: CheckpointStore) -> None:
    assert store.load() is None
    store.clear()
    for data in (b"one", b"", b"three" * 100_000):
        store.recorded(store.save(data))
        assert again(store).load() == data
    assert store.head is not None
    assert store.head.sequence == 3
    store.clear()
    with pytest.raises(HostError) as e:
        store.load()
    assert e.value.code == "checkpoint.missing"


def test_t11_what_a_crash_left_behind_the_head_is_removed(
    store: CheckpointStore, world: World
) -> None:
    store.recorded(store.save(b"one"))
    head = store.save(b"two")  # recorded at the manager; the host fell over before it knew
    resumed = again(store, head=head)
    assert resumed.load() == b"two"
    assert (world.out / "c.1").exists()  # until every manager has the second
    resumed.recorded(head)
    assert not (world.out / "c.1").exists()
    assert resumed.load() == b"two"


def test_t11_a_checkpoint_of_another_job_is_refused(store: CheckpointStore) -> None:
    """Even under the same key and with a head that names it."""
    store.recorded(store.save(b"data"))
    other = store._job.model_copy(update={"seed": 1})
    with pytest.raises(IntegrityError) as e:
        again(store, job=other).load()
    assert e.value.code == "checkpoint.head"
    with pytest.raises(IntegrityError) as e:
        again(store, key=Secret.random(32)).load()
    assert e.value.code.startswith("asset.")


def lengths(world: World, sequence: int) -> tuple[int, int]:
    """How long the files of a checkpoint are, as their operator sees them."""
    place = world.out / f"c.{sequence}"
    note = place.with_name(place.name + ".manifest.json")
    return place.stat().st_size, note.stat().st_size


def test_t10_the_length_of_a_checkpoint_says_nothing_below_a_step(
    store: CheckpointStore, world: World
) -> None:
    """T10: the job's code chooses how much it saves; its operator must not read that."""
    step = store._job.limits.checkpoint_step_bytes
    assert step == 1 << 20
    seen = set()
    store.recorded(store.save(b"first"))  # its manifest names no predecessor
    for data in (b"", b"x", bytes(1000), bytes(step - 2000)):
        store.recorded(store.save(data))
        assert store.head is not None
        seen.add(lengths(world, store.head.sequence))
        assert again(store).load() == data
    assert len(seen) == 1


def test_t10_lengths_only_rise_also_over_resumes(store: CheckpointStore, world: World) -> None:
    """T10: a run that could shrink and grow again would be telling something each time."""
    step = store._job.limits.checkpoint_step_bytes
    store.recorded(store.save(b"small"))
    small, _ = lengths(world, 1)
    store.recorded(store.save(bytes(step)))
    large, _ = lengths(world, 2)
    assert step < large - small < 2 * step
    store.recorded(store.save(b"small"))
    assert lengths(world, 3)[0] == large
    resumed = again(store)
    assert resumed.load() == b"small"
    resumed.recorded(resumed.save(b"smaller"))
    assert lengths(world, 4)[0] == large


def test_t10_a_job_may_agree_on_wider_steps(store: CheckpointStore, world: World) -> None:
    limits = store._job.limits.model_copy(update={"checkpoint_step_bytes": 3 << 20})
    wide = again(store, job=store._job.model_copy(update={"limits": limits}))
    for sequence, data in enumerate((b"", bytes(2 << 20)), start=1):
        wide.recorded(wide.save(data))
        assert lengths(world, sequence)[0] > 3 << 20
    assert lengths(world, 2)[0] < 4 << 20


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff\xff\xff\xff",
        b"\x10\0\0\0{}",
        struct.pack("<IQ", 4097, 0) + bytes(5000),
        struct.pack("<IQ", 2, 1) + b"{}",
        struct.pack("<IQ", 2, 2**63) + b"{}" + bytes(100),
    ],
)
def test_t11_a_checkpoint_without_its_header_is_refused(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, header: bytes
) -> None:
    real = checkpoints.seal_stream
    monkeypatch.setattr(checkpoints, "seal_stream", lambda url, _, **k: real(url, [header], **k))
    store.recorded(store.save(b"data"))
    monkeypatch.undo()
    with pytest.raises(ParseError) as e:
        store.load()
    assert e.value.code == "checkpoint.header"


def test_t11_a_header_of_another_sequence_is_refused(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CheckpointStore._header
    with monkeypatch.context() as m:
        m.setattr(CheckpointStore, "_header", lambda self, s, p: real(self, s + 1, p))
        store.recorded(store.save(b"data"))
    with pytest.raises(IntegrityError) as e:
        store.load()
    assert e.value.code == "checkpoint.head"


def test_t11_an_unreadable_manifest_is_our_error(store: CheckpointStore) -> None:
    store.recorded(store.save(b"data"))
    note = Path(store._prefix.removeprefix("file://") + ".1.manifest.json")
    for bad in (b"", b"[]", canonical({"a": 1}), b"\xff" * 100, note.read_bytes()[:-3]):
        note.write_bytes(bad)
        with pytest.raises(SvetovidError):
            store.load()
    note.unlink()
    note.mkdir()
    with pytest.raises(SvetovidError):
        store.load()
