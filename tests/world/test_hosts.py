"""Which machines: enrolment (T3), what they are worth (T4), what a quote binds (T6)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import svetovid
import svetovid.host.attester as attester
from softtpm import SELECTION, SoftTpm
from svetovid.crypto import Identity, ReceivingKey, b64encode, sign
from svetovid.crypto.canonical import canonical
from svetovid.evidence.documents import Challenge, JobKeys, binding
from svetovid.manager import Settings
from world.machines import Machine, sha
from world.world import FILES, OWNERS, World


def test_t3_a_policy_names_operators_or_hosts(world: World) -> None:
    """T3: any vendor's TPM is anybody's TPM."""
    with world.refuses("lint.any_tpm", kind="rejection"):
        world.policy("alice", operators=(), hosts=())


def test_t3_a_host_that_a_policy_does_not_name(world: World) -> None:
    other = world.machine("host-2")
    world.policy("alice", hosts=(other.host_id,))
    job = world.agreed()
    with world.refuses("policy.host") as refusal:
        world.run(job)
    assert {r.owner for r in refusal.error.reasons} == {world.key("alice")}
    world.run(job, other)


def test_t3_an_operator_that_a_policy_does_not_name(world: World) -> None:
    world.policy("bob", operators=(Identity.generate("other").key_id,))
    with world.refuses("policy.host"):
        world.run(world.agreed())


def test_t3_a_statement_by_nobody_known(world: World) -> None:
    world.people["eve"] = Identity.generate("eve")
    machine = world.machine("host-2", enrol=False)
    with world.refuses("enrol.operator", records=0):
        world.enrol(machine, "north", operator="eve")


def test_t3_a_statement_in_the_operators_name(world: World) -> None:
    eve = Identity.generate("eve")
    machine = world.machine("host-2", enrol=False)
    statement = sign(machine.statement(world.people["opal"], world.clock()), eve)
    client = world.manager.client(machine.agent)
    with world.refuses("signature.missing", records=0):
        client.enrol(
            statement, [machine.tpm.ek_certificate], machine.tpm.ek_public, machine.tpm.ak_public
        )


def ask(world: World, machine: Machine, tpm: SoftTpm | None = None, **changes: Any) -> Any:
    """Ask for enrolment of ``machine`` with the keys of another TPM."""
    tpm = tpm or machine.tpm
    statement = machine.statement(world.people["opal"], world.clock(), **changes)
    client = world.manager.client(machine.agent)
    signed = sign(statement, world.people["opal"])
    return client, client.enrol(signed, [tpm.ek_certificate], tpm.ek_public, tpm.ak_public)


def test_t3_a_statement_about_another_device(world: World) -> None:
    machine = world.machine("host-2", enrol=False)
    with world.refuses("enrol.device", kind="rejection"):
        ask(world, machine, SoftTpm(world.ca))


def forger(world: World) -> SoftTpm:
    """Software that says it is the host's TPM, down to its name, and lacks its key."""
    said = {"ek_public": world.host.tpm.ek_public, "ak_public": world.host.tpm.ak_public}
    return type("Forger", (SoftTpm,), said)(world.ca)


def test_i2_a_quote_by_another_key(world: World) -> None:
    """I2: signed in software, by a key that was never activated."""
    run = world.start(world.agreed())
    evidence = world.evidence(run)
    challenge = evidence.challenge.peek(Challenge)
    soft = forger(world)
    soft.pcrs = world.host.tpm.pcrs
    qualifying = binding(challenge, evidence.keys, evidence.channel)
    attest, signature = soft.quote(qualifying, SELECTION)
    with world.refuses("sig.invalid"):
        world.replay(
            evidence.model_copy(
                update={"quote": b64encode(attest), "signature": b64encode(signature)}
            )
        )


def test_i3_an_ak_of_another_tpm(world: World) -> None:
    """I3: the certified EK cannot open a credential made for an AK elsewhere."""
    machine = world.machine("host-2", enrol=False)
    elsewhere = SoftTpm(world.ca)
    mixed = SoftTpm(world.ca)
    mixed._ek, mixed.ek_certificate = machine.tpm._ek, machine.tpm.ek_certificate
    mixed._ak = elsewhere._ak
    client, answer = ask(world, machine, mixed)
    with pytest.raises(ValueError, match="not for this AK"):
        machine.tpm.activate(
            *(
                __import__("base64").b64decode(x)
                for x in (answer.challenge.credential, answer.challenge.secret)
            )
        )
    with world.refuses("enrol.name", kind="rejection"):
        client.activate(answer.challenge.id, bytes(32))
    with world.refuses("enrol.unknown", records=0):
        client.activate(answer.challenge.id, bytes(32))


def test_i4_one_device_one_name(world: World) -> None:
    with world.refuses("enrol.identity_conflict", kind="rejection"):
        ask(world, world.host, host="another-name")


def test_i9_one_ak_one_host(world: World) -> None:
    machine = world.machine("host-2", enrol=False)
    machine.tpm._ak = world.host.tpm._ak
    with world.refuses("ak.duplicate", kind="rejection"):
        ask(world, machine)


def test_i10_whoever_enrols_is_known(world: World) -> None:
    """I10: the request itself is signed by the agent key that the statement names."""
    machine = world.machine("host-2", enrol=False)
    machine.statement(world.people["opal"], world.clock())
    signed = sign(machine.statement(world.people["opal"], world.clock()), world.people["opal"])
    stranger = world.manager.client(Identity.generate("stranger"))
    with world.refuses("signature.missing", records=0):
        stranger.enrol(
            signed, [machine.tpm.ek_certificate], machine.tpm.ek_public, machine.tpm.ak_public
        )


def test_i7_c4_a_clean_machine_answers_for_a_bad_one(world: World) -> None:
    """I7: the cuckoo's own keys stand in no quote of the clean machine."""
    job = world.agreed()
    bad = world.machine("host-2")
    bad.log.append("/opt/evil.so")
    run = world.start(job, bad)
    asked = run.main.client.challenge(bad.host_id, job.digest(), "release")
    clean = world.start(job).attester.evidence(
        asked, run.main._keys, run.main.client.channel, "sha256:" + "0" * 64
    )
    with world.refuses("challenge.scope", records=0):
        world.replay(clean, bad)  # type: ignore[arg-type]
    posing = clean.model_copy(update={"host": bad.host_id})
    with world.refuses("attest.signer"):
        world.replay(posing, bad)  # type: ignore[arg-type]


def test_t4_production_refuses_launcher_and_simulated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T4, V15: and nothing in the environment changes that."""
    for name in ("SVETOVID_PROFILE", "SVETOVID_TEST", "SVETOVID_ALLOW_SIMULATED", "DEBUG"):
        monkeypatch.setenv(name, "test")
    world.policy("alice", profile="production", accepts=())
    job = world.agreed()
    with world.refuses("policy.simulated") as refusal:
        world.run(job)
    assert refusal.codes == {"policy.simulated", "policy.launcher"}
    assert {r.owner for r in refusal.error.reasons} == {world.key("alice")}


def test_t4_accepts_means_nothing_in_production(world: World) -> None:
    with world.refuses("lint.accepts", kind="rejection"):
        world.policy("alice", profile="production", accepts=("simulated", "launcher"))


def test_t4_a_real_device_with_a_launcher(world: World) -> None:
    """T4: each weakness is looked at by itself; an anchor that is not simulated helps one only."""
    world.anchors["alice"] = world.anchors_of(world.ca, simulated=False)
    world.publish("alice")
    from svetovid.policy.documents import Pin

    pin = Pin(document=world.anchors["alice"].digest())
    world.policy("alice", profile="production", accepts=(), anchors=pin)
    with world.refuses("policy.launcher") as refusal:
        world.run(world.agreed())
    assert refusal.codes == {"policy.launcher"}


@pytest.mark.parametrize(
    ("accepts", "code"),
    [(("launcher",), "policy.simulated"), (("simulated",), "policy.launcher")],
)
def test_t4_a_test_policy_accepts_what_it_names(
    world: World, accepts: tuple[str, ...], code: str
) -> None:
    world.policy("bob", accepts=accepts)
    with world.refuses(code) as refusal:
        world.run(world.agreed())
    assert refusal.codes == {code}


def test_t4_no_switch_outside_the_policy() -> None:
    """T4: neither the manager's settings nor the environment decide what a host is worth."""
    words = ("simul", "launcher", "profile", "insecure", "test", "dev")
    for field in dataclasses.fields(Settings):
        assert not any(w in field.name for w in words)
    root = Path(svetovid.__file__).parent
    for room in ("crypto", "evidence", "policy", "transparency", "protocol", "manager"):
        for path in (root / room).rglob("*.py"):
            text = path.read_text()
            assert "environ" not in text.replace("environment", ""), path
            assert "getenv" not in text, path


def tee_world(world: World, folder: Path) -> Machine:
    """Every owner's anchors and values name one simulated TEE as well."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from svetovid.evidence.documents import TrustAnchor, TrustAnchors
    from svetovid.host.tpm.simulated_ca import create_ca
    from svetovid.policy.documents import Pin

    measurement = sha(b"enclave")
    authority = create_ca(folder / "tee-ca", "tee")
    der = authority.certificate.public_bytes(Encoding.DER)
    anchor = TrustAnchor(kind="tee", name="SIMULATED", certificate=b64encode(der), simulated=True)
    anchors = TrustAnchors(product="tee", version=1, anchors=(anchor,))
    world.runtime = world.runtime.model_copy(
        update={"version": 2, "tee_measurements": (measurement,)}
    )
    for owner in OWNERS:
        world.anchors[owner] = anchors
        world.references[owner] = (world.runtime,)
        world.publish(owner)
        world.policy(
            owner,
            anchors=Pin(document=anchors.digest()),
            references=(Pin(document=world.runtime.digest()),),
            accepts=("simulated",),
        )
    return world.machine("enclave-1", tee=folder / "tee-ca", measurement=measurement)


@pytest.fixture
def today(tmp_path: Path) -> Iterator[World]:
    """Simulated TEEs are certified from the day they are made."""
    world = World(tmp_path, now=int(time.time()))
    yield world
    world.close()


def test_a_simulated_tee_runs_an_enclave_job_where_named(today: World, tmp_path: Path) -> None:
    machine = tee_world(today, tmp_path)
    run = today.run(today.agreed(mode="enclave"), machine)
    assert set(run.open()) == {"left", "right", "code"}
    run.renew()
    assert run.finish()


def test_t4_a_simulated_tee_under_a_production_policy(today: World, tmp_path: Path) -> None:
    machine = tee_world(today, tmp_path)
    today.policy("alice", profile="production", accepts=())
    with today.refuses("policy.simulated") as refusal:
        today.run(today.agreed(mode="enclave"), machine)
    assert refusal.codes == {"policy.simulated"}


FIELDS = {
    "label": "another label",
    "version": 2,
    "role": "renew",
    "manager": "ed25519:" + "1" * 64,
    "host": "sha256:" + "2" * 64,
    "challenge": "sha256:" + "3" * 64,
    "job": "sha256:" + "4" * 64,
    "receiving": ReceivingKey.generate().public,
    "signing": "ed25519:" + "5" * 64,
    "channel": "sha256:" + "6" * 64,
    "subject": "sha256:" + "7" * 64,
}


def bound(
    challenge: Challenge, keys: JobKeys, channel: str, subject: str, swap: Any = None
) -> bytes:
    """The rule T6 written down a second time."""
    fields = {
        "label": "svetovid evidence binding",
        "version": 1,
        "role": challenge.role,
        "manager": challenge.manager,
        "host": challenge.host,
        "challenge": challenge.digest(),
        "job": challenge.job,
        "receiving": keys.receiving,
        "signing": keys.signing,
        "channel": channel,
        "subject": subject,
    }
    assert set(fields) == set(FIELDS)
    text = json.dumps(fields | (swap or {}), sort_keys=True, separators=(",", ":"))
    assert canonical(fields | (swap or {})) == text.encode()
    return hashlib.sha256(text.encode()).digest()


def test_t6_the_binding_as_specified(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attester, "binding", bound)
    world.run(world.agreed())


@pytest.mark.parametrize("field", FIELDS)
def test_t6_every_bound_field(world: World, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """T6: a quote over anything else than what the evidence says is worth nothing."""

    def swapped(*args: Any) -> bytes:
        return bound(*args, {field: FIELDS[field]})

    monkeypatch.setattr(attester, "binding", swapped)
    run = world.start(world.agreed())
    with world.refuses("challenge.mismatch"):
        run.ask()


@pytest.mark.parametrize("name", ["receiving", "signing"])
def test_t6_another_key_put_into_evidence(world: World, name: str) -> None:
    """K2, T6: whoever relays evidence cannot have the keys sealed to itself."""
    evidence = world.evidence(world.start(world.agreed()))
    keys = evidence.keys.model_copy(update={name: FIELDS[name]})
    with world.refuses("challenge.mismatch"):
        world.replay(evidence.model_copy(update={"keys": keys}))


def test_a_file_nobody_listed(world: World) -> None:
    """M17: an older edition's files too; the first line of every story."""
    world.host.log.append("/tmp/evil.so")
    with world.refuses("ima.unlisted"):
        world.run(world.agreed())


def test_m_a_changed_file(world: World) -> None:
    name = next(iter(FILES))
    world.host.log.append(name, b"changed")
    with world.refuses("ima.digest"):
        world.run(world.agreed())


def test_m1_m3_a_line_taken_out_of_the_log(world: World) -> None:
    """M1, M3: the PCR remembers."""
    job = world.agreed()
    with world.host.quietly():
        world.host.log.append("/tmp/evil.so")
    with world.refuses("ima.replay"):
        world.run(job)


def test_f10_a_quote_from_before_a_reboot_with_a_log_from_after(world: World) -> None:
    run = world.start(world.agreed())
    before = world.evidence(run)
    world.host.files = dict(reversed(FILES.items()))
    world.host.reset()
    spliced = before.model_copy(update={"log": b64encode(world.host.log.log_since(0))})
    with world.refuses("ima.replay"):
        world.replay(spliced)
