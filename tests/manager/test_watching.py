"""Hosts that attest at an interval: what they lose, and who notices when they fall silent (T12)."""

from __future__ import annotations

from typing import Any

import pytest

from managerworld import SoftHost, World, refused, sha
from svetovid.crypto import sign
from svetovid.evidence.documents import NO_JOB, Challenge
from svetovid.manager import Settings
from svetovid.manager.core import Bounds
from svetovid.manager.door import Admitted, Door
from svetovid.protocol.records import LogEntry

D = "sha256:" + "%064d"
LATE = 2 * Settings().interval_s + 1 + 1


def entries(world: World, *kinds: str) -> list[LogEntry]:
    store = world.manager._core.store
    found = [store.entry(i) for i in range(store.size)]
    return [e for e in found if e.kind in kinds]


def standings(world: World) -> list[object]:
    return [e.body["standing"] for e in entries(world, "standing")]


def restart(world: World, **settings: Any) -> None:
    world.settings = Settings(**settings)
    world.stop()
    world.start()


@pytest.fixture
def host(world: World) -> SoftHost:
    world.register()
    return world.host()


# -- standings


def test_a_host_that_attests_costs_no_record(world: World, host: SoftHost) -> None:
    answer = host.attest()
    assert (answer.interval, answer.lost, answer.codes) == (10, (), ())
    size = world.manager._core.store.size
    for _ in range(3):
        world.now += answer.interval
        answer = host.attest()
        world.manager.watching.tick()
    assert world.manager._core.store.size == size
    assert standings(world) == ["fresh"]
    (entry,) = entries(world, "standing")
    assert set(entry.parties) == {world.operator.key_id, host.agent.key_id}
    found = world.clients["operator"].standing(host.host_id)
    assert (found.standing, found.heard_at) == ("fresh", world.now)


def test_an_overdue_host_is_a_state_and_an_event(world: World, host: SoftHost) -> None:
    client = world.clients["operator"]
    assert client.standing(host.host_id).standing is None
    world.now += LATE
    host.attest()
    world.now += LATE - 1
    world.manager.watching.tick()
    assert client.standing(host.host_id).standing == "fresh"
    world.now += 1
    for _ in range(2):
        world.manager.watching.tick()
    assert client.standing(host.host_id).standing == "overdue"
    host.attest(fresh=True)
    assert standings(world) == ["fresh", "overdue", "fresh"]
    assert refused(client.standing, D % 1).code == "read.denied"


def test_a_push_while_others_are_counted_is_heard(
    world: World, host: SoftHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many hosts may be overdue at once, and each takes a commit: one may come back meanwhile."""
    world.now += LATE
    host.attest()
    world.now += LATE
    table = world.manager._core.store.heard
    real = table.of

    def meanwhile(hosts: Any) -> Any:
        found = real(hosts)
        host.attest(fresh=True)
        return found

    monkeypatch.setattr(table, "of", meanwhile)
    world.manager.watching.tick()
    assert standings(world) == ["fresh"]


def test_nobody_is_overdue_for_the_managers_own_absence(world: World, host: SoftHost) -> None:
    host.attest()
    world.manager.watching.tick()
    world.now += 1000
    restart(world)
    world.manager.watching.tick()
    world.now += LATE - 1
    world.manager.watching.tick()
    assert standings(world) == ["fresh"]
    host.next = None
    host.attest()
    assert standings(world) == ["fresh"]
    world.now += LATE
    world.manager.watching.tick()
    assert standings(world) == ["fresh", "overdue"]


def test_two_managers_over_one_store(world: World, host: SoftHost) -> None:
    """A host pushes to one of them; the other sees that it does, and both name one event."""
    replica = world.open()
    world.now += LATE
    host.attest()
    world.manager.watching.tick()
    world.now += LATE - 1
    replica.watching.tick()
    assert replica.watching.standing(host.host_id).heard_at == world.now - LATE + 1
    assert standings(world) == ["fresh"]
    world.now += 1
    replica.watching.tick()
    world.manager.watching.tick()
    assert standings(world) == ["fresh", "overdue"]
    replica.close()


def test_d1_standings_take_room_as_refusals_do(world: World, host: SoftHost) -> None:
    """D1: a stranger's host that flaps does not fill the disk."""
    restart(world, stranger=Bounds(documents=3, bytes=64 << 20))
    for _ in range(4):
        world.now += LATE
        host.attest(fresh=True)
        world.now += LATE
        world.manager.watching.tick()
    assert standings(world) == ["fresh", "overdue", "fresh"]


class Turns:
    """How often anybody waited for a turn to write."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        store = world.manager._core.store
        real = store.write

        def write() -> Any:
            self.count += 1
            return real()

        monkeypatch.setattr(store, "write", write)


def test_d1_a_silent_host_costs_no_write_a_second(
    world: World, host: SoftHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: where there is no room for a record of it, it is told to whoever asks."""
    restart(world, stranger=Bounds(documents=1, bytes=64 << 20))
    world.now += LATE
    host.attest(fresh=True)
    client = world.clients["operator"]
    turns = Turns(world, monkeypatch)
    world.now += LATE
    for _ in range(3):
        world.manager.watching.tick()
        world.now += 1
    assert client.standing(host.host_id).standing == "overdue"
    host.attest(fresh=True)
    assert client.standing(host.host_id).standing == "fresh"
    host.tpm.pcrs[10] = bytes(32)
    for _ in range(2):
        assert refused(host.attest, fresh=True).code == "ima.replay"
    assert client.standing(host.host_id).standing == "refused"
    assert (standings(world), turns.count) == (["fresh"], 0)


def test_d1_what_could_not_be_recorded_is_in_a_while(world: World, host: SoftHost) -> None:
    """Room is not looked for each second, and is found."""
    restart(world, stranger=Bounds(documents=1, bytes=64 << 20))
    world.now += LATE
    host.attest(fresh=True)
    world.now += LATE
    world.manager.watching.tick()
    world.door = Door(admitted=(Admitted(name="operator", key=world.operator.key_id),))
    world.now += 599
    world.manager.watching.tick()
    assert standings(world) == ["fresh"]
    world.now += 1
    world.manager.watching.tick()
    assert standings(world) == ["fresh", "overdue"]
    assert world.clients["operator"].standing(host.host_id).standing == "overdue"


def test_d1_a_host_that_is_back_is_missed_again(world: World, host: SoftHost) -> None:
    """Whatever is on the record: fresh is what it is while it is heard of."""
    restart(world, stranger=Bounds(documents=2, bytes=64 << 20))
    client = world.clients["operator"]
    for recorded in (["fresh", "overdue"], ["fresh", "overdue"]):
        world.now += LATE
        host.attest(fresh=True)
        assert client.standing(host.host_id).standing == "fresh"
        world.now += LATE
        world.manager.watching.tick()
        assert client.standing(host.host_id).standing == "overdue"
        assert standings(world) == recorded


def test_a_host_that_went_to_another_manager_is_not_silent(world: World, host: SoftHost) -> None:
    """Neither to whoever asks here, nor when it falls silent there."""
    restart(world, stranger=Bounds(documents=1, bytes=64 << 20))
    world.now += LATE
    host.attest(fresh=True)
    world.manager.watching.tick()
    replica, first = world.open(), world.manager
    world.now += LATE
    first.watching.tick()
    assert first.watching.standing(host.host_id).standing == "overdue"
    world.now += 1
    replica._core.store.heard.put({host.host_id: world.now})
    found = first.watching.standing(host.host_id)
    assert (found.standing, found.heard_at) == ("fresh", world.now)
    replica.close()


def test_d1_hosts_that_others_heard_of_take_no_turn(
    world: World, host: SoftHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = world.open()
    world.now += LATE
    host.attest()
    world.manager.watching.tick()
    turns = Turns(world, monkeypatch)
    world.now += LATE
    replica._core.store.heard.put({host.host_id: world.now})
    world.manager.watching.tick()
    assert (standings(world), turns.count) == (["fresh"], 0)
    replica.close()


def test_d1_of_one_device_one_host_stands(world: World, host: SoftHost) -> None:
    """D1: whoever enrols a machine anew and anew has one more host id each time, and one to
    watch over; evidence under an older one is no standing."""
    older = SoftHost(world, host.name, host.tpm, agent=host.agent)
    older.host_id = host.host_id
    client = world.clients["operator"]
    host.attest()
    for _ in range(3):
        world.now += 1
        host.enrol(issued_at=world.now)
        assert client.standing(older.host_id).standing is None
        host.attest(fresh=True)
    assert list(world.manager._core.state.standings) == [host.host_id]
    size = world.manager._core.store.size
    older.attest(fresh=True)
    world.now += LATE
    world.manager.watching.tick()
    assert client.standing(older.host_id).standing is None
    assert client.standing(host.host_id).standing == "overdue"
    assert world.manager._core.store.size == size + 1
    restart(world)
    assert list(world.manager._core.state.standings) == [host.host_id]


def test_a_host_that_is_enrolled_anew_meanwhile(
    world: World, host: SoftHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = SoftHost(world, host.name, host.tpm, agent=host.agent)
    older.host_id = host.host_id
    rejecting = world.manager._rejecting
    real = rejecting.room

    def meanwhile(*args: Any) -> bool:
        if older.host_id == host.host_id:
            world.now += 1
            host.enrol(issued_at=world.now)
        return real(*args)

    monkeypatch.setattr(rejecting, "room", meanwhile)
    older.attest()
    assert standings(world) == []


def test_d1_room_that_is_taken_meanwhile(
    world: World, host: SoftHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    restart(world, stranger=Bounds(documents=0, bytes=0))
    rejecting = world.manager._rejecting
    real, before = rejecting.room, iter([True])
    world.manager._core.state.rejected_at[world.operator.key_id] = world.now
    monkeypatch.setattr(rejecting, "room", lambda *args: next(before, False) or real(*args))
    host.attest()
    assert standings(world) == []


# -- evidence


def test_f8_each_evidence_answers_its_own_challenge_once(world: World, host: SoftHost) -> None:
    challenge = host.client.challenge(host.host_id, NO_JOB, "attest")
    evidence = host.evidence(challenge)
    host.client.attest(evidence)
    assert refused(host.client.attest, evidence).code == "challenge.unknown"


def test_f8_evidence_at_an_interval_counts_in_one_process(world: World, host: SoftHost) -> None:
    """F8: its use is not written down, so neither a replica nor a new process may take it."""
    challenge = host.client.challenge(host.host_id, NO_JOB, "attest")
    evidence = host.evidence(challenge)
    host.client.attest(evidence)
    restart(world)
    assert refused(host.client.attest, evidence).code == "challenge.unknown"


def test_k2_a_role_for_each_purpose(world: World) -> None:
    """K2: evidence at an interval releases nothing; a job's evidence is no host's standing."""
    job = world.ready()
    host = world.host()
    ask = host.client.challenge
    assert refused(ask, host.host_id, job, "attest").code == "challenge.scope"
    assert refused(ask, host.host_id, NO_JOB, "release").code == "challenge.scope"
    evidence = host.evidence(ask(host.host_id, NO_JOB, "attest"))
    assert refused(host.client.release, evidence).code == "challenge.scope"
    evidence = host.evidence(ask(host.host_id, job, "release"))
    assert refused(host.client.attest, evidence).code == "challenge.scope"


def test_only_the_new_part_of_the_log_is_sent(world: World) -> None:
    """Of hosts that somebody let in, or that hold a lease; of others nothing is kept."""
    job = world.ready()
    host = world.host()
    answer = host.attest()
    assert answer.challenge.peek(Challenge).log_offset == 0
    host.release(job)
    answer = host.attest(fresh=True)
    assert answer.challenge.peek(Challenge).log_offset == len(host.tpm.entries)
    host.tpm.measure("/usr/lib/extra.so", sha(b"extra"))
    answer = host.attest()
    assert answer.challenge.peek(Challenge).log_offset == len(host.tpm.entries)


def test_f9_a_boot_that_was_over_does_not_come_back(world: World, host: SoftHost) -> None:
    host.attest()
    host.tpm.reset()
    host.boot()
    host.attest(fresh=True)
    host.tpm.reset_count -= 1
    e = refused(host.attest, fresh=True)
    assert e.code == "tpm.clock_rollback"
    assert standings(world) == ["fresh", "refused"]


def test_evidence_that_does_not_hold_is_a_standing(world: World, host: SoftHost) -> None:
    host.attest()
    world.now += 10
    host.tpm.pcrs[10] = bytes(32)
    assert refused(host.attest).code == "ima.replay"
    (_, entry) = entries(world, "standing")
    assert (entry.body["standing"], entry.body["codes"]) == ("refused", ["ima.replay"])
    assert refused(host.attest, fresh=True).code == "ima.replay"
    assert standings(world) == ["fresh", "refused"]


# -- leases


def test_t12_a_host_that_goes_bad_loses_its_lease_at_its_next_push(world: World) -> None:
    """T12: not only when its renewal is due."""
    job = world.ready()
    host = world.host()
    lease = host.release(job).lease.id
    assert host.attest(fresh=True).lost == ()
    world.now += 10
    host.tpm.measure("/opt/evil.so", sha(b"evil"))
    answer = host.attest()
    assert answer.lost == (lease,)
    assert answer.codes == ("ima.unlisted",)
    (entry,) = entries(world, "refusal")
    assert entry.body["lease"] == lease
    assert {world.alice.key_id, world.operator.key_id} <= set(entry.parties)
    told = world.clients["alice"].records(0, 1000).records
    mine = next(r for r in told if r.entry == entry)
    assert mine.private is not None
    assert "/opt/evil.so" in str(mine.private.to_json())
    assert refused(host.renew, job, lease).code == "lease.none"
    world.now += 10
    assert host.attest().lost == (lease,)  # again, for an agent that lost the answer
    assert len(entries(world, "refusal")) == 1


def test_t12_evidence_that_proves_nothing_costs_the_lease_too(world: World) -> None:
    job = world.ready()
    host = world.host()
    lease = host.release(job).lease.id
    host.attest(fresh=True)
    host.tpm.pcrs[10] = bytes(32)
    assert refused(host.attest).code == "ima.replay"
    (entry,) = entries(world, "refusal")
    assert entry.body["lease"] == lease
    (_, standing) = entries(world, "standing")
    assert world.alice.key_id in standing.parties
    assert refused(host.renew, job, lease).code == "lease.none"


def test_t12_a_policy_that_was_changed_takes_the_lease_back(world: World) -> None:
    """K5, V12: an owner who stops a job need not wait for its host to ask for more time."""
    job = world.ready()
    host = world.host()
    lease = host.release(job).lease.id
    assert host.attest().lost == ()
    first = world.policies["alice"]
    policy = world.policy_of(
        world.alice, sequence=2, predecessor=first.digest(), operators=(world.bob.key_id,)
    )
    world.clients["alice"].put_policy(sign(policy, world.alice))
    answer = host.attest()
    assert answer.lost == (lease,)
    assert set(answer.codes) == {"policy.host", "consent.stale"}


def test_t12_a_restarted_machine_frees_its_job(world: World) -> None:
    """T12: whoever held the lease is gone with the boot it was given to."""
    job = world.ready()
    host, other = world.host(), world.host("host-2")
    host.release(job)
    assert refused(other.release, job).code == "job.live"
    host.tpm.reset()
    host.boot()
    assert host.attest(fresh=True).lost == ()
    (entry,) = entries(world, "lease-end")
    assert entry.body["why"] == "restarted"
    other.release(job)
