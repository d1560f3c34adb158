"""Whom an owner believes: its own manager, its own anchors, its own reference values."""

from __future__ import annotations

import pytest

from softtpm import SoftCa
from svetovid.crypto import Identity, Secret, sign
from svetovid.errors import SvetovidError
from svetovid.evidence.documents import ReferenceValues
from svetovid.policy.documents import Pin
from world.machines import sha
from world.world import CANARY, FILES, World


def test_t1_a_host_collects_from_every_owners_own_manager(two_managers: World) -> None:
    """T1: each manager gives what its own owners gave it, and nothing else."""
    world = two_managers
    run = world.run(world.agreed())
    given = {link.client.manager: set(link.keys()) for link in run.links}
    assert given == {
        world.managers["north"].key_id: {"left", "code"},
        world.managers["south"].key_id: {"right"},
    }
    assert {s: d[: len(CANARY)] for s, d in run.open().items()} == dict.fromkeys(
        ("left", "right", "code"), CANARY
    )
    assert world.released() == 2
    run.renew()
    bundles = run.finish()
    assert len({b.receipt.payload_digest() for b in bundles}) == 2


def test_t1_each_manager_asks_for_every_consent_whoever_holds_the_key(
    two_managers: World,
) -> None:
    """T1, T5: Bob's manager alone knows his policy; Carol's still wants his signature."""
    world = two_managers
    job = world.propose()
    world.consent("alice", job)
    world.consent("carol", job)
    for name in ("north", "south"):
        run = world.start(job)
        run.links = [x for x in run.links if x.client.manager == world.managers[name].key_id]
        with world.refuses("consent.missing", manager=name):
            run.ask()


def test_t1_a_key_is_not_taken_by_another_manager(two_managers: World) -> None:
    """T1: the manifest names its manager, and the signature covers it."""
    world = two_managers
    left = world.assets["left"].manifest
    client = world.client("alice", "south")
    client.register_identity(world.people["alice"].signed_card())
    with world.refuses("asset.manager", kind="rejection", manager="south"):
        client.deposit_key(world.manifests[left], world.keys[left])


def test_t1_a_manager_gives_no_slot_that_another_holds(two_managers: World) -> None:
    """T1: what a manager says about another's asset counts for nothing on the host."""
    world = two_managers
    run = world.run(world.agreed())
    one, two = run.links
    one._released = one.release.model_copy(update={"keys": two.release.keys})
    with pytest.raises(SvetovidError, match=r"release\.asset"):
        one.keys()


def test_t1_another_manager_behind_the_same_address(world: World) -> None:
    """T1, C8: the pin decides who is believed, never who answers first."""
    rogue = Identity.generate("rogue")
    pin = world.manager.pin.model_copy(update={"card": rogue.signed_card()})
    from svetovid.protocol import ManagerClient

    client = ManagerClient(
        pin, world.people["alice"], transport=world.manager.tap, clock=world.clock
    )
    with world.refuses("signature.missing", records=0):
        client.status()


def test_t1_a_pinned_manager_is_trusted_and_unproven(world: World) -> None:
    assert world.client("alice").status().evidence == "none"


def test_t2_each_owner_by_its_own_anchors(world: World) -> None:
    """T2: one owner's anchors say nothing for another; each refusal names its owner."""
    other = SoftCa("another maker")
    world.anchors["bob"] = world.anchors_of(other, simulated=True)
    world.publish("bob")
    world.policy("bob", anchors=Pin(document=world.anchors["bob"].digest()))
    job = world.agreed()
    with world.refuses("ek.untrusted") as refusal:
        world.run(job)
    assert {r.owner for r in refusal.error.reasons} == {world.key("bob")}
    theirs = world.machine("host-2", ca=other)
    with world.refuses("ek.untrusted") as refusal:
        world.run(job, theirs)
    assert {r.owner for r in refusal.error.reasons} == {world.key("alice"), world.key("carol")}


def test_t2_each_owner_by_its_own_reference_values(world: World) -> None:
    """T2: Bob does not know a file that Alice and Carol know."""
    name = next(iter(FILES))
    narrow = ReferenceValues(
        product="narrow",
        version=1,
        files={p: (sha(c),) for p, c in FILES.items() if p != name},
    )
    world.references["bob"] = (narrow,)
    world.publish("bob")
    world.policy("bob", references=(Pin(document=narrow.digest()),))
    with world.refuses("ima.unlisted") as refusal:
        world.run(world.agreed())
    assert {r.owner for r in refusal.error.reasons} == {world.key("bob")}
    (record,) = world.client("bob").records(world.manager.size - 1, 1).records
    assert record.private is not None
    assert any(name in r.observed for r in record.private.reasons)


def test_t2_values_that_nobody_published(world: World) -> None:
    world.policy("alice", references=(Pin(document="sha256:" + "4" * 64),))
    with world.refuses("policy.pin"):
        world.run(world.agreed())


def test_t2_a_signers_next_edition_and_nobody_elses(world: World) -> None:
    """T2: pinned by signer and product, a document of the same name by another counts not."""
    pin = Pin(signer=world.key("alice"), product="anchors", min_version=2)
    world.policy("alice", anchors=pin)
    job = world.agreed()
    newer = world.anchors["alice"].model_copy(update={"version": 2})
    world.client("bob").publish(sign(newer, world.people["bob"]))
    with world.refuses("policy.pin"):
        world.run(job)
    world.client("alice").publish(sign(newer, world.people["alice"]))
    world.run(job)


def test_v1_an_old_policy_does_not_come_back(world: World) -> None:
    """V1: signed correctly, and over."""
    first = world.policies["alice"]
    world.policy("alice", runs=1)
    with world.refuses("policy.version", kind="rejection"):
        world.client("alice").put_policy(sign(first, world.people["alice"]))


def test_v1_no_edition_is_left_out(world: World) -> None:
    skipped = world.draft("alice").model_copy(update={"sequence": 3})
    with world.refuses("policy.version", kind="rejection"):
        world.client("alice").put_policy(sign(skipped, world.people["alice"]))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (
            lambda t: t.replace(b'"name":"main"', b'"name":"main","name":"main"'),
            "json.duplicate_key",
        ),
        (lambda t: t.replace(b'"sequence":2', b'"sequence":2.0'), "document.invalid"),
        (lambda t: t.replace(b'"name":"main"', b'"name" :"main"'), "signature.canonical"),
        (lambda t: t.replace(b'"main"', '"\u212bngstr\u00f6m"'.encode()), "document.invalid"),
    ],
)
def test_v2_one_meaning_one_form(world: World, damage: object, code: str) -> None:
    """V2: what could be read in two ways is refused, however well it is signed."""
    from svetovid.crypto import Envelope, b64decode, b64encode

    good = sign(world.draft("alice"), world.people["alice"])
    assert code
    payload = damage(b64decode(good.payload))  # type: ignore[operator]
    assert payload != b64decode(good.payload)
    pae = b"DSSEv1 %d %s %d %s" % (
        len(good.payloadType),
        good.payloadType.encode(),
        len(payload),
        payload,
    )
    signature = good.signatures[0].model_copy(
        update={"sig": b64encode(world.people["alice"].sign_bytes(pae))}
    )
    bad = Envelope(
        payloadType=good.payloadType, payload=b64encode(payload), signatures=(signature,)
    )
    with world.refuses(code, records=0):
        world.client("alice").put_policy(bad)


def test_v6_a_revoked_key_counts_for_nothing(world: World) -> None:
    """V6: no policy, no consent, no release under it."""
    job = world.agreed()
    alice = world.people["alice"]
    world.client("alice").revoke(alice.revoke(alice.key_id, "lost", world.clock()))
    with world.refuses("key.revoked", kind="rejection"):
        world.client("alice").put_policy(sign(world.draft("alice"), alice))
    with world.refuses("consent.revoked") as refusal:
        world.run(job)
    assert "policy.key" in refusal.codes


def test_v6_a_revoked_recipient_gets_nothing(world: World) -> None:
    job = world.agreed()
    rita = world.people["rita"]
    client = world.manager.client(rita)
    client.register_identity(rita.signed_card())
    client.revoke(rita.revoke(rita.key_id, "stolen", world.clock()))
    with world.refuses("recipient.revoked"):
        world.run(job)


def test_v6_a_revoked_operators_hosts_get_nothing(world: World) -> None:
    job = world.agreed()
    opal = world.people["opal"]
    world.client("opal").revoke(opal.revoke(opal.key_id, "left", world.clock()))
    with world.refuses("host.revoked"):
        world.run(job)


def test_v12_one_owner_stops_releases_of_its_own(world: World) -> None:
    """V12: a policy that grants nothing any more; nobody else is asked."""
    job = world.agreed()
    world.policy("alice", grants=())
    with world.refuses("policy.grant") as refusal:
        world.run(job)
    assert {r.owner for r in refusal.error.reasons} == {world.key("alice")}


def test_a_deposit_by_somebody_else(world: World) -> None:
    """K1: whoever knows a manifest cannot put another key under its name."""
    left = world.manifests[world.assets["left"].manifest]
    with world.refuses("signature.missing", kind="rejection"):
        world.client("bob").deposit_key(left, Secret.random(32))
