"""What a manager keeps, on its disk and in memory, is bounded whatever somebody sends (D1)."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from managerworld import SoftHost, World, refused, sha
from svetovid.crypto import Identity, sign
from svetovid.evidence.documents import NO_JOB
from svetovid.manager import Door, Settings
from svetovid.manager import store as store_module
from svetovid.manager import transaction as transaction_module
from svetovid.manager.cache import Cache
from svetovid.manager.core import Bounds
from svetovid.manager.door import Admitted
from svetovid.policy import consents as consents_module
from svetovid.policy.documents import Consent, Export, Import
from svetovid.protocol.records import LogEntry


def refusals(world: World) -> list[LogEntry]:
    store = world.manager._core.store
    entries = [store.entry(i) for i in range(store.size)]
    return [e for e in entries if e.kind == "refusal"]


def restart(world: World, **settings: Any) -> None:
    world.settings = Settings(**settings)
    world.stop()
    world.start()


def spoiled(world: World) -> SoftHost:
    """A host that measured what nobody approved."""
    host = world.host()
    host.tpm.measure("/opt/evil.so", sha(b"evil"))
    return host


def used(world: World) -> int:
    with world.manager._core.store._engine.connect() as connection:
        return len(connection.execute(store_module.sa.select(store_module.t.used)).all())


# -- refusals of evidence


def test_d1_a_host_that_is_refused_on_and_on(world: World) -> None:
    """D1: past its operator's bound it is told why, and its challenge is used up, but no more."""
    job = world.ready()
    host = spoiled(world)
    restart(world, stranger=Bounds(documents=2, bytes=64 << 20))
    for _ in range(4):
        assert refused(host.release, job).code.startswith("ima.")
    assert len(refusals(world)) == 2
    assert used(world) == 4
    restart(world, stranger=Bounds(documents=2, bytes=64 << 20))
    assert refused(host.release, job).code.startswith("ima.")
    assert len(refusals(world)) == 2
    world.now += 86_400  # it does not go on unseen
    for _ in range(2):
        assert refused(host.release, job).code.startswith("ima.")
    assert len(refusals(world)) == 3


def test_d1_what_owners_are_told_of_it_is_charged_too(world: World) -> None:
    """D1: many owners with many clauses make a long record, and whoever runs the host decides how
    often: in steps that tell no party what another's clauses look like."""
    job = world.ready()
    host = spoiled(world)
    restart(world, stranger=Bounds(documents=1000, bytes=132 << 10))
    for _ in range(4):
        assert refused(host.release, job).code.startswith("ima.")
    assert [e.body["bytes"] for e in refusals(world)] == [64 << 10] * 2


def test_a_refusal_that_ends_a_lease_is_recorded_all_the_same(world: World) -> None:
    """K4: else the lease of a host gone bad could be renewed by the next try."""
    job = world.ready()
    host = world.host()
    lease = host.release(job).lease.id
    restart(world, stranger=Bounds(documents=0, bytes=0))
    host.tpm.measure("/opt/evil.so", sha(b"evil"))
    assert refused(host.renew, job, lease).code.startswith("ima.")
    assert len(refusals(world)) == 1
    assert refused(host.renew, job, lease).code == "lease.none"


def test_d1_a_challenge_that_led_to_no_record_is_forgotten_as_it_expires(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: a row a request, for a day, counted to nobody, fills a disk; F8: used up all the same."""
    monkeypatch.setattr(transaction_module, "_FORGET_AT", "")
    job = world.ready()
    host = spoiled(world)
    restart(world, stranger=Bounds(documents=1, bytes=64 << 20))
    assert refused(host.release, job).code == "ima.unlisted"  # recorded: kept for a day
    for _ in range(3):
        evidence = host.evidence(host.client.challenge(host.host_id, job, "release"))
        assert refused(host.client.release, evidence).code == "ima.unlisted"
        assert refused(host.client.release, evidence).code == "challenge.used"
    world.now += world.settings.challenge_s
    assert refused(host.client.release, evidence).code == "challenge.expired"
    assert used(world) == 4
    world.now += 1
    assert refused(host.release, job).code == "ima.unlisted"
    assert used(world) == 2
    assert len(refusals(world)) == 1


# -- consents


def test_t5_two_consents_of_one_second_have_one_turn_each(world: World) -> None:
    """T5, D1: whoever saw both cannot swap them for ever."""
    job = world.ready()
    client = world.clients["alice"]
    first = world.manager._core.state.jobs[job].consents[world.alice.key_id]
    store = world.manager._core.store
    narrow = Consent(
        job=job,
        policy=world.policies["alice"].digest(),
        owner=world.alice.key_id,
        slots=("other",),
        issued_at=world.now,
    )
    client.consent(sign(narrow, world.alice))
    size = store.size
    assert world.manager._core.state.jobs[job].consents[world.alice.key_id] == narrow.digest()
    world.clients["bob"].consent(store.envelope(first))
    assert store.size == size
    restart(world)
    world.clients["bob"].consent(world.manager._core.store.envelope(first))
    assert world.manager._core.store.size == size


# -- receipts


def test_t13_nothing_is_released_that_no_receipt_could_hold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T13: a receipt brings the policies that imports rest on; too much of them, and it starts
    nothing instead of ending nothing."""
    world.ready()
    left = world.assets["left"]
    first = world.policies["alice"]
    (grant,) = first.grants
    given = Export.from_json(grant.to_json() | {"to": world.bob.key_id})
    more = {"sequence": 2, "predecessor": first.digest()}
    alices = world.policy_of(world.alice, exports=(given,), **more)
    world.clients["alice"].put_policy(sign(alices, world.alice))
    more = {"sequence": 2, "predecessor": world.policies["bob"].digest()}
    wanted = Import(policy=alices.digest(), asset=left.manifest)
    bobs = world.policy_of(world.bob, imports=(wanted,), **more)
    world.clients["bob"].put_policy(sign(bobs, world.bob))
    world.policies["bob"] = bobs
    job = world.propose(consent=False)
    said = {"job": job, "issued_at": world.now}
    by_bob = Consent(policy=bobs.digest(), owner=world.bob.key_id, slots=("left", "right"), **said)
    world.clients["bob"].consent(sign(by_bob, world.bob))
    world.consent(world.carol, job)
    host = world.host()
    size = max(-(-len(p.canonical()) // 3) * 4 for p in (alices, bobs)) + (8 << 10)
    monkeypatch.setattr(consents_module, "_MAX_IMPORT_BYTES", 2 * size - 1)
    assert refused(host.release, job).code == "receipt.policies"
    monkeypatch.setattr(consents_module, "_MAX_IMPORT_BYTES", 2 * size)
    lease = host.release(job).lease.id
    monkeypatch.setattr(consents_module, "_MAX_IMPORT_BYTES", 1)
    host.renew(job, lease)


# -- memory


def test_d1_a_log_is_kept_of_whom_somebody_trusted(world: World) -> None:
    """D1: a stranger's own device proves a log of a hundred megabytes; no owner said yes to it."""
    job = world.ready()
    host = spoiled(world)
    held = world.manager._freshness._logs
    assert refused(host.release, job).code.startswith("ima.")
    assert held.get(host.host_id) is None
    good = world.host("host-2")
    good.release(job)
    assert held.get(good.host_id) is not None


def test_d1_challenges_that_nobody_answers_are_forgotten(world: World) -> None:
    """D1: of any host: what was proven of its log hangs on each of them."""
    job = world.ready()
    host, other = world.host(), world.host("host-2")
    held = world.manager._freshness._open
    for _ in range(3):
        host.client.challenge(host.host_id, job, "release")
    assert set(held._open) == {host.host_id}
    world.now += 61
    other.client.challenge(other.host_id, job, "release")
    assert set(held._open) == {other.host_id}
    assert len(held._made) == 1
    world.now -= 30  # a clock set back: what it made of the future counts for nothing
    host.client.challenge(host.host_id, job, "release")
    assert set(held._open) == {host.host_id}


def test_a_clock_that_goes_on_meanwhile_is_none_set_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever read it first comes last: what another was given by then stays good."""
    world.register()
    host, other = world.host(), world.host("host-2")
    freshness = world.manager._freshness
    chance = secrets.token_bytes

    def slowly(size: int) -> bytes:
        monkeypatch.setattr(secrets, "token_bytes", chance)
        world.now += 1
        other.next = freshness.next(other.host_id)
        return chance(size)

    monkeypatch.setattr(secrets, "token_bytes", slowly)
    host.next = freshness.next(host.host_id)
    for one in (other, host):
        one.attest()


def test_d1_a_challenge_that_lives_longer_keeps_no_other_open(world: World) -> None:
    """D1: one for evidence at an interval, made first; those that expired before it are over."""
    job = world.ready()
    host = world.host()
    host.client.challenge(host.host_id, NO_JOB, "attest")
    for _ in range(world.settings.open_challenges - 1):
        host.client.challenge(host.host_id, job, "release")
    assert refused(host.client.challenge, host.host_id, job, "release").code == "challenge.limit"
    world.now += world.settings.challenge_s
    host.client.challenge(host.host_id, job, "release")
    assert len(world.manager._freshness._open._made) == 2


def test_a_cache_holds_so_much_and_no_more() -> None:
    cache: Cache[str, str] = Cache(10)
    cache.keep("a", "A", 4)
    cache.keep("b", "B", 4)
    assert cache.get("a") == "A"
    cache.keep("c", "C", 4)  # the one that was asked for longest ago goes
    assert [cache.get(k) for k in "abc"] == ["A", None, "C"]
    cache.keep("c", "new", 6)  # in the place of the old one
    assert [cache.get(k) for k in "ac"] == ["A", "new"]
    cache.keep("huge", "H", 11)
    assert [cache.get(k) for k in ("huge", "a", "c")] == [None, "A", "new"]
    for _ in range(2):
        cache.forget("c")
    cache.keep("d", "D", 6)
    assert [cache.get(k) for k in "acd"] == ["A", None, "D"]


def test_what_yields_takes_no_room_from_what_does_not() -> None:
    cache: Cache[str, str] = Cache(10)
    cache.keep("mine", "M", 4)
    cache.keep("a", "A", 3, yields=True)
    cache.keep("b", "B", 3, yields=True)
    assert cache.get("a") == "A"
    cache.keep("c", "C", 3, yields=True)  # of those, the one that was asked for longest ago goes
    assert [cache.get(k) for k in ("mine", "b", "a", "c")] == ["M", None, "A", "C"]
    cache.keep("large", "L", 6, yields=True)
    assert [cache.get(k) for k in ("mine", "a", "c")] == ["M", None, None]
    assert cache.get("large") == "L"
    cache.keep("also", "mine", 4)
    assert [cache.get(k) for k in ("mine", "also", "large")] == ["M", "mine", None]
    cache.keep("large", "L", 6, yields=True)  # there is no room for it
    assert [cache.get(k) for k in ("mine", "also", "large")] == ["M", "mine", None]
    cache.keep("a", "A", 2, yields=True)
    cache.keep("a", "mine too", 2)
    cache.keep("b", "B", 3, yields=True)
    assert [cache.get(k) for k in ("mine", "also", "a", "b")] == ["M", "mine", "mine too", None]


def test_d1_a_strangers_log_takes_no_room_from_whoever_was_admitted(world: World) -> None:
    """D1: any host that somebody trusts may have a long one."""
    world.register()
    known, world.operator = world.operator, Identity.generate("stranger")
    world.client(world.operator).register_identity(world.operator.signed_card())
    world.publish()
    world.seal()
    world.put_policies(operators=(known.key_id, world.operator.key_id))
    stranger = world.host("host-2")
    world.operator = known
    host = world.host()
    jobs = [world.propose(), world.propose()]
    world.door = Door(admitted=(Admitted(name="operator", key=known.key_id),))
    lease = host.release(jobs[0]).lease.id
    held = world.manager._freshness._logs
    restart(world, log_bytes=held._held + 1)
    held = world.manager._freshness._logs
    host.renew(jobs[0], lease)
    stranger.release(jobs[1])
    assert held.get(host.host_id) is not None
    assert held.get(stranger.host_id) is None


def test_documents_are_cached_by_their_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_CACHE_BYTES", 4096)
    world.ready()
    restart(world)
    store = world.manager._core.store
    for name in world.policies.values():
        store.document(name.digest(), type(name))
    assert 0 < store._envelopes._held <= 4096
    assert 0 < store._parsed._held <= 4096
