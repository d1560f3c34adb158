"""Who may tell a manager what: identities, keys, documents, policies, jobs, consents, hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_der_x509_certificate

from managerworld import SoftHost, World, fake_manifest, refused, replace
from softtpm import SoftCa, SoftTpm
from svetovid.crypto import Envelope, Identity, Rotation, Secret, digest, seal, sign
from svetovid.evidence.documents import HostRecord, HostStatement, TrustAnchors
from svetovid.evidence.enrolment import enrolment_binding
from svetovid.host.tee import SimulatedTee
from svetovid.manager.enrolment import Enrolment
from svetovid.manager.state import Host, State
from svetovid.policy.documents import Consent, Pin
from svetovid.protocol import IdentityRegistration, KeyDeposit, deposit_context

D = "sha256:" + "%064d"


def entries(world: World) -> int:
    return world.clients["alice"].status().entries


def test_everything_twice_is_one_entry(world: World) -> None:
    world.ready()
    before = entries(world)
    world.register()
    world.publish()
    for owner in (world.alice, world.bob, world.carol):
        world.clients[owner.name].put_policy(sign(world.policies[owner.name], owner))
    assert entries(world) == before
    manifest = fake_manifest("dataset", world.alice.key_id, world.identity.key_id, "left")
    world.clients["alice"].deposit_key(manifest, world.keys[manifest.digest()])
    assert entries(world) == before


def test_a_registration_for_another_manager(world: World) -> None:
    """C2: what is signed for one manager is worth nothing at another."""
    message = IdentityRegistration(
        card=world.alice.signed_card(), manager=world.bob.key_id, issued_at=world.now
    )
    body = sign(message, world.alice).canonical()
    assert refused(world.manager.register, body, "").code == "request.manager"


def test_nobody_registers_anothers_card(world: World) -> None:
    client = world.clients["alice"]
    e = refused(client.register_identity, world.bob.signed_card())
    assert e.code == "signature.missing"


def test_a_deposit_is_the_owners_and_for_this_manager(world: World) -> None:
    """T1, K1."""
    world.register()
    me = world.identity.key_id
    deposit = world.clients["bob"].deposit_key
    alices = fake_manifest("dataset", world.alice.key_id, me, "x")
    assert refused(deposit, alices, Secret.random(32)).code == "signature.missing"
    claimed = KeyDeposit(manifest=alices.to_json(), sealed="", owner=world.bob.key_id, manager=me)
    body = sign(claimed, world.bob).canonical()
    assert refused(world.manager.changes["/v1/assets"], body).code == "asset.owner"
    elsewhere = fake_manifest("dataset", world.bob.key_id, world.alice.key_id, "x")
    assert refused(deposit, elsewhere, Secret.random(32)).code == "asset.manager"
    mine = fake_manifest("dataset", world.bob.key_id, me, "x")
    assert refused(deposit, mine, Secret.random(16)).code == "asset.key"
    context = deposit_context(D % 1, world.bob.key_id, me)
    message = KeyDeposit(
        manifest=mine.to_json(),
        sealed=seal(Secret.random(32), world.identity.card.receiving, context),
        owner=world.bob.key_id,
        manager=me,
    )
    body = sign(message, world.bob).canonical()
    assert refused(world.manager.changes["/v1/assets"], body).code == "hpke.open"
    for name in ("A", "a/b", "a%2Fb", "..", "аlice"):
        json = {**message.to_json(), "manifest": {**mine.to_json(), "name": name}}
        bad = sign(KeyDeposit.from_json(json), world.bob).canonical()
        assert refused(world.manager.changes["/v1/assets"], bad).code == "document.invalid"


def test_only_registered_keys_that_stand_may_sign(world: World) -> None:
    """V6: unknown, rotated and revoked keys."""
    job = world.ready()
    stranger = Identity.generate("eve")
    eve = world.client(stranger)
    me = world.identity.key_id
    e = refused(eve.deposit_key, fake_manifest("code", stranger.key_id, me, "x"), Secret.random(32))
    assert e.code == "identity.unknown"
    new, rotation = world.alice.rotate(world.now)
    world.clients["alice"].rotate(rotation)
    world.clients["alice"].rotate(rotation)
    policy = world.policy_of(world.alice, sequence=2, predecessor=world.policies["alice"].digest())
    old = sign(policy, world.alice)
    assert refused(world.clients["alice"].put_policy, old).code == "key.rotated"
    after = world.client(new)
    assert refused(after.put_policy, sign(policy, new)).code == "signature.missing"
    policy = policy.model_copy(update={"rotations": (rotation,)})
    after.put_policy(sign(policy, new))
    assert after.policy(world.alice.key_id, "main").payload_digest() == policy.digest()
    assert after.job(job).state == "ready"
    world.clients["bob"].revoke(world.bob.revoke(world.bob.key_id, "lost", world.now))
    e = refused(world.clients["bob"].put_policy, sign(world.policies["bob"], world.bob))
    assert e.code == "key.revoked"
    host = world.host()
    codes = {r.code for r in refused(host.release, job).reasons}
    assert "consent.revoked" in codes
    world.stop()
    world.start()
    assert "consent.revoked" in {r.code for r in refused(host.release, job).reasons}


def test_a_rotation_to_somebody_elses_key(world: World) -> None:
    world.register()
    statement = Rotation(old=world.alice.key_id, new=world.bob.card, issued_at=world.now)
    envelope = sign(statement, world.alice, world.bob)
    assert refused(world.clients["alice"].rotate, envelope).code == "identity.conflict"


def test_published_documents_are_anchors_and_values_only(world: World) -> None:
    world.register()
    client = world.clients["alice"]
    assert refused(client.publish, world.alice.signed_card()).code == "document.kind"
    anchors = TrustAnchors.from_json(
        {
            "product": "x",
            "version": 1,
            "anchors": [{"kind": "tee", "name": "n", "certificate": "", "simulated": True}],
        }
    )
    two = sign(anchors, world.alice, world.bob)
    assert refused(client.publish, two).code == "signature.missing"
    name = client.publish(sign(anchors, world.bob))
    client.publish(sign(anchors, world.alice))
    assert client.document(name).payload_digest() == name


def test_policies_follow_one_another(world: World) -> None:
    """V1, V8: none is rolled back, and of two successors one wins, even at two managers."""
    world.ready()
    client = world.clients["alice"]
    first = world.policies["alice"]
    more = {"sequence": 2, "predecessor": first.digest()}
    second = world.policy_of(world.alice, **more)
    other = world.policy_of(world.alice, **more, profile="production", accepts=())
    replica = world.open()
    client.put_policy(sign(second, world.alice))
    body = sign(other, world.alice).canonical()
    assert refused(replica.changes["/v1/policies"], body).code == "policy.fork"
    replica.close()
    assert refused(client.put_policy, sign(first, world.alice)).code == "policy.version"
    lost = world.policy_of(world.alice, sequence=4, predecessor=second.digest())
    assert refused(client.put_policy, sign(lost, world.alice)).code == "policy.version"
    anyones = world.policy_of(
        world.alice, sequence=3, predecessor=second.digest(), operators=(), hosts=()
    )
    assert refused(client.put_policy, sign(anyones, world.alice)).code.startswith("lint.")
    elsewhere = world.policy_of(world.alice, manager=world.bob.key_id)
    assert refused(client.put_policy, sign(elsewhere, world.alice)).code == "request.manager"


def test_a_newer_policy_makes_the_consent_stale(world: World) -> None:
    """V12: an owner stops releases of its own asset by one signature."""
    job = world.ready()
    host = world.host()
    second = world.policy_of(world.alice, sequence=2, predecessor=world.policies["alice"].digest())
    world.clients["alice"].put_policy(sign(second, world.alice))
    assert "consent.stale" in {r.code for r in refused(host.release, job).reasons}


def test_jobs_and_consents_of_nobody(world: World) -> None:
    world.ready()
    assets = {
        n: a.model_copy(update={"manager": world.bob.key_id}) for n, a in world.assets.items()
    }
    foreign = sign(world.job_document(assets=assets), world.carol)
    assert refused(world.clients["carol"].put_job, foreign).code == "job.manager"
    consent = Consent(
        job=D % 1, policy=D % 2, owner=world.alice.key_id, slots=("left",), issued_at=world.now
    )
    client = world.clients["alice"]
    assert refused(client.consent, sign(consent, world.alice)).code == "job.unknown"
    job = world.propose()
    eve = Identity.generate("eve")
    eves = consent.model_copy(update={"job": job, "owner": eve.key_id})
    assert refused(client.consent, sign(eves, eve)).code == "consent.owner"
    assert refused(client.consent, sign(consent, eve)).code == "signature.missing"


def test_a_host_needs_an_operator_who_is_known(world: World) -> None:
    """T3, I10: enrolment is signed by a registered operator and by the agent."""
    host = SoftHost(world, "host", SoftTpm(world.ca))
    assert refused(host.enrol).code == "enrol.operator"
    world.register()
    assert refused(host.enrol, agent=world.alice.key_id).code == "signature.missing"
    assert refused(host.enrol, operator=world.bob.key_id).code in (
        "signature.missing",
        "signature.invalid",
    )
    host.enrol()
    again = host.client.document(host.record.payload_digest())
    assert again.payload_digest() == host.record.payload_digest()


def test_a_credential_answered_by_another_tpm(world: World) -> None:
    """I3: and one try each."""
    world.register()
    host = SoftHost(world, "host", SoftTpm(world.ca))
    statement = sign(host.statement(), world.operator)
    ask = (statement, [host.tpm.ek_certificate], host.tpm.ek_public, host.tpm.ak_public)
    challenge = host.client.enrol(*ask).challenge
    assert challenge is not None
    assert refused(host.client.activate, challenge.id, bytes(32)).code == "enrol.name"
    assert refused(host.client.activate, challenge.id, bytes(32)).code == "enrol.unknown"
    other = SoftTpm(SoftCa())
    from svetovid.crypto import b64decode

    challenge = host.client.enrol(*ask).challenge
    assert challenge is not None
    other._ek = host.tpm._ek
    with pytest.raises(ValueError, match="INTEGRITY"):
        other.activate(b64decode(challenge.credential), b64decode(challenge.secret))
    secret = host.tpm.activate(b64decode(challenge.credential), b64decode(challenge.secret))
    world.now += 61
    assert refused(host.client.activate, challenge.id, secret).code == "enrol.expired"


def test_one_machine_one_host(world: World) -> None:
    """I4, I9."""
    world.register()
    host = world.host("one")
    two = SoftHost(world, "two", host.tpm)
    assert refused(two.enrol).code == "enrol.identity_conflict"
    same_name = SoftHost(world, "one", SoftTpm(world.ca))
    assert refused(same_name.enrol).code == "enrol.identity_conflict"
    shared = SoftTpm(world.ca)
    shared._ak = host.tpm._ak
    assert refused(SoftHost(world, "three", shared).enrol).code == "ak.duplicate"
    again = SoftHost(world, "one", host.tpm)
    again.enrol()
    assert again.host_id != host.host_id
    assert refused(host.client.document, D % 1).code == "read.denied"


def tee_statement(world: World, tee: SimulatedTee, agent: Identity) -> Envelope:
    public = load_der_x509_certificate(tee.certificates()[0]).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    statement = HostStatement(
        host="enclave",
        operator=world.operator.key_id,
        machine_owner="the operator",
        kind="simulated-tee",
        device=digest(spki),
        agent=agent.key_id,
        issued_at=world.now,
    )
    return sign(statement, world.operator)


def test_a_simulated_tee_proves_that_it_holds_its_key(world: World, tmp_path: Path) -> None:
    """T3, T4: the certificate alone is public. What the TEE is worth is each owner's to say."""
    tee = SimulatedTee.create(tmp_path / "tee", tmp_path / "ca")
    other = SimulatedTee.create(tmp_path / "other", tmp_path / "ca")
    world.register()
    agent = Identity.generate("agent")
    client = world.client(agent)
    statement = tee_statement(world, tee, agent)

    def ask() -> tuple[str, bytes]:
        answer = client.enrol(statement, tee.certificates())
        assert answer.challenge is None
        assert answer.possession is not None
        host = statement.payload_digest()
        asked = answer.possession
        return asked.id, enrolment_binding(world.me, host, asked.nonce)

    name, said = ask()
    assert refused(client.possess, name, *other.report(said, D % 0)).code == "tee.signature"
    assert refused(client.possess, name, *tee.report(said, D % 0)).code == "enrol.unknown"
    name, _ = ask()
    assert refused(client.possess, name, *tee.report(said, D % 0)).code == "challenge.mismatch"
    name, _ = ask()
    assert refused(client.activate, name, bytes(32)).code.startswith("json.")
    assert not world.manager._core.state.hosts
    for _ in range(2):
        name, said = ask()
        record = client.possess(name, *tee.report(said, D % 0)).open(HostRecord, by=world.me)
        assert record.host_id == statement.payload_digest()
    assert len(world.manager._core.state.hosts) == 1


def test_hosts_may_join_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is compared with those who are there, while another comes."""
    world.register()
    world.host()
    hosts = world.manager._core.state.hosts
    first = Enrolment._conflict
    others = iter(range(1000))

    def slowly(self: Enrolment, state: State, host: Host, *more: Any) -> None:
        hosts[D % next(others)] = replace(host, name="other", device="", ak="")
        first(self, state, host, *more)

    with monkeypatch.context() as patched:
        patched.setattr(Enrolment, "_conflict", slowly)
        world.host("host-2")


def test_an_enrolment_that_waited_too_long(world: World) -> None:
    world.register()
    host = SoftHost(world, "host", SoftTpm(world.ca))
    host.client._clock = lambda: world.now - 500
    assert refused(host.enrol).code == "request.time"


@pytest.mark.parametrize("recipient", [False, True])
def test_a_strangers_consent_brings_no_veto(world: World, recipient: bool) -> None:
    """Somebody registered, with a sound policy that no host meets: the job goes on without it. A
    recipient is a party, and owns nothing either."""
    job = world.ready()
    eve = world.recipient if recipient else Identity.generate("eve")
    client = world.client(eve)
    client.register_identity(eve.signed_card())
    unmet = Pin(signer=eve.key_id, product="none", min_version=1)
    policy = world.policy_of(eve, anchors=unmet, references=(unmet,))
    client.put_policy(sign(policy, eve))
    consent = Consent(
        job=job, policy=policy.digest(), owner=eve.key_id, slots=("left",), issued_at=world.now
    )
    assert refused(client.consent, sign(consent, eve)).code == "consent.owner"
    world.host().release(job)


def test_an_identity_is_no_agent_key(world: World) -> None:
    """Otherwise a revoked key would live on as the agent of a host."""
    world.ready()
    host = world.host()
    statement = sign(host.statement(agent=world.alice.key_id), world.operator)
    tpm = host.tpm
    error = refused(
        world.clients["alice"].enrol,
        statement,
        [tpm.ek_certificate],
        tpm.ek_public,
        tpm.ak_public,
    )
    assert error.code == "enrol.identity_conflict"
    assert "nobody's identity" in error.reason.expected


def test_an_agent_key_is_no_identity(world: World) -> None:
    """The other way round: neither by registering it, nor by rotating to it."""
    world.ready()
    host = world.host()
    own = host.agent.signed_card()
    assert refused(host.client.register_identity, own).code == "identity.conflict"
    said = Rotation(old=world.alice.key_id, new=host.agent.card, issued_at=world.now)
    both = sign(said, world.alice, host.agent)
    assert refused(world.clients["alice"].rotate, both).code == "identity.conflict"
