"""A manager's own evidence (T1), on libtpms: proven to those who ask, and every lie about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import softtpm
from inprocess import InProcess
from softtpm import SoftCa, SoftTpm
from svetovid import stakeholder
from svetovid.assets import Manifest
from svetovid.cli.tpm_prover import TpmProver
from svetovid.crypto import Envelope, Identity, Secret, b64encode, digest, sign
from svetovid.errors import (
    EvidenceError,
    HostError,
    InputError,
    LimitError,
    SvetovidError,
    TransportError,
)
from svetovid.evidence import (
    NO_JOB,
    NO_SUBJECT,
    Challenge,
    HostRecord,
    HostStatement,
    JobKeys,
    ReferenceValues,
    TpmEvidence,
    TrustAnchor,
    TrustAnchors,
    activation_proof,
    binding,
)
from svetovid.evidence.tpm.constants import Cc
from svetovid.evidence.tpm.credential import RANDOMNESS_BYTES, make_credential
from svetovid.host.measure import Launcher, Root, digests, find
from svetovid.host.tpm import Tpm, create_ca, issue_ek_certificate, open_transport
from svetovid.host.tpm.wire import TpmRefusedError
from svetovid.manager import Manager, PassphraseSealer, make_app, open_home, open_manager
from svetovid.protocol import ManagerDemand, ProofRequest
from svetovid.stakeholder import Stakeholder
from svetovid.stakeholder.pins import pinned_demand

FILES = {"manager.py": b"serve()\n", "crypto.so": b"\x7fELF"}


@dataclass
class Lying:
    """A manager's operator who changed the program: it quotes what it likes, on the real TPM."""

    real: TpmProver
    certificates: tuple[bytes, ...] = ()
    ek: bytes = b""
    ak: bytes = b""
    opened: bytes | None = None
    held: TpmEvidence | None = None
    change: Callable[[TpmEvidence], TpmEvidence] = field(default=lambda e: e)
    keys: JobKeys | None = None
    channel: str = ""

    def __post_init__(self) -> None:
        self.certificates = self.certificates or self.real.certificates
        self.ek = self.ek or self.real.ek
        self.ak = self.ak or self.real.ak

    def activate(self, credential: bytes, secret: bytes) -> Secret:
        if self.opened is not None:
            return Secret(self.opened)
        return self.real.activate(credential, secret)

    def evidence(self, challenge: Envelope, keys: JobKeys, channel: str, host: str) -> TpmEvidence:
        if self.held is not None:
            return self.change(self.held.model_copy(update={"challenge": challenge}))
        made = self.real.evidence(challenge, self.keys or keys, self.channel or channel, host)
        return self.change(made)


class Place:
    """A manager on a TPM of its own, and Ann, who is about to trust it."""

    def __init__(self, folder: Path, tpm: Tpm) -> None:
        self.folder = folder
        self.tpm = tpm
        self.tree = folder / "tree"
        self.tree.mkdir()
        for name, content in FILES.items():
            (self.tree / name).write_bytes(content)
        certificate = issue_ek_certificate(folder / "ca", tpm.ek())
        self.log = Launcher(tpm, None, folder / "log", roots=[Root(self.tree, "/opt/m")])
        self.prover = TpmProver(tpm, certificate, self.log)
        anchor = TrustAnchor(
            kind="tpm-ek",
            name="a software TPM",
            certificate=b64encode(create_ca(folder / "ca").der),
            simulated=True,
        )
        self.anchors = TrustAnchors(product="anchors", version=1, anchors=(anchor,))
        measured = digests(find(Root(self.tree, "/opt/m")))
        values = {file.path: (value,) for file, value in measured}
        self.values = ReferenceValues(product="manager", version=1, files=values)
        self.ann = stakeholder.create(folder / "ann", "ann", Secret(b"canary-passphrase"))
        self.ann.transport = lambda: InProcess(self.app)
        self.manager: Manager | None = None
        self.serve(self.prover)
        stakeholder.pin_manager(self.ann, self.pin_file)

    @property
    def pin_file(self) -> Path:
        return self.folder / "m" / "manager.json"

    @property
    def demand(self) -> ManagerDemand:
        return ManagerDemand(anchors=self.anchors, references=(self.values,))

    def serve(self, prover: Any, channel: str = "") -> None:
        """Start the manager, again with the same keys: what it runs is its operator's to choose."""
        self.close()
        sealer = PassphraseSealer(Secret(b"root"))
        home = open_home(self.folder / "m", sealer, host="127.0.0.1", port=1, prover=prover)
        if channel:
            pin = home.pin.model_copy(update={"tls_certificate": channel})
            home = replace(home, pin=pin)
        self.identity = home.identity
        self.manager = open_manager(home)
        self.app = make_app(self.manager)

    def close(self) -> None:
        if self.manager is not None:
            self.manager.close()

    def verify(self, **changes: Any) -> str:
        demand = self.demand.model_copy(update=changes)
        return stakeholder.verify_manager(self.ann, demand).verdict

    def refused(self, code: str, **changes: Any) -> SvetovidError:
        with pytest.raises(SvetovidError) as e:
            self.verify(**changes)
        assert code in {r.code for r in e.value.reasons}, e.value
        assert all(r.next_step for r in e.value.reasons)
        return e.value

    def deposit(self) -> str:
        client = stakeholder.connect(self.ann)
        manifest = Manifest(
            kind="dataset",
            name="data",
            version=1,
            owner=self.ann.key_id,
            manager=client.manager,
            size=100,
            chunk_bytes=1 << 16,
            chunks=1,
            root=digest(b"root"),
            commitment=b64encode(bytes(32)),
            salt=b64encode(bytes(32)),
        )
        with client:
            return client.deposit_key(manifest, Secret.random(32))

    @property
    def keys(self) -> dict[str, str]:
        assert self.manager is not None
        return dict(self.manager._store.state.assets)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    try:
        tpm = Tpm(open_transport(f"libtpms:{tmp_path / 'tpm.state'}"))
    except HostError as e:
        pytest.skip(e.code)
    with tpm:
        tpm.startup()
        place = Place(tmp_path, tpm)
        yield place
        place.close()


def test_t1_a_manager_proves_what_it_runs(place: Place) -> None:
    assert place.verify() == "manager: proven (measurement: launcher, simulated)"
    claims = stakeholder.verify_manager(place.ann, place.demand)
    assert claims.status.evidence == "tpm"
    assert claims.proof is not None
    assert claims.proof.affirmed
    assert claims.proof.facts()["log_entries"] == 1 + len(FILES)
    hardware = place.anchors.anchors[0].model_copy(update={"simulated": False})
    honest = place.anchors.model_copy(update={"anchors": (hardware,)})
    assert place.verify(anchors=honest).endswith("(measurement: launcher, simulated)"), "by name"


def test_t1_without_a_device_it_is_trusted_and_unproven(place: Place) -> None:
    claims = stakeholder.verify_manager(place.ann)
    assert (claims.verdict, claims.proof) == ("manager: trusted, unproven", None)
    assert "asked" in claims.why
    place.serve(None)
    stakeholder.pin_manager(place.ann, place.pin_file)
    claims = stakeholder.verify_manager(place.ann, place.demand)
    assert claims.verdict == "manager: trusted, unproven"
    assert "device" in claims.why
    assert claims.status.evidence == "none"


def test_t1_a_pinned_device_that_proves_nothing_any_more(place: Place) -> None:
    """Going back from proven to unproven is no way around."""
    place.serve(None)
    place.refused("evidence.none")


# -- what is measured


def test_t1_a_changed_file(place: Place) -> None:
    (place.tree / "manager.py").write_bytes(b"leak()\n")
    place.refused("ima.digest")


def test_t1_a_file_nobody_listed(place: Place) -> None:
    (place.tree / "extra.py").write_bytes(b"leak()\n")
    place.refused("ima.unlisted")


def test_t1_a_file_changed_for_a_moment_stays_in_the_log(place: Place) -> None:
    (place.tree / "manager.py").write_bytes(b"leak()\n")
    place.refused("ima.digest")
    (place.tree / "manager.py").write_bytes(FILES["manager.py"])
    place.refused("ima.digest")


def test_t1_a_log_without_the_changed_file(place: Place) -> None:
    whole = place.log.log_since(0)
    (place.tree / "manager.py").write_bytes(b"leak()\n")
    place.serve(Lying(place.prover, change=lambda e: _update(e, log=b64encode(whole))))
    place.refused("ima.replay")


# -- whose evidence it is


def _update(evidence: TpmEvidence, **changes: Any) -> TpmEvidence:
    return evidence.model_copy(update=changes)


def fresh(place: Place, **changes: Any) -> Envelope:
    """A challenge as Ann makes them."""
    assert place.manager is not None
    record = Envelope.from_json(place.manager.own.record()).peek(HostRecord)
    now = int(time.time())
    fields = {
        "nonce": b64encode(bytes(32)),
        "manager": place.identity.key_id,
        "host": record.host_id,
        "job": NO_JOB,
        "role": "manager",
        "issued_at": now,
        "expires_at": now + 60,
        "asker": place.ann.key_id,
    }
    return sign(Challenge(**(fields | changes)), place.ann.identity)


def answer(place: Place, challenge: Envelope) -> Any:
    """What the manager answers to a challenge and a credential for its own TPM."""
    assert place.manager is not None
    secret = b"s" * 32
    credential, encrypted = make_credential(
        place.prover.ek, place.prover.ak, secret, randomness=bytes(range(RANDOMNESS_BYTES))
    )
    request = ProofRequest(
        challenge=challenge, credential=b64encode(credential), secret=b64encode(encrypted)
    )
    return place.manager.own.prove(request)


def test_t1_replayed_evidence(place: Place) -> None:
    """As it was, and with the new challenge put in: the quote is over the old nonce."""
    lying = Lying(place.prover)
    place.serve(lying)
    held = TpmEvidence.from_json(answer(place, fresh(place))["evidence"])
    lying.held = held
    place.refused("challenge.mismatch")
    lying.change = lambda _: held
    place.refused("challenge.mismatch")


def test_t1_another_channel(place: Place) -> None:
    """Somebody in between, with a certificate of its own, asks the good manager for evidence."""
    place.serve(place.prover, channel=b64encode(SoftCa("between").der))
    place.refused("manager.activation")
    place.serve(Lying(place.prover, channel=digest(b"between")))
    place.refused("channel.binding")
    pinned = stakeholder.pinned_manager(place.ann.home).channel
    relabelled = Lying(
        place.prover,
        channel=digest(b"between"),
        change=lambda e: _update(e, channel=pinned),
    )
    place.serve(relabelled)
    place.refused("challenge.mismatch")


def test_t1_another_managers_keys(place: Place) -> None:
    """The quote of a good machine for a good manager, handed on by one who holds other keys."""
    other = Identity.generate("good")
    keys = JobKeys(receiving=other.card.receiving, signing=other.key_id)
    place.serve(Lying(place.prover, keys=keys))
    place.refused("manager.keys")
    own = place.identity
    real = JobKeys(receiving=own.card.receiving, signing=own.key_id)
    place.serve(Lying(place.prover, keys=keys, change=lambda e: _update(e, keys=real)))
    place.refused("challenge.mismatch")


# -- whose TPM it is


def test_t3_a_vendor_the_owner_does_not_believe(place: Place) -> None:
    other = TrustAnchor(
        kind="tpm-ek", name="x", certificate=b64encode(SoftCa("other").der), simulated=False
    )
    mine = TrustAnchors(product="mine", version=1, anchors=(other,))
    place.refused("ek.untrusted", anchors=mine)


def test_t3_a_strangers_tpm(place: Place) -> None:
    """Genuine and of a believed vendor, but not the machine that was pinned."""
    theirs = SoftTpm(SoftCa())
    lying = Lying(place.prover, (theirs.ek_certificate,), theirs.ek_public, theirs.ak_public)
    place.serve(lying)
    place.refused("manager.device")


def test_t3_a_certificate_of_another_key(place: Place) -> None:
    place.serve(Lying(place.prover, certificates=(SoftTpm(SoftCa()).ek_certificate,)))
    place.refused("ek.key_mismatch")


@pytest.mark.parametrize("opened", [None, b"guess" * 6 + b"xx"])
def test_i3_an_ak_that_is_not_in_the_tpm(place: Place, opened: bytes | None) -> None:
    """I3: the AK is software; only the EK's TPM could say that it is not, and it does."""
    soft = SoftTpm(SoftCa())
    place.serve(Lying(place.prover, ak=soft.ak_public, opened=opened))
    place.refused("manager.credential" if opened is None else "manager.activation")


@pytest.mark.parametrize("fails", ["activate_credential", "quote"])
def test_a_tpm_that_fails_is_no_evidence(
    place: Place, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TPM that is gone, or says no to a quote, is the machine's fault and told as that."""
    error = TransportError("tpm.transport", next_step="look at the TPM")
    if fails == "quote":
        error = TpmRefusedError(Cc.QUOTE, 0x101)

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(place.tpm, fails, broken)
    refused = place.refused(error.code)
    assert refused.exit_code == error.exit_code


def test_i3_an_ak_that_signs_what_it_is_given(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3: refused by its attributes, before any credential is made for it."""
    monkeypatch.setattr(softtpm, "AK_ATTRIBUTES", softtpm.AK_ATTRIBUTES & ~0x10000)
    lying = Lying(place.prover, ak=SoftTpm(SoftCa()).ak_public)
    monkeypatch.setattr(lying, "activate", pytest.fail)
    place.serve(lying)
    place.refused("ak.attributes")


def test_t1_a_record_about_somebody_else(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another's statement on the same device, countersigned by this manager."""
    assert place.manager is not None
    own = place.manager.own
    record = own._record
    assert record is not None
    said = record.statement.peek(HostStatement)
    other = Identity.generate("other")
    for change in ({"operator": other.key_id}, {"agent": other.key_id}):
        statement = said.model_copy(update=change)
        signed = sign(statement, other, place.identity)
        monkeypatch.setattr(own, "_record", record.model_copy(update={"statement": signed}))
        place.refused("manager.record")


# -- what a manager answers


@pytest.mark.parametrize(
    "change",
    [
        {"role": "release"},
        {"role": "finish"},
        {"host": digest(b"another")},
        {"job": digest(b"a job")},
        {"log_offset": 1},
    ],
)
def test_k2_no_evidence_for_anything_else(place: Place, change: dict[str, Any]) -> None:
    """K2, T6: what it gives of itself can be used for nothing else."""
    with pytest.raises(EvidenceError, match=r"challenge\.scope"):
        answer(place, fresh(place, **change))


def test_a_challenge_by_nobody_or_for_another_manager(place: Place) -> None:
    with pytest.raises(SvetovidError, match=r"signature\.missing"):
        answer(place, fresh(place, asker=None))
    own = sign(fresh(place, asker=None).peek(Challenge), place.identity)
    with pytest.raises(EvidenceError, match=r"challenge\.scope"):
        answer(place, own)
    with pytest.raises(SvetovidError, match=r"request\.manager"):
        answer(place, fresh(place, manager=Identity.generate("m").key_id))


def test_i3_a_manager_opens_no_credential_for_others(place: Place) -> None:
    """I3: what comes back is bound to this evidence; the secret in the credential stays there."""
    challenge = fresh(place)
    found = answer(place, challenge)
    assert b64encode(b"s" * 32) not in str(found)
    evidence = TpmEvidence.from_json(found["evidence"])
    bound = binding(challenge.peek(Challenge), evidence.keys, evidence.channel, NO_SUBJECT)
    assert found["proof"] == b64encode(activation_proof(b"s" * 32, bound))


def test_d2_a_flood_keeps_nobody_waiting(place: Place) -> None:
    """D2: a TPM is slow; what exceeds the places is refused at once."""
    begun, go = threading.Semaphore(0), threading.Event()

    class Slow(Lying):
        def activate(self, credential: bytes, secret: bytes) -> Secret:
            begun.release()
            go.wait(10)
            return super().activate(credential, secret)

    place.serve(Slow(place.prover))
    challenge = fresh(place)
    threads = [threading.Thread(target=answer, args=(place, challenge)) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.acquire()
    deadline = time.monotonic() + 10
    assert place.manager is not None
    while place.manager.own._places._value and time.monotonic() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.01)
    with pytest.raises(LimitError, match=r"evidence\.busy"):
        answer(place, challenge)
    go.set()
    for thread in threads:
        thread.join()
    assert answer(place, challenge)


# -- required before a key is uploaded


def require(place: Place, **changes: Any) -> None:
    demand = place.demand.model_copy(update=changes)
    stakeholder.pin_manager(place.ann, place.pin_file, demand=demand)


def test_t1_required_evidence_and_then_a_key(place: Place) -> None:
    require(place)
    assert stakeholder.verify_manager(place.ann).verdict.startswith("manager: proven")
    assert place.deposit() in place.keys


def test_t1_no_key_for_a_manager_that_is_not_what_was_required(place: Place) -> None:
    require(place)
    (place.tree / "manager.py").write_bytes(b"leak()\n")
    with pytest.raises(EvidenceError, match=r"ima\.digest"):
        place.deposit()
    assert not place.keys


def test_t1_no_key_for_a_manager_without_a_device(place: Place) -> None:
    place.serve(None)
    require(place)
    for ask in (place.deposit, lambda: stakeholder.verify_manager(place.ann)):
        with pytest.raises(EvidenceError, match=r"manager\.unproven"):
            ask()
    assert not place.keys
    stakeholder.pin_manager(place.ann, place.pin_file, trust_unproven=True)
    assert place.deposit() in place.keys


def test_t1_a_requirement_outlives_a_new_pin(place: Place) -> None:
    """Whoever hands out manager.json cannot take back what an owner requires."""
    require(place)
    again = stakeholder.pin_manager(place.ann, place.pin_file)
    assert again.require_evidence == place.demand.digest()
    other = place.demand.model_copy(update={"references": (place.values, place.values)})
    replaced = stakeholder.pin_manager(place.ann, place.pin_file, demand=other)
    assert replaced.require_evidence == other.digest()
    assert (
        stakeholder.pin_manager(place.ann, place.pin_file, trust_unproven=True).require_evidence
        is None
    )


def test_a_managers_own_file_requires_nothing(place: Place) -> None:
    """The requirement is the owner's: what the manager's file says of it does not count."""
    pin = stakeholder.read_pin(place.pin_file)
    place.pin_file.write_bytes(
        pin.model_copy(update={"require_evidence": digest(b"x")}).canonical()
    )
    assert stakeholder.pin_manager(place.ann, place.pin_file).require_evidence is None


def test_a_demand_that_was_changed_or_lost(place: Place) -> None:
    require(place)
    weaker = place.demand.model_copy(update={"anchors": place.anchors.model_copy()})
    file = place.ann.home.demand
    assert pinned_demand(place.ann.home) == weaker
    changed = place.demand.model_copy(update={"references": (place.values, place.values)})
    file.write_bytes(changed.canonical())
    with pytest.raises(SvetovidError, match=r"manager\.demand"):
        place.deposit()
    file.unlink()
    with pytest.raises(InputError, match=r"file\.unreadable"):
        place.deposit()
    assert not place.keys


def test_the_stakeholder_needs_no_registration_to_ask(place: Place) -> None:
    stranger: Stakeholder = stakeholder.create(place.folder / "bo", "bo", Secret(b"passphrase"))
    stranger.transport = place.ann.transport
    stakeholder.pin_manager(stranger, place.pin_file)
    assert stakeholder.verify_manager(stranger, place.demand).proof is not None
