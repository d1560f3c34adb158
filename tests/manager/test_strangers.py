"""What strangers can do to a manager: little, and nothing to those it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from managerworld import SoftHost, World, fake_manifest, refused
from softtpm import SoftTpm
from svetovid.crypto import Identity, Secret, b64decode, sign
from svetovid.errors import HostError, LimitError
from svetovid.evidence.documents import TrustAnchors
from svetovid.manager import Door, Settings, admit, door_of
from svetovid.manager import admission as admission_module
from svetovid.manager import consenting as consenting_module
from svetovid.manager import enrolment as enrolment_module
from svetovid.manager.admission import _network
from svetovid.manager.core import Bounds
from svetovid.manager.door import Admitted
from svetovid.policy.documents import Consent
from svetovid.protocol import IdentityRegistration

D = "sha256:" + "%064d"


def restart(world: World, **settings: Any) -> None:
    world.settings = Settings(**settings)
    world.stop()
    world.start()


def admitted(*people: Identity) -> tuple[Admitted, ...]:
    return tuple(Admitted(name=p.name, key=p.key_id) for p in people)


def knock(world: World, who: Identity, source: str = "192.0.2.1") -> None:
    message = IdentityRegistration(card=who.signed_card(), manager=world.me, issued_at=world.now)
    world.manager.register(sign(message, who).canonical(), source)


def flood(world: World, sources: int = 8) -> int:
    """Strangers from several addresses, until the last one is sent away."""
    came = 0
    for n in range(sources):
        try:
            while True:
                knock(world, Identity.generate("eve"), f"192.0.2.{n}")
                came += 1
        except LimitError:
            continue
    return came


def entries(world: World) -> int:
    return world.manager._core.store.size


def test_a_flood_of_strangers_stops_nobody_who_is_known(world: World) -> None:
    """D1: those who are there go on as before; those whom the administrator admits come in."""
    world.door = Door(strangers=12)
    restart(world, strangers_hourly=6)
    job = world.ready()
    assert flood(world) == 12 - 4
    assert refused(knock, world, Identity.generate("eve"), "::1").code == "identity.strangers"
    size = entries(world)
    flood(world)
    assert entries(world) == size, "a stranger at the door costs nothing durable"
    host = world.host()
    host.release(job)
    zoe = Identity.generate("zoe")
    assert refused(knock, world, zoe).code == "identity.strangers"
    world.door = Door(strangers=0, admitted=admitted(zoe))
    client = world.client(zoe)
    client.register_identity(zoe.signed_card())
    client.deposit_key(fake_manifest("dataset", zoe.key_id, world.me, "x"), Secret.random(32))


def test_whoever_is_admitted_takes_no_strangers_place(world: World) -> None:
    """Neither by its first key, nor by those that follow."""
    world.door = Door(strangers=1, admitted=admitted(world.alice))
    world.clients["alice"].register_identity(world.alice.signed_card())
    _, rotation = world.alice.rotate(world.now)
    world.clients["alice"].rotate(rotation)
    knock(world, world.bob)
    assert refused(knock, world, world.carol).code == "identity.strangers"


def test_strangers_come_slowly_from_one_address(world: World) -> None:
    restart(world, strangers_hourly=2)
    for who in (world.alice, world.bob):
        knock(world, who)
    knock(world, world.alice)  # known already
    assert refused(knock, world, world.carol).code == "identity.rate"
    knock(world, world.carol, "192.0.2.2")
    world.now += 3599
    assert refused(knock, world, world.operator).code == "identity.rate"
    world.now += 1
    knock(world, world.operator)


def test_what_is_remembered_of_addresses_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "_MAX_SOURCES", 1)
    restart(world, strangers_hourly=1)
    knock(world, world.alice)
    knock(world, world.bob, "192.0.2.2")
    knock(world, world.carol)  # the first address was forgotten; the number of strangers holds


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "testclient", False),
    ],
)
def test_who_has_how_many_addresses(one: str, other: str, same: bool) -> None:
    assert (_network(one) == _network(other)) is same


def test_what_a_stranger_keeps_is_bounded_over_all_its_keys(world: World) -> None:
    """D1: in number and in bytes; a new key has no new room; a revocation always has."""
    restart(world, stranger=Bounds(documents=4, bytes=1 << 20))
    alice = world.clients["alice"]
    alice.register_identity(world.alice.signed_card())
    left = fake_manifest("dataset", world.alice.key_id, world.me, "left")
    alice.deposit_key(left, Secret.random(32))
    new, rotation = world.alice.rotate(world.now)
    alice.rotate(rotation)
    after = world.client(new)
    after.deposit_key(fake_manifest("dataset", new.key_id, world.me, "middle"), Secret.random(32))
    right = fake_manifest("dataset", new.key_id, world.me, "right")
    assert refused(after.deposit_key, right, Secret.random(32)).code == "store.quota"
    after.deposit_key(left, Secret.random(32))  # held already
    world.door = Door(admitted=admitted(world.alice))
    after.deposit_key(right, Secret.random(32))
    world.door = Door()
    after.revoke(new.revoke(new.key_id, "lost", world.now))
    restart(world, stranger=Bounds(documents=9, bytes=1 << 10))
    late = world.clients["bob"]
    assert refused(late.register_identity, world.bob.signed_card()).code == "store.quota"


def test_one_publication_is_kept_once(world: World) -> None:
    """However often it is signed: whoever needs what was published must not look at a thousand."""
    world.register()
    anchors = TrustAnchors.from_json(
        {
            "product": "x",
            "version": 1,
            "anchors": [{"kind": "tee", "name": "n", "certificate": "", "simulated": True}],
        }
    )
    signed = sign(anchors, world.bob)
    world.clients["alice"].publish(signed)
    size = entries(world)
    world.clients["carol"].publish(signed)
    world.clients["bob"].publish(sign(anchors, world.bob))
    assert entries(world) == size


def test_a_host_publishes_nothing(world: World) -> None:
    """Its agent is nobody's identity: what it sent would be in nobody's count."""
    world.register()
    world.publish()
    host = world.host()
    signed = sign(world.anchors, world.bob)
    assert refused(host.client.publish, signed).code == "identity.unknown"


def test_open_enrolments_of_one_operator_displace_nobody_elses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: neither its own too many, nor the sum of many strangers'."""
    monkeypatch.setattr(enrolment_module, "_MAX_EACH", 2)
    monkeypatch.setattr(enrolment_module, "_MAX_PENDING", 4)
    world.register()
    eve = Identity.generate("eve")
    world.client(eve).register_identity(eve.signed_card())

    def ask(operator: Identity, name: str) -> tuple[SoftHost, Any]:
        host = SoftHost(world, name, SoftTpm(world.ca))
        statement = sign(host.statement(operator=operator.key_id), operator)
        tpm = host.tpm
        keys = ([tpm.ek_certificate], tpm.ek_public, tpm.ak_public)
        return host, host.client.enrol(statement, *keys).challenge

    def answer(host: SoftHost, challenge: Any) -> Any:
        opened = host.tpm.activate(b64decode(challenge.credential), b64decode(challenge.secret))
        return host.client.activate(challenge.id, opened)

    mine = ask(world.operator, "mine")
    hers = [ask(eve, f"hers{i}") for i in range(4)]
    assert refused(answer, *hers[0]).code == "enrol.unknown"
    assert refused(answer, *hers[1]).code == "enrol.unknown"
    ask(world.bob, "bob1")
    ask(world.carol, "carol1")  # four are open: the operator with the most gives one up
    assert refused(answer, *hers[2]).code == "enrol.unknown"
    answer(*hers[3])
    answer(*mine)
    ask(world.bob, "bob2")
    world.now += 61
    ask(world.carol, "carol2")


def test_owners_unknown_here_change_their_minds_a_few_times(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: what an owner of another manager sends is counted as its job's proposer's."""
    monkeypatch.setattr(consenting_module, "_MAX_UNKNOWN", 2)
    world.ready()
    eve = Identity.generate("eve")
    client = world.client(eve)
    elsewhere = world.assets["left"].model_copy(
        update={"owner": eve.key_id, "manager": world.bob.key_id, "manifest": D % 5}
    )
    job = world.propose(world.job_document(assets={**world.assets, "far": elsewhere}))
    state = world.manager._core.state
    before = state.kept[world.carol.key_id]

    def consent(policy: int) -> None:
        said = Consent(
            job=job, policy=D % policy, owner=eve.key_id, slots=("far",), issued_at=world.now
        )
        client.consent(sign(said, eve))

    consent(1)
    consent(2)
    assert refused(consent, 3).code == "consent.unknown"
    assert state.kept[world.carol.key_id] == before + 2
    assert state.kept[eve.key_id] == 0


def test_the_administrators_door(tmp_path: Path) -> None:
    alice, bob = Identity.generate("alice"), Identity.generate("bob")
    now = door_of(tmp_path)
    assert now() == Door()
    admit(tmp_path, [alice.card], 0)
    assert now().keys == {alice.key_id}
    assert now().strangers == 0
    admit(tmp_path, [bob.card, alice.card])
    assert [a.name for a in now().admitted] == ["alice", "bob"]
    assert now().strangers == 0
    (tmp_path / "door.json").write_text("{}]")
    assert refused(now).code == "door.file"
    with pytest.raises(HostError):
        admit(tmp_path, [alice.card])
    (tmp_path / "door.json").unlink()
    assert now() == Door()
    (tmp_path / "door.json").mkdir()
    assert refused(now).code == "door.file"
