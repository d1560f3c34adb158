"""Importers: each speaks in an owner's stead for itself, and takes nothing from another (T5)."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest

from managerworld import World, fake_manifest, refused
from svetovid.crypto import Identity, Secret, sign
from svetovid.manager import consenting as consenting_module
from svetovid.policy import consents as consents_module
from svetovid.policy.documents import Consent, Export, Import, Limits, Pin, Policy


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
    people = importers.people.values()
    assert [runs[p.key_id, left, ""] for p in people] == [0, 1]
    assert [runs[world.alice.key_id, left, p.key_id] for p in people] == [0, 1]
    assert runs[world.alice.key_id, left, ""] == 0


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


def partners(
    importers: Importers, count: int, policies: int = 1
) -> list[tuple[Identity, list[Policy]]]:
    """People by their keys, and the policies by which Alice exports to each alone."""
    world, grant = importers.world, importers._grant.to_json()
    people = sorted((Identity.generate(f"p{i}") for i in range(count)), key=lambda p: p.key_id)
    found = []
    for i, person in enumerate(people):
        world.client(person).register_identity(person.signed_card())
        mine = []
        for n in range(policies):
            export = Export.from_json(grant | {"to": person.key_id})
            policy = world.policy_of(world.alice, name=f"a{i}-{n}", grants=(), exports=(export,))
            world.clients["alice"].put_policy(sign(policy, world.alice))
            mine.append(policy)
        found.append((person, mine))
    return found


def again(world: World, policy: Policy, **fields: Any) -> Policy:
    """Alice's next edition of one of hers."""
    more = {"sequence": policy.sequence + 1, "predecessor": policy.digest(), **fields}
    policy = policy.model_copy(update=more)
    world.clients["alice"].put_policy(sign(policy, world.alice))
    return policy


def import_all(
    importers: Importers, person: Identity, outer: Iterable[Policy], **fields: Any
) -> None:
    """A policy that pins all of these, and a consent under it."""
    world = importers.world
    left = world.assets["left"].manifest
    fields["imports"] = tuple(Import(policy=o.digest(), asset=left) for o in outer)
    policy = world.policy_of(person, name="mine", **fields)
    world.client(person).put_policy(sign(policy, person))
    said = Consent(
        job=importers.job,
        policy=policy.digest(),
        owner=person.key_id,
        slots=("left",),
        issued_at=world.now,
    )
    world.client(person).consent(sign(said, person))


def spoilt(world: World) -> dict[str, Any]:
    unmet = Pin(signer=world.bob.key_id, product="none", min_version=1)
    return {"anchors": unmet, "references": (unmet,)}


def test_many_importers_by_as_many_policies_do_not_veto(world: World, importers: Importers) -> None:
    """T5: the work is the sum of what they import by, so that none is left out."""
    *bad, (last, outer) = partners(importers, 10)
    for person, by in bad:
        import_all(importers, person, by, **spoilt(world))
    host = world.host()
    assert "policy.pin" in {r.code for r in refused(host.release, importers.job).reasons}
    import_all(importers, last, outer)
    lease = host.release(importers.job).lease.id
    assert [*importers.released()["importers"].values()] == [last.key_id]
    assert importers.released()["policies"][world.alice.key_id] == outer[0].digest()
    host.renew(importers.job, lease)


def test_one_importer_by_many_policies_does_not_veto(world: World, importers: Importers) -> None:
    (bad, many), (last, outer) = partners(importers, 2, policies=9)
    import_all(importers, bad, many, **spoilt(world))
    import_all(importers, last, outer[:1])
    world.host().release(importers.job)
    assert [*importers.released()["importers"].values()] == [last.key_id]


def test_an_importer_may_rest_on_any_of_four_policies(world: World, importers: Importers) -> None:
    """The first that its own use holds under decides; what is past the fourth is not looked at."""
    ((person, outer),) = partners(importers, 1, policies=4)
    for n, policy in enumerate(outer[:3]):
        (export,) = policy.exports
        narrow = export.model_copy(update={"code": ("sha256:" + "0" * 64,)})
        outer[n] = again(world, policy, exports=(narrow,))
    import_all(importers, person, outer)
    world.host().release(importers.job)
    assert importers.released()["policies"][world.alice.key_id] == outer[3].digest()


def test_each_exporter_is_chosen_for_alone(world: World, importers: Importers) -> None:
    """T5: where two owners are silent, and each exports by several policies."""
    job = world.propose(world.job_document(seed=5), consent=False)
    importers.job = job
    world.consent(world.carol, job)
    grant = importers._grant.to_json()
    people = [Identity.generate(n) for n in ("one", "two", "three")]
    for person in people:
        world.client(person).register_identity(person.signed_card())
    found: dict[str, list[Policy]] = {p.key_id: [] for p in people}
    for owner, slot in ((world.alice, "left"), (world.bob, "right")):
        asset = world.assets[slot].manifest
        for person in people:
            export = Export.from_json(grant | {"to": person.key_id, "asset": asset})
            policy = world.policy_of(owner, name=f"to-{person.name}", grants=(), exports=(export,))
            world.clients[owner.name].put_policy(sign(policy, owner))
            found[person.key_id].append(policy)
    for n, person in enumerate(sorted(people, key=lambda p: p.key_id)):
        imports = tuple(
            Import(policy=p.digest(), asset=p.exports[0].asset) for p in found[person.key_id]
        )
        more = {} if n == 2 else spoilt(world)
        mine = world.policy_of(person, name="mine", imports=imports, **more)
        world.client(person).put_policy(sign(mine, person))
        said = Consent(
            job=job,
            policy=mine.digest(),
            owner=person.key_id,
            slots=("left", "right"),
            issued_at=world.now,
        )
        world.client(person).consent(sign(said, person))
    world.host().release(job)
    assert {*importers.released()["importers"].values()} == {max(p.key_id for p in people)}


def test_an_importers_fat_policy_is_its_own_refusal(
    world: World, importers: Importers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T5, T13: what no receipt could hold of one importer does not keep another out."""
    one, other = sorted(importers.people, key=lambda n: importers.people[n].key_id)
    pin = Pin(document=world.references.digest())
    again = Pin(signer=world.alice.key_id, product=world.references.product, min_version=1)
    importers.policy(one, references=(pin, *[again] * 15))
    importers.consent(one)
    sizes = [len(world.policies[n].canonical()) for n in (one, other, "alice") if n != other]
    assert sizes[0] > sizes[1] + 400
    part = (sizes[1] + 300) // 3 * 4 + (8 << 10)
    monkeypatch.setattr(consents_module, "_MAX_IMPORT_BYTES", 2 * part)
    host = world.host()
    assert {r.code for r in refused(host.release, importers.job).reasons} == {"receipt.policies"}
    importers.policy(other)
    importers.consent(other)
    host.release(importers.job)
    assert [*importers.released()["importers"].values()] == [importers.people[other].key_id]


def test_a_consent_may_come_in_while_others_are_read(
    world: World, importers: Importers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An honest host is told to ask again, not that the manager has a fault."""
    importers.policy("ida")
    importers.policy("ivo")
    importers.consent("ida")
    host = world.host()
    read = world.manager._core.store.document
    came: list[str] = []

    def meanwhile(name: str, kind: Any) -> Any:
        if kind is Consent and not came:
            came.append(name)
            thread = threading.Thread(target=importers.consent, args=("ivo",))
            thread.start()
            thread.join(30)
        return read(name, kind)

    evidence = host.evidence(host.client.challenge(host.host_id, importers.job, "release"))
    monkeypatch.setattr(world.manager._core.store, "document", meanwhile)
    assert refused(host.client.release, evidence).code == "policy.changed"
    assert came
    host.release(importers.job)


def another_job(importers: Importers, seed: int) -> None:
    world = importers.world
    importers.job = world.propose(world.job_document(seed=seed), consent=False)
    for owner in (world.bob, world.carol):
        world.consent(owner, importers.job)


@pytest.mark.parametrize("code", ["limit.runs", "limit.output_bytes"])
def test_an_importer_uses_up_nobody_elses_limits(
    world: World, importers: Importers, code: str
) -> None:
    """T5: what one was given is counted for it alone, over all its jobs, also after a restart."""
    each = {"output_bytes": world.job_document().bytes_out}
    once = Limits(runs=1) if code == "limit.runs" else Limits(**each)
    importers._grant = importers._grant.model_copy(update={"limits": once})
    importers.outer = importers.alices(importers.people.values())
    importers.policy("ida")
    importers.policy("ivo")
    host = world.host()

    def run(name: str, seed: int) -> None:
        another_job(importers, seed)
        importers.consent(name)
        lease = host.release(importers.job).lease.id
        host.client.end_lease(lease, "done", host.job_key)

    run("ida", 1)
    world.restart()
    assert {r.code for r in refused(run, "ida", 2).reasons} == {code}
    run("ivo", 3)
    assert {r.code for r in refused(run, "ivo", 4).reasons} == {code}


def test_own_grants_and_exports_are_counted_apart(world: World, importers: Importers) -> None:
    """T5: a run in the owner's own name takes none of an importer's, nor the other way round."""
    last, once = world.policies["alice"], Limits(runs=1)
    (own,) = last.grants
    given = Export.from_json(
        own.to_json() | {"to": importers.people["ida"].key_id, "limits": once.to_json()}
    )
    importers.outer = world.policy_of(
        world.alice,
        grants=(own.model_copy(update={"limits": once}),),
        exports=(given,),
        sequence=last.sequence + 1,
        predecessor=last.digest(),
    )
    world.clients["alice"].put_policy(sign(importers.outer, world.alice))
    world.policies["alice"] = importers.outer
    importers.policy("ida")
    host = world.host()
    for seed, who in ((1, "alice"), (2, "ida")):
        another_job(importers, seed)
        if who == "alice":
            world.consent(world.alice, importers.job)
        else:
            importers.consent(who)
        host.client.end_lease(host.release(importers.job).lease.id, "done", host.job_key)
    another_job(importers, 3)
    world.consent(world.alice, importers.job)
    assert refused(host.release, importers.job).code == "limit.runs"


def test_the_policy_of_the_release_comes_first_afterwards(
    world: World, importers: Importers
) -> None:
    """T12: where none holds any more, a host is told what is wrong with the one it started by."""
    ((person, (first, second)),) = partners(importers, 1, policies=2)
    first = again(world, first, **spoilt(world))
    (export,) = second.exports
    ending = export.model_copy(update={"limits": Limits(expires_at=world.now + 30)})
    second = again(world, second, exports=(ending,))
    import_all(importers, person, (first, second))
    host = world.host()
    lease = host.release(importers.job).lease.id
    assert importers.released()["policies"][world.alice.key_id] == second.digest()
    world.now += 30
    codes = {r.code for r in refused(host.renew, importers.job, lease).reasons}
    assert codes == {"limit.expired"}


def test_a_policy_that_serves_one_slot_of_two_is_not_taken(
    world: World, importers: Importers
) -> None:
    """T5: however many export one of them, the one that exports both is found."""
    ida = importers.people["ida"]
    manifest = fake_manifest("dataset", world.alice.key_id, world.me, "more")
    world.clients["alice"].deposit_key(manifest, Secret.random(32))
    more = world.assets["left"].model_copy(update={"manifest": manifest.digest()})
    importers.job = world.propose(
        world.job_document(assets={**world.assets, "more": more}), consent=False
    )
    for owner in (world.bob, world.carol):
        world.consent(owner, importers.job)
    grant = importers._grant.to_json() | {"to": ida.key_id}
    one = Export.from_json(grant)
    two = Export.from_json(grant | {"asset": more.manifest})
    outer = []
    for n in range(6):
        exports = (one, two) if n == 5 else (one,)
        policy = world.policy_of(world.alice, name=f"a{n}", grants=(), exports=exports)
        world.clients["alice"].put_policy(sign(policy, world.alice))
        outer.append(policy)
    imports = tuple(Import(policy=p.digest(), asset=e.asset) for p in outer for e in p.exports)
    mine = world.policy_of(ida, imports=imports)
    world.client(ida).put_policy(sign(mine, ida))
    said = Consent(
        job=importers.job,
        policy=mine.digest(),
        owner=ida.key_id,
        slots=("left", "more"),
        issued_at=world.now,
    )
    world.client(ida).consent(sign(said, ida))
    world.host().release(importers.job)
    assert importers.released()["policies"][world.alice.key_id] == outer[5].digest()


def test_what_an_importers_other_policy_pins_is_not_in_the_way(
    world: World, importers: Importers
) -> None:
    """T5: it consented under one of its policies, which pins the exporter's last."""
    ((person, outer),) = partners(importers, 1, policies=6)
    import_all(importers, person, outer[5:])
    left = world.assets["left"].manifest
    pins = tuple(Import(policy=o.digest(), asset=left) for o in outer[:5])
    other = world.policy_of(person, name="another", imports=pins)
    world.client(person).put_policy(sign(other, person))
    world.host().release(importers.job)
    assert importers.released()["policies"][world.alice.key_id] == outer[5].digest()
