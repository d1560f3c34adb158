"""What strangers can do to a manager: little, and nothing to those it knows."""

from __future__ import annotations

from collections.abc import Iterable
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
from svetovid.policy.documents import Consent, Export, Import, Pin, Policy
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


class Importers:
    """Alice exports her data to Ida and Ivo, who import it; bring her policy up to date in turn."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.ready()
        self.job = world.propose(consent=False)
        for owner in (world.bob, world.carol):
            world.consent(owner, self.job)
        (self._grant,) = world.policies["alice"].grants
        self.people = {n: Identity.generate(n) for n in ("ida", "ivo")}
        self.outer = self.alices(self.people.values())
        for person in self.people.values():
            world.client(person).register_identity(person.signed_card())

    def alices(self, to: Iterable[Identity]) -> Policy:
        """Alice's next policy, which exports to these."""
        last = self.world.policies["alice"]
        exports = tuple(Export.from_json(self._grant.to_json() | {"to": p.key_id}) for p in to)
        more = {"sequence": last.sequence + 1, "predecessor": last.digest()}
        policy = self.world.policy_of(self.world.alice, exports=exports, **more)
        self.world.clients["alice"].put_policy(sign(policy, self.world.alice))
        self.world.policies["alice"] = policy
        return policy

    def policy(self, name: str, **fields: Any) -> None:
        left = self.world.assets["left"].manifest
        fields["imports"] = (Import(policy=self.outer.digest(), asset=left),)
        last = self.world.policies.get(name)
        if last is not None:
            fields |= {"sequence": last.sequence + 1, "predecessor": last.digest()}
        policy = self.world.policy_of(self.people[name], **fields)
        self.world.client(self.people[name]).put_policy(sign(policy, self.people[name]))
        self.world.policies[name] = policy

    def consent(self, name: str) -> None:
        said = Consent(
            job=self.job,
            policy=self.world.policies[name].digest(),
            owner=self.people[name].key_id,
            slots=("left",),
            issued_at=self.world.now,
        )
        self.world.client(self.people[name]).consent(sign(said, self.people[name]))

    def spoils(self, name: str) -> None:
        """A policy whose anchors nobody published, and a consent under it."""
        unmet = Pin(signer=self.world.bob.key_id, product="none", min_version=1)
        self.policy(name, anchors=unmet, references=(unmet,))
        self.consent(name)

    def released(self) -> dict[str, Any]:
        state, store = self.world.manager._core.state, self.world.manager._core.store
        return dict(store.entry(state.jobs[self.job].release).body)


@pytest.fixture
def importers(world: World) -> Importers:
    return Importers(world)


def test_there_is_room_for_so_many_importers(
    importers: Importers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consenting_module, "_MAX_IMPORTERS", 1)
    importers.policy("ida")
    importers.policy("ivo")
    importers.consent("ida")
    assert refused(importers.consent, "ivo").code == "consent.importers"


def test_one_importer_does_not_veto_for_another(world: World, importers: Importers) -> None:
    """T5: whoever consents in the owner's stead refuses for itself alone."""
    importers.spoils("ida")
    host = world.host()
    assert "policy.pin" in {r.code for r in refused(host.release, importers.job).reasons}
    importers.policy("ivo")
    importers.consent("ivo")
    host.release(importers.job)
    (name,) = importers.released()["importers"].values()
    assert name == importers.people["ivo"].key_id
    left = world.assets["left"].manifest
    runs = world.manager._core.state.runs
    assert [runs[p.key_id, left] for p in importers.people.values()] == [0, 1]


def aside(importers: Importers, to: str, asset: str | None = None) -> Policy:
    """Another policy of Alice's, whose name comes first, which exports to one of them."""
    world, grant = importers.world, importers._grant.to_json()
    more = {"to": importers.people[to].key_id} | ({"asset": asset} if asset else {})
    export = Export.from_json(grant | more)
    policy = world.policy_of(world.alice, name="aside", grants=(), exports=(export,))
    world.clients["alice"].put_policy(sign(policy, world.alice))
    return policy


def test_an_importer_by_another_policy_does_not_veto(world: World, importers: Importers) -> None:
    """T5: each is held to the policy by which the exporter exports to it, one way at a time."""
    host = world.host()
    outer = importers.outer
    importers.outer = aside(importers, "ida")
    importers.spoils("ida")
    assert "policy.pin" in {r.code for r in refused(host.release, importers.job).reasons}
    importers.outer = outer
    importers.policy("ivo")
    importers.consent("ivo")
    lease = host.release(importers.job).lease.id
    (name,) = importers.released()["importers"].values()
    assert name == importers.people["ivo"].key_id
    assert importers.released()["policies"][world.alice.key_id] == outer.digest()
    host.renew(importers.job, lease)
    assert host.attest(fresh=True).lost == ()


def test_partners_in_something_else_do_not_veto(world: World, importers: Importers) -> None:
    """T5: whoever was exported another asset, or this one once, has no say."""
    host = world.host()
    other = fake_manifest("dataset", world.alice.key_id, world.me, "other")
    world.clients["alice"].deposit_key(other, Secret.random(32))
    side = aside(importers, "ida", other.digest())
    left = world.assets["left"].manifest
    both = tuple(Import(policy=p.digest(), asset=left) for p in (importers.outer, side))
    ida = world.policy_of(importers.people["ida"], imports=both)
    world.client(importers.people["ida"]).put_policy(sign(ida, importers.people["ida"]))
    world.policies["ida"] = ida
    importers.consent("ida")
    importers.outer = importers.alices([importers.people["ivo"]])
    importers.policy("ivo")
    importers.consent("ivo")
    host.release(importers.job)
    assert [*importers.released()["importers"].values()] == [importers.people["ivo"].key_id]
    assert importers.people["ida"].key_id not in importers.released()["policies"]
    world.now += 1
    assert refused(importers.consent, "ida").code == "consent.owner"


def test_an_importer_has_no_say_where_the_owner_spoke(world: World, importers: Importers) -> None:
    """T5: nor in any job from which the owner took its export back."""
    importers.spoils("ida")
    world.consent(world.alice, importers.job)
    host = world.host()
    host.release(importers.job)
    assert importers.released()["importers"] == {}
    importers.alices(())
    world.now += 61
    world.consent(world.alice, importers.job)
    host.release(importers.job)


def test_an_importer_who_comes_late_does_not_end_a_job(world: World, importers: Importers) -> None:
    """T12: a renewal is held against the parties to its release."""
    world.consent(world.alice, importers.job)
    host = world.host()
    lease = host.release(importers.job).lease.id
    importers.policy("ivo")
    importers.consent("ivo")
    host.renew(importers.job, lease)
    importers.spoils("ida")
    host.renew(importers.job, lease)


def test_a_late_owner_does_not_end_what_its_importer_began(
    world: World, importers: Importers
) -> None:
    importers.policy("ivo")
    importers.consent("ivo")
    host = world.host()
    lease = host.release(importers.job).lease.id
    importers.spoils("ida")
    host.renew(importers.job, lease)
    world.consent(world.alice, importers.job)
    host.renew(importers.job, lease)


def test_another_policy_of_the_exporter_ends_nothing(world: World, importers: Importers) -> None:
    """T5: of an owner who said nothing, the policy counts that the importer looked at."""
    importers.policy("ivo")
    importers.consent("ivo")
    host = world.host()
    lease = host.release(importers.job).lease.id
    unrelated = world.policy_of(world.alice, name="aaa", grants=())
    world.clients["alice"].put_policy(sign(unrelated, world.alice))
    host.renew(importers.job, lease)


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
