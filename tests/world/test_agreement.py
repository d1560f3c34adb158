"""What was agreed: all consents, under the policies in force, to this very job (T5, T17)."""

from __future__ import annotations

import pytest

import svetovid.manager.registry as registry
from maskedjob import in_mode
from svetovid.crypto import Identity, sign
from svetovid.policy.documents import Consent, Export, Import, Job, JobLimits, Policy
from svetovid.policy.modes import NOT_BUILT
from svetovid.policy.outputs import Recipient
from world.world import OWNERS, World


@pytest.mark.parametrize("missing", OWNERS)
def test_t5_every_owner_consents_or_nothing_goes(world: World, missing: str) -> None:
    job = world.propose()
    for owner in OWNERS:
        if owner != missing:
            world.consent(owner, job)
    with world.refuses("consent.missing") as refusal:
        world.run(job)
    assert {r.owner for r in refusal.error.reasons} == {world.key(missing)}
    assert world.client("alice").job(job.digest()).waiting_for == (world.key(missing),)
    world.consent(missing, job)
    world.run(job)


def test_t5_a_consent_is_to_one_job(world: World) -> None:
    """T5, V3: a like job is another job, and nobody agreed to it."""
    world.agreed()
    with world.refuses("consent.missing"):
        world.run(world.propose())


def test_t5_a_consent_to_fewer_slots(world: World) -> None:
    job = world.propose()
    for owner in ("bob", "carol"):
        world.consent(owner, job)
    world.consent("alice", job, slots=("other",))
    with world.refuses("consent.scope"):
        world.run(job)


def test_t5_a_consent_is_void_after_a_change_of_policy(world: World) -> None:
    job = world.agreed()
    world.policy("alice", runs=100)
    with world.refuses("consent.stale") as refusal:
        world.run(job)
    assert {r.owner for r in refusal.error.reasons} == {world.key("alice")}
    world.consent("alice", job)
    world.run(job)


def test_t5_an_older_consent_does_not_come_back(world: World) -> None:
    """T5: whoever kept an envelope of before cannot take today's consent out of force with it."""
    job = world.agreed()
    older = Consent(
        job=job.digest(),
        policy=world.policies["alice"].digest(),
        owner=world.key("alice"),
        slots=("other",),
        issued_at=world.clock() - 1,
    )
    size = world.manager.size
    world.client("bob").consent(sign(older, world.people["alice"]))
    assert world.manager.size == size
    world.run(job)


def test_t5_nobody_consents_for_another(world: World) -> None:
    job = world.propose()
    forged = Consent(
        job=job.digest(),
        policy=world.policies["alice"].digest(),
        owner=world.key("alice"),
        slots=("left",),
        issued_at=world.clock(),
    )
    with world.refuses("signature.missing", kind="rejection"):
        world.client("bob").consent(sign(forged, world.people["bob"]))


def test_t5_a_stranger_has_nothing_to_consent_to(world: World) -> None:
    job = world.propose()
    eve = Identity.generate("eve")
    client = world.manager.client(eve)
    client.register_identity(eve.signed_card())
    consent = Consent(
        job=job.digest(),
        policy=world.policies["alice"].digest(),
        owner=eve.key_id,
        slots=("left",),
        issued_at=world.clock(),
    )
    with world.refuses("consent.owner", kind="rejection"):
        client.consent(sign(consent, eve))


def test_t5_a_consent_from_the_future(world: World) -> None:
    job = world.propose()
    for owner in ("bob", "carol"):
        world.consent(owner, job)
    with world.refuses("consent.time", kind="rejection"):
        world.consent("alice", job, issued_at=world.clock() + 121)
    with world.refuses("consent.missing"):
        world.run(job)
    world.consent("alice", job, issued_at=world.clock() + 120)
    world.run(job)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("entry", "other.py"),
        ("arguments", ("--all",)),
        ("parameters", {"epochs": 1000}),
        ("seed", 7),
        ("limits", JobLimits(output_bytes=1 << 39)),
        ("mode", "enclave"),
    ],
)
def test_t5_every_field_of_a_job_is_agreed(world: World, field: str, value: object) -> None:
    """T5, L4: a host that asks with another job under the same name finds it was never agreed."""
    job = world.agreed()
    other = job.model_copy(update={field: value})
    assert other.digest() != job.digest()
    with world.refuses("job.unknown", records=0):
        world.run(other)
    world.propose(other)
    with world.refuses("consent.missing"):
        world.run(other)


def test_t5_rotation_does_not_redirect_an_agreed_job(world: World) -> None:
    """T5: the recipient in the job stays the recipient, and what an owner agreed stays agreed."""
    job = world.agreed()
    for name in ("rita", "alice"):
        client = world.manager.client(world.people[name])
        client.register_identity(world.people[name].signed_card())
        _, rotation = world.people[name].rotate(world.clock())
        client.rotate(rotation)
    run = world.run(job)
    run.finish()
    assert [k.recipient for k in run.packages["model"].keys] == [world.key("rita")]


def test_t5_a_rotated_key_signs_nothing_new(world: World) -> None:
    _, rotation = world.people["alice"].rotate(world.clock())
    world.client("alice").rotate(rotation)
    with world.refuses("key.rotated", kind="rejection"):
        world.client("alice").put_policy(sign(world.draft("alice"), world.people["alice"]))


def export(world: World) -> Policy:
    """Alice lets Bob consent to the use of her data; he pins her policy."""
    asset = world.assets["left"].manifest
    (grant,) = world.policies["alice"].grants
    given = Export.from_json(grant.to_json() | {"to": world.key("bob")})
    alice = world.policy("alice", grants=(), exports=(given,))
    world.policy("bob", imports=(Import(policy=alice.digest(), asset=asset),))
    return alice


def importer_consents(world: World, job: Job) -> None:
    world.consent("bob", job, slots=("left", "right"))
    world.consent("carol", job)


def test_t5_an_importer_consents_in_the_owners_stead(world: World) -> None:
    export(world)
    job = world.propose()
    importer_consents(world, job)
    world.run(job)


def test_t5_an_import_pins_a_hash(world: World) -> None:
    """T5: what Bob imported is Alice's policy as it was; her next one he has not seen."""
    export(world)
    job = world.propose()
    world.policy("alice")
    importer_consents(world, job)
    with world.refuses("policy.import"):
        world.run(job)


@pytest.mark.parametrize("mode", sorted(NOT_BUILT))
def test_t17_a_mode_that_is_not_built_cannot_be_proposed(world: World, mode: str) -> None:
    with world.refuses("mode.unavailable", kind="rejection"):
        world.propose(**in_mode(mode))


@pytest.mark.parametrize("mode", sorted(NOT_BUILT))
def test_t17_nor_is_a_key_released_for_it(
    world: World, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T17: not for a job that some other version let in, whatever the owners granted."""
    for owner in OWNERS:
        world.policy(owner, modes=("attested", mode))
    monkeypatch.setattr(registry, "require_available", lambda _: None)
    job = world.agreed(**in_mode(mode))
    with world.refuses("mode.unavailable") as refusal:
        world.run(job)
    assert refusal.codes == {"mode.unavailable"}


def test_plain_mode_gets_no_key(world: World) -> None:
    with world.refuses("mode.plain"):
        world.run(world.agreed(mode="plain"))


def test_an_enclave_job_wants_an_enclave(world: World) -> None:
    with world.refuses("mode.evidence"):
        world.run(world.agreed(mode="enclave"))


def test_k10_a_recipient_whom_no_owner_granted(world: World) -> None:
    """K10: every owner of data says who may receive."""
    eve = Identity.generate("eve")
    with world.refuses("grant.recipient"):
        world.run(world.agreed(recipients=(Recipient(card=eve.signed_card()),)))


def test_l3_the_same_name_is_not_the_same_data(world: World) -> None:
    """L3: another version of a data set is another asset; nobody granted it."""
    world.seal("left", "alice", "dataset", "data", b"poisoned")
    with world.refuses("policy.grant"):
        world.run(world.agreed())


def test_changed_code_is_other_code(world: World) -> None:
    world.seal("code", "carol", "code", "code", b"print(data)")
    with world.refuses("grant.code") as refusal:
        world.run(world.agreed())
    assert world.key("alice") in {r.owner for r in refusal.error.reasons}


@pytest.mark.parametrize("device", ["/dev/nvidia0"])
def test_t8_devices_nobody_granted(world: World, device: str) -> None:
    with world.refuses("grant.device"):
        world.run(world.agreed(devices=(device,)))


def test_l5_more_output_than_granted(world: World) -> None:
    for owner in OWNERS:
        world.policy(owner, output_bytes=1000)
    with world.refuses("limit.output_bytes"):
        world.run(world.agreed())


def test_a_grant_that_is_over(world: World) -> None:
    world.policy("alice", expires_at=world.clock() + 60)
    job = world.agreed()
    world.clock.advance(60)
    with world.refuses("limit.expired"):
        world.run(job)
