"""What a lease may leave in the log (D1), and what is recorded whatever it left (T12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from managerworld import World, refused, sha
from svetovid.crypto import sign
from svetovid.manager import Door, Settings
from svetovid.manager.core import Bounds
from svetovid.manager.door import Admitted
from svetovid.protocol.messages import EvidenceRequest, Head, HeadUpdate
from svetovid.protocol.records import LogEntry


def restart(world: World, **settings: Any) -> None:
    world.settings = Settings(**settings)
    world.restart()


def entries(world: World) -> list[LogEntry]:
    store = world.manager._core.store
    return [store.entry(i) for i in range(store.size)]


class Running:
    """A job on a host of an operator whom nobody admitted."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.job = world.ready()
        self.host = world.host()
        self.lease = self.host.release(self.job).lease.id
        self.heads = 0

    def update(self, n: int) -> HeadUpdate:
        return HeadUpdate(
            manager=self.world.me,
            lease=self.lease,
            job=self.job,
            sequence=n,
            checkpoint=sha(b"checkpoint %d" % n),
            predecessor=sha(b"checkpoint %d" % (n - 1)) if n > 1 else None,
        )

    def save(self) -> Head:
        head = self.host.client.record_head(self.update(self.heads + 1), self.host.job_key)
        self.heads += 1
        return head

    def renew(self) -> None:
        self.host.renew(self.job, self.lease)

    def end(self) -> None:
        self.host.client.end_lease(self.lease, "given", self.host.job_key)

    def again(self) -> None:
        self.lease = self.host.release(self.job).lease.id

    def refused(self, act: Callable[[], Any]) -> str:
        """The code with which ``act`` is refused, having written nothing."""
        before = len(entries(self.world))
        code = refused(act).code
        assert len(entries(self.world)) == before
        return code


@pytest.fixture
def running(world: World) -> Running:
    return Running(world)


def room(documents: int = 1000, size: int = 64 << 20) -> dict[str, Any]:
    return {"stranger": Bounds(documents=documents, bytes=size)}


# -- in all


def test_d1_a_strangers_leases_leave_no_more_than_its_documents(
    world: World, running: Running
) -> None:
    """D1: whoever is owner, operator and host at once writes without anybody's leave."""
    restart(world, **room(3))
    running.save()
    running.renew()
    for act in (running.save, running.renew):
        assert running.refused(act) == "store.quota"
    running.end()
    assert running.refused(running.again) == "store.quota"
    restart(world, **room(4))  # counted as before
    running.again()
    assert running.refused(running.save) == "store.quota"
    restart(world)
    running.save()


@pytest.mark.parametrize("who", ["operator", "carol"])
def test_whoever_was_admitted_does_not_notice(world: World, running: Running, who: str) -> None:
    """Neither on its own machine nor, as a job's proposer, on one that it chose."""
    restart(world, **room(0, 0))
    assert running.refused(running.save) == "store.quota"
    person = getattr(world, who)
    world.door = Door(admitted=(Admitted(name=who, key=person.key_id),))
    running.save()
    running.renew()
    running.end()
    running.again()


def test_d1_bytes_are_counted_and_what_owners_are_told(world: World, running: Running) -> None:
    """D1: many owners make a long record of each renewal; of each one's part, in steps."""
    restart(world, **room(size=128 << 10))
    running.renew()
    assert running.refused(running.renew) == "store.quota"
    assert [e.body["bytes"] for e in entries(world) if e.kind in ("release", "renewal")] == [
        64 << 10
    ] * 2
    root = world.operator.key_id
    state = world.manager._core.state
    recorded = sum(len(e.canonical()) for e in entries(world) if e.kind in ("release", "renewal"))
    assert state.leased_bytes[root] == recorded + (128 << 10)
    before = state.leased_bytes[root]
    running.end()  # counted with its release, but for its bytes
    assert state.leased[root] == 2
    assert state.leased_bytes[root] == before + len(entries(world)[-1].canonical())


def test_d1_a_new_key_has_no_new_room(world: World) -> None:
    world.register()
    world.publish()
    world.seal()
    first = world.operator
    world.operator, rotation = first.rotate(world.now)
    world.put_policies(operators=(first.key_id, world.operator.key_id))
    job, other = world.propose(), world.propose()
    new, world.operator = world.operator, first
    host = world.host()
    host.release(job)
    world.clients["operator"].rotate(rotation)
    world.operator = new
    second = world.host("host-2")
    restart(world, **room(1))
    assert refused(second.release, other).code == "store.quota"
    restart(world, **room(2))
    second.release(other)
    assert world.manager._core.state.leased == {first.key_id: 2}


def test_d1_standings_are_counted_with_their_bytes(world: World) -> None:
    world.register()
    host = world.host()
    restart(world, **room(size=100))
    host.attest()
    world.now += 1
    host.tpm.pcrs[10] = bytes(32)
    assert refused(host.attest).code == "ima.replay"
    assert [e.body["standing"] for e in entries(world) if e.kind == "standing"] == ["fresh"]


# -- what is recorded always


@pytest.fixture
def spent(world: World, running: Running) -> Running:
    restart(world, **room(0, 0))
    return running


def test_t12_the_end_of_a_lease_is_recorded(spent: Running) -> None:
    spent.end()
    assert entries(spent.world)[-1].kind == "lease-end"


def test_t12_a_restart_is_recorded(spent: Running) -> None:
    spent.host.tpm.reset()
    spent.host.boot()
    spent.host.attest(fresh=True)
    assert "restarted" in [e.body.get("why") for e in entries(spent.world)]


@pytest.mark.parametrize("role", ["attest", "renew"])
def test_t12_a_lease_is_taken_back(spent: Running, role: str) -> None:
    host = spent.host
    host.tpm.measure("/opt/evil.so", sha(b"evil"))
    if role == "attest":
        assert host.attest(fresh=True).lost == (spent.lease,)
    else:
        assert refused(spent.renew).code == "ima.unlisted"
    assert [e.body["lease"] for e in entries(spent.world) if e.kind == "refusal"] == [spent.lease]


def ends(world: World) -> list[LogEntry]:
    return [e for e in entries(world) if e.kind == "refusal" and "lease" in e.body]


def test_d1_an_end_is_charged_and_past_the_bound_owners_are_told_codes_alone(
    world: World, running: Running
) -> None:
    """D1: one job after the other, a stranger's hosts go bad; each end tells every owner why."""
    jobs = [world.propose() for _ in range(3)]
    hosts = [world.host(f"bad-{i}") for i in range(3)]
    restart(world, **room(size=250 << 10))
    root, state = world.operator.key_id, world.manager._core.state
    for host, job in zip(hosts, jobs, strict=True):
        before = state.leased_bytes[root]
        lease = host.release(job).lease.id
        host.tpm.measure("/opt/evil.so", sha(b"evil"))
        assert refused(host.renew, job, lease).code == "ima.unlisted"
        assert refused(host.renew, job, lease).code == "lease.none"
        two = (entries(world)[-2], entries(world)[-1])
        assert [e.kind for e in two] == ["release", "refusal"]
        grown = state.leased_bytes[root] - before
        assert grown == sum(len(e.canonical()) + int(str(e.body["bytes"])) for e in two)
        assert state.rejected_bytes[root] == 0
        if before + grown > 250 << 10:
            break
    *_, told, last = ends(world)
    assert (told.body["bytes"], last.body["bytes"]) == (64 << 10, 0)
    assert set(told.private) == {i.key_id for i in (world.alice, world.bob, world.carol)}
    assert (last.private, last.body["codes"]) == ({}, ["ima.unlisted"])


def test_d1_a_lease_ends_once_whatever_is_under_way(
    spent: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: of renewals that were begun at once, with no room, one writes."""
    world, host = spent.world, spent.host
    host.tpm.measure("/opt/evil.so", sha(b"evil"))
    late = host.evidence(host.client.challenge(host.host_id, spent.job, "renew"))
    second = EvidenceRequest(evidence=late, lease=spent.lease)
    freshness = world.manager._freshness
    prove = freshness.prove

    def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(freshness, "prove", prove)
        assert refused(world.manager._leasing.renew, second).code == "ima.unlisted"
        return prove(*args)

    monkeypatch.setattr(freshness, "prove", overtaken)
    this = host.evidence(host.client.challenge(host.host_id, spent.job, "renew"))
    assert refused(host.client.renew, spent.lease, this).code == "lease.none"
    assert len(ends(world)) == 1


# -- at a time


def test_d1_checkpoints_are_recorded_so_often(world: World, running: Running) -> None:
    """D1: beyond a burst at a pace, over all renewals of a lease; one that was recorded may be
    sent again."""
    restart(world, head_burst=2, head_s=10)
    for _ in range(2):
        head = running.save()
    assert running.refused(running.save) == "checkpoint.rate"
    update = sign(running.update(3), running.host.job_key).canonical()
    with httpx.Client(transport=world.transport, base_url="https://manager.test") as client:
        assert client.post("/v1/heads", content=update).status_code == 429
    assert running.host.client.record_head(running.update(2), running.host.job_key) == head
    world.now += 9
    running.renew()
    assert running.refused(running.save) == "checkpoint.rate"
    world.now += 1
    running.save()
    assert running.refused(running.save) == "checkpoint.rate"
    restart(world, head_burst=2, head_s=10)
    assert running.refused(running.save) == "checkpoint.rate"
    world.now -= 60  # a clock set back gives nothing, and takes no more than it gave
    restart(world, head_burst=4, head_s=10)
    running.save()
    running.end()
    running.again()
    running.save()


def test_t11_what_was_wrong_is_said_before_it_is_too_much(world: World, running: Running) -> None:
    restart(world, head_burst=0)
    wrong = running.update(2)
    act = running.host.client.record_head
    assert refused(act, wrong, running.host.job_key).code == "checkpoint.sequence"


# -- in memory


def test_d1_a_jobs_parties_are_in_memory_once(world: World, running: Running) -> None:
    """D1: 80 keys in each of a million entries would be most of what a manager holds."""
    for _ in range(3):
        running.save()
    restart(world)
    running.save()
    store = world.manager._core.store
    of_heads = [store.parties[i] for i, e in enumerate(entries(world)) if e.kind == "head"]
    assert len(of_heads) == 4
    assert len({id(p) for p in of_heads}) == 1
