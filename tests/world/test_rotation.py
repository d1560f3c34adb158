"""Keys that are replaced, and keys that are stolen: what goes on, and what stops."""

from __future__ import annotations

from typing import Any

import pytest

from svetovid.crypto import Envelope, Identity, sign
from svetovid.errors import IntegrityError, SvetovidError
from svetovid.evidence.documents import ReferenceValues
from svetovid.policy import Consent, Export, Import, Job, Pin, open_consents
from world.machines import sha
from world.test_receipts import verify
from world.world import FILES, World


class Rotated:
    """A party whose key was replaced at its manager: what it owned keeps the older key's name."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.old = world.people[name]
        self.new, self.statement = self.old.rotate(world.clock())
        self.client = world.manager_of(name) if name in world.at else world.manager
        self.client = self.client.client(self.new)
        self.client.rotate(self.statement)

    def consent(self, job: Job, *, by: Identity | None = None, **changes: Any) -> Envelope:
        """To the slots of what the old key owns, signed by the new one."""
        slots = tuple(s for s, a in sorted(job.assets.items()) if a.owner == self.old.key_id)
        fields: dict[str, Any] = {
            "job": job.digest(),
            "policy": self.world.policies[self.name].digest(),
            "owner": self.old.key_id,
            "rotations": (self.statement,),
            "slots": slots,
            "issued_at": self.world.clock(),
        }
        return sign(Consent(**(fields | changes)), by or self.new)

    def policy(self, **changes: Any) -> None:
        draft = self.world.draft(self.name, rotations=(self.statement,), **changes)
        self.client.put_policy(sign(draft, self.new))
        self.world.policies[self.name] = draft

    def revoke(self) -> None:
        """By the newest key, of itself: a thief has it."""
        self.client.revoke(self.new.revoke(self.new.key_id, "stolen", self.world.clock()))


def with_consents(world: World, alice: Rotated) -> Job:
    job = world.propose()
    alice.client.consent(alice.consent(job))
    for owner in ("bob", "carol"):
        world.consent(owner, job)
    return job


def test_t5_the_new_key_consents_for_what_the_old_one_sealed(world: World) -> None:
    """T5, T13: under a policy it signed, too; and the receipt stands with nothing else."""
    alice = Rotated(world, "alice")
    alice.policy(runs=2)
    run = world.run(with_consents(world, alice))
    assert run.open()["left"]
    (bundle,) = run.finish()
    world.manager.stop()
    verdict = verify(world, bundle)
    world.manager.start()
    assert verdict.affirmed
    assert verdict.consents[alice.old.key_id] == ("left",)
    assert alice.new.key_id not in verdict.consents


def test_v6_whoever_has_the_newest_key_stops_all_that_the_older_ones_own(world: World) -> None:
    """V6: a thief has the new key; the assets name the old one, the job was agreed before."""
    job = world.agreed()
    run = world.run(job)
    alice = Rotated(world, "alice")
    run.renew()
    alice.revoke()
    with world.refuses("consent.revoked") as refusal:
        run.renew()
    assert "policy.key" in refusal.codes
    world.clock.advance(61)
    for again in range(2):
        with world.refuses("consent.revoked") as refusal:
            world.run(job)
        assert "policy.key" in refusal.codes
        if not again:
            world.manager.restart()
    said = alice.consent(world.propose())
    with world.refuses("key.revoked", kind="rejection"):
        alice.client.consent(said)
    with world.refuses("key.revoked", records=0):  # one record of one document and its reasons
        alice.client.consent(said)


def test_v6_an_older_key_that_is_stolen_stops_what_the_newer_ones_own(world: World) -> None:
    """V6: who had it may have chosen what followed."""
    alice = Rotated(world, "alice")
    job = with_consents(world, alice)
    revocation = alice.old.revoke(alice.old.key_id, "stolen", world.clock())
    world.manager.client(alice.old).revoke(revocation)
    with world.refuses("consent.revoked"):
        world.run(job)
    with world.refuses("key.revoked", kind="rejection"):
        alice.policy(runs=2)


def test_v6_a_recipient_whose_newer_key_is_stolen(world: World) -> None:
    """V6, T5: after a rotation the card in the job counts, and after a revocation none."""
    job = world.agreed()
    rita = world.people["rita"]
    world.manager.client(rita).register_identity(rita.signed_card())
    rotated = Rotated(world, "rita")
    world.run(job).give_back()
    rotated.revoke()
    with world.refuses("recipient.revoked"):
        world.run(job)


def test_v6_an_operator_whose_newer_key_is_stolen(world: World) -> None:
    """V6, T3: its hosts get nothing, its agents read nothing; the machine may have a new owner."""
    job = world.agreed()
    opal = Rotated(world, "opal")
    world.run(job).give_back()
    opal.revoke()
    with world.refuses("host.revoked"):
        world.run(job)
    agent = world.manager.client(world.host.agent)
    with world.refuses("host.revoked", records=0):
        agent.job(job.digest())
    buyer = Identity.generate("buyer")
    world.people["buyer"] = buyer
    world.manager.client(buyer).register_identity(buyer.signed_card())
    world.host.agent = Identity.generate("another agent")
    (world.host.folder / "statement.json").unlink()
    world.enrol(world.host, "north", operator="buyer")
    for owner in ("alice", "bob", "carol"):
        world.policy(owner, operators=(buyer.key_id,))
        world.consent(owner, job)
    world.run(job)


def test_t3_an_operator_enrols_again_after_a_rotation(world: World) -> None:
    """One operator, by whichever of its keys: the same machine under the same name."""
    opal = Rotated(world, "opal")
    (world.host.folder / "statement.json").unlink()
    with world.refuses("key.rotated", kind="rejection"):
        world.enrol(world.host, "north")
    (world.host.folder / "statement.json").unlink(missing_ok=True)
    world.people["opal"] = opal.new
    world.enrol(world.host, "north")
    assert world.host.home.record(world.manager.key_id)


def test_v6_whose_values_are_pinned_by_signer(world: World) -> None:
    """V6: what a revoked signer says, or a superseded one, is nobody's newest edition."""
    opal = world.people["opal"]
    values = ReferenceValues(
        product="by-opal", version=1, files={p: (sha(c),) for p, c in FILES.items()}
    )
    world.client("opal").publish(sign(values, opal))
    pin = Pin(signer=opal.key_id, product="by-opal", min_version=1)
    world.policy("alice", references=(pin, Pin(document=world.runtime.digest())))
    job = world.agreed()
    world.run(job).give_back()
    rotated = Rotated(world, "opal")
    evil = values.model_copy(update={"version": 2})
    with world.refuses("key.rotated", kind="rejection"):
        world.client("bob").publish(sign(evil, opal))
    world.client("bob").publish(sign(values, opal))  # is held already
    world.run(job).give_back()
    rotated.revoke()
    with world.refuses("policy.pin"):
        world.run(job)


@pytest.mark.parametrize("which", ["none", "another's", "too many", "a superseded signer"])
def test_t5_rotations_that_do_not_lead_to_the_signer(world: World, which: str) -> None:
    alice = Rotated(world, "alice")
    job = world.propose()
    eve = Identity.generate("eve")
    third, onwards = alice.new.rotate(world.clock())
    signed = {
        "none": alice.consent(job, rotations=()),
        "another's": alice.consent(job, by=eve, rotations=(eve.rotate(world.clock())[1],)),
        "too many": alice.consent(job, by=third, rotations=(alice.statement, onwards)),
        "a superseded signer": alice.consent(job, by=alice.old),
    }[which]
    good, bad = open_consents([signed])
    assert bool(good) == (which == "too many")
    assert len(bad) == 1 - len(good)
    code = "key.unknown" if which == "another's" else "signature.missing"
    with world.refuses(code, records=int(which not in ("another's", "too many")), kind="rejection"):
        alice.client.consent(signed)
    for owner in ("bob", "carol"):
        world.consent(owner, job)
    with world.refuses("consent.missing"):
        world.run(job)


def test_t13_a_consent_in_a_receipt_by_nobody_who_may(world: World) -> None:
    """T13: a manager that lies cannot make a consent out of somebody else's signature."""
    alice = Rotated(world, "alice")
    run = world.run(with_consents(world, alice))
    (bundle,) = run.finish()
    said = next(c for c in bundle.consents if c.peek(Consent).owner == alice.old.key_id)
    others = tuple(c for c in bundle.consents if c is not said)
    for signer in (Identity.generate("eve"), alice.old):
        forged = sign(said.peek(Consent), signer)
        with pytest.raises(IntegrityError, match=r"receipt\.consents"):
            verify(world, bundle.model_copy(update={"consents": (*others, forged)}))


def test_t5_an_import_of_what_an_older_key_exports(world: World) -> None:
    """T5, T13: both policies are signed by keys that followed, and the receipt shows it."""
    alice, bob = Rotated(world, "alice"), Rotated(world, "bob")
    (grant,) = world.policies["alice"].grants
    given = grant.to_json() | {"to": bob.old.key_id}
    alice.policy(grants=(), exports=(Export.from_json(given),))
    pinned = Import(policy=world.policies["alice"].digest(), asset=grant.asset)
    bob.policy(imports=(pinned,))
    jobs = [world.propose() for _ in range(2)]
    for job in jobs:
        bob.client.consent(bob.consent(job, slots=("left", "right")))
        world.consent("carol", job)
    (bundle,) = world.run(jobs[0]).finish()
    assert verify(world, bundle).imports == {"left": bob.old.key_id}
    alice.revoke()
    with world.refuses("policy.key"):
        world.run(jobs[1])


def test_t5_a_manager_that_never_heard_of_an_owner(two_managers: World) -> None:
    """T1, T5: the consent itself shows by what right the new key signed; what this manager knows
    of any of the keys counts as well."""
    world = two_managers
    bob = Rotated(world, "bob")
    north = world.managers["north"]
    job = world.propose()
    for owner in ("alice", "carol"):
        world.consent(owner, job)
    signed = bob.consent(job)
    bob.client.consent(signed)
    at_north = north.client(bob.new)
    at_north.consent(signed)
    run = world.run(job)
    assert run.open()["right"]
    run.give_back()
    at_north.register_identity(bob.new.signed_card())
    third, onwards = bob.new.rotate(world.clock())
    at_north.rotate(onwards)
    with world.refuses("key.rotated", manager="north", kind="rejection"):
        at_north.consent(bob.consent(job, issued_at=world.clock() + 1))
    at_north.revoke(third.revoke(third.key_id, "stolen", world.clock()))
    with world.refuses("consent.revoked", manager="north"):
        world.start(job).main.ask()


def test_v6_a_replica_that_has_not_heard_of_it_yet(world: World) -> None:
    """V6: who signs is asked again inside the transaction, after what others wrote is taken in."""
    replica = world.manager.open()
    job = world.propose()
    alice = Rotated(world, "alice")
    policy = sign(world.draft("alice", runs=3), alice.old)
    with pytest.raises(SvetovidError, match=r"key\.rotated"):
        replica.changes["/v1/policies"](policy.canonical())
    replica.close()
    replica = world.manager.open()
    alice.revoke()
    with pytest.raises(SvetovidError, match=r"key\.revoked"):
        replica.changes["/v1/consents"](alice.consent(job).canonical())
    replica.close()


@pytest.mark.parametrize(
    ("name", "code"),
    [("alice", "consent.revoked"), ("rita", "recipient.revoked"), ("opal", "host.revoked")],
)
def test_v6_revoked_while_the_job_runs(world: World, name: str, code: str) -> None:
    """V6: what comes of it is not vouched for, whoever's key it was."""
    run = world.run(world.agreed())
    who = world.people[name]
    client = world.manager.client(who)
    client.register_identity(who.signed_card())
    Rotated(world, name).revoke()
    with world.refuses(code):
        run.finish()
