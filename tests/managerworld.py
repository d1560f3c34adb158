"""A small world around a real manager: owners, an operator, hosts on software TPMs, a clock."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from managers import LocalManager
from softtpm import SELECTION, SoftCa, SoftTpm
from svetovid.assets.manifest import Manifest
from svetovid.crypto import Identity, ReceivingKey, Secret, b64encode, sign
from svetovid.errors import SvetovidError
from svetovid.evidence.documents import (
    NO_JOB,
    NO_SUBJECT,
    Challenge,
    HostStatement,
    JobKeys,
    ReferenceValues,
    TpmEvidence,
    TrustAnchor,
    TrustAnchors,
    binding,
)
from svetovid.manager import Settings
from svetovid.manager.store import Fault
from svetovid.policy.documents import Consent, Grant, Job, JobAsset, JobLimits, Limits, Pin, Policy
from svetovid.policy.outputs import OutputSpec, Recipient, TensorSpec

NOW = 1_800_000_000
CHANNEL = b"a pinned certificate"


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


FILES = {f"/opt/svetovid/lib/file{i}.py": sha(b"file %d" % i) for i in range(6)}


def fake_manifest(kind: Any, owner: str, manager: str, name: str) -> Manifest:
    return Manifest(
        kind=kind,
        name=name,
        version=1,
        owner=owner,
        manager=manager,
        size=100,
        chunk_bytes=1 << 16,
        chunks=1,
        root=sha(name.encode()),
        commitment=b64encode(bytes(32)),
        salt=b64encode(bytes(32)),
    )


def refused(call: Any, *args: Any, **more: Any) -> SvetovidError:
    """The error that ``call`` must end in."""
    try:
        call(*args, **more)
    except SvetovidError as e:
        return e
    raise AssertionError("nothing was refused")


@dataclass
class SoftHost:
    """An enrolled machine and its agent."""

    world: World
    name: str
    tpm: SoftTpm
    agent: Identity = field(default_factory=lambda: Identity.generate("agent"))
    keys: ReceivingKey = field(default_factory=ReceivingKey.generate)
    job_key: Identity = field(default_factory=lambda: Identity.generate("job"))
    next: Any = None

    def __post_init__(self) -> None:
        self.client = self.world.client(self.agent)

    def boot(self) -> None:
        """Measure what a launcher measures."""
        aggregate = hashlib.sha256(b"".join(self.tpm.pcrs[:10])).hexdigest()
        self.tpm.measure("boot_aggregate", "sha256:" + aggregate)
        for path, digest in self.world.files.items():
            self.tpm.measure(path, digest)

    def statement(self, **changes: Any) -> HostStatement:
        fields = {
            "host": self.name,
            "operator": self.world.operator.key_id,
            "machine_owner": "the operator",
            "kind": "tpm",
            "device": sha(self.tpm.ek_public),
            "agent": self.agent.key_id,
            "issued_at": self.world.now,
        }
        return HostStatement(**(fields | changes))

    def enrol(self, **changes: Any) -> None:
        statement = sign(self.statement(**changes), self.world.operator)
        self.host_id = statement.payload_digest()
        answer = self.client.enrol(
            statement, [self.tpm.ek_certificate], self.tpm.ek_public, self.tpm.ak_public
        )
        c = answer.challenge
        assert c is not None
        from svetovid.crypto import b64decode

        secret = self.tpm.activate(b64decode(c.credential), b64decode(c.secret))
        self.record = self.client.activate(c.id, secret)

    @property
    def job_keys(self) -> JobKeys:
        return JobKeys(receiving=self.keys.public, signing=self.job_key.key_id)

    def evidence(self, challenge: Any, subject: str = NO_SUBJECT, **changes: Any) -> TpmEvidence:
        opened = challenge.peek(Challenge)
        qualifying = binding(opened, self.job_keys, self.client.channel, subject)
        attest, signature = self.tpm.quote(qualifying, SELECTION)
        fields: dict[str, Any] = {
            "challenge": challenge,
            "host": self.host_id,
            "keys": self.job_keys,
            "channel": self.client.channel,
            "subject": subject,
            "quote": b64encode(attest),
            "signature": b64encode(signature),
            "pcrs": {str(n): self.tpm.pcrs[n].hex() for n in SELECTION},
            "log": b64encode(self.tpm.log(opened.log_offset)),
            "log_offset": opened.log_offset,
        }
        return TpmEvidence(**(fields | changes))

    def release(self, job: str) -> Any:
        challenge = self.client.challenge(self.host_id, job, "release")
        evidence = self.evidence(challenge)
        release = self.client.release(evidence)
        self.start = evidence
        return release

    def attest(self, *, fresh: bool = False, **changes: Any) -> Any:
        """Evidence at an interval; its answer, whose challenge is for the next."""
        if fresh or self.next is None:
            self.next = self.client.challenge(self.host_id, NO_JOB, "attest", fresh=fresh)
        challenge, self.next = self.next, None
        answer = self.client.attest(self.evidence(challenge, **changes))
        self.next = answer.challenge
        return answer

    def renew(self, job: str, lease: str) -> Any:
        challenge = self.client.challenge(self.host_id, job, "renew")
        return self.client.renew(lease, self.evidence(challenge))


class World(LocalManager):
    """Two data owners, a code owner, a recipient, an operator, a vendor of anchors; one manager."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Settings | None = None,
        fault: Fault | None = None,
        sealer: Any = None,
    ) -> None:
        self.now = NOW
        self.folder = folder
        more = {} if fault is None else {"fault": fault}
        store = folder / "store.db"
        super().__init__(
            "manager", store, lambda: self.now, settings=settings, sealer=sealer, **more
        )
        self.people()

    @property
    def me(self) -> str:
        return self.key_id

    def people(self) -> None:
        self.alice, self.bob, self.carol, self.recipient, self.operator = (
            Identity.generate(n) for n in ("alice", "bob", "carol", "recipient", "operator")
        )
        self.clients = {
            i.name: self.client(i) for i in (self.alice, self.bob, self.carol, self.operator)
        }
        self.ca = SoftCa()
        self.anchor_ders = [self.ca.der]
        self.files = FILES

    def register(self) -> None:
        for identity in (self.alice, self.bob, self.carol, self.operator):
            self.clients[identity.name].register_identity(identity.signed_card())

    def publish(self) -> None:
        self.anchors = TrustAnchors(
            product="test-anchors",
            version=1,
            anchors=tuple(
                TrustAnchor(kind="tpm-ek", name="soft", certificate=b64encode(d), simulated=True)
                for d in self.anchor_ders
            ),
        )
        self.references = ReferenceValues(
            product="svetovid-runtime", version=1, files={p: (d,) for p, d in self.files.items()}
        )
        for owner in (self.alice, self.bob, self.carol):
            client = self.clients[owner.name]
            client.publish(sign(self.anchors, self.alice))
            client.publish(sign(self.references, self.alice))

    def seal(self) -> None:
        me = self.me
        self.keys: dict[str, Secret] = {}
        self.assets: dict[str, JobAsset] = {}
        slots: tuple[tuple[str, Identity, str, str], ...] = (
            ("left", self.alice, "dataset", "data"),
            ("right", self.bob, "dataset", "data"),
            ("code", self.carol, "code", "code"),
        )
        for slot, owner, kind, use in slots:
            manifest = fake_manifest(kind, owner.key_id, me, slot)
            key = Secret.random(32)
            name = self.clients[owner.name].deposit_key(manifest, key)
            self.keys[name] = key
            self.assets[slot] = JobAsset(manifest=name, owner=owner.key_id, manager=me, use=use)

    def policy_of(self, owner: Identity, **changes: Any) -> Policy:
        assets = [a for a in self.assets.values() if a.owner == owner.key_id]
        grants = tuple(
            Grant(
                asset=a.manifest,
                use=a.use,
                code=(self.assets["code"].manifest,),
                modes=("attested",),
                recipients=(self.recipient.key_id,),
                limits=changes.pop("limits", Limits()),
            )
            for a in assets
        )
        fields: dict[str, Any] = {
            "version": "svetovid.policy/v1",
            "name": "main",
            "owner": owner.key_id,
            "sequence": 1,
            "manager": self.me,
            "profile": "test",
            "accepts": ("simulated", "launcher"),
            "anchors": Pin(document=self.anchors.digest()),
            "references": (Pin(document=self.references.digest()),),
            "operators": (self.operator.key_id,),
            "grants": grants,
        }
        return Policy(**(fields | changes))

    def put_policies(self, **changes: Any) -> None:
        self.policies = {}
        for owner in (self.alice, self.bob, self.carol):
            policy = self.policy_of(owner, **changes)
            self.policies[owner.name] = policy
            self.clients[owner.name].put_policy(sign(policy, owner))

    def job_document(self, **changes: Any) -> Job:
        fields: dict[str, Any] = {
            "version": "svetovid.job/v1",
            "name": "main",
            "proposer": self.carol.key_id,
            "nonce": b64encode(secrets.token_bytes(16)),
            "mode": "attested",
            "assets": self.assets,
            "entry": "train.py",
            "environment": self.references.digest(),
            "outputs": {
                "model": OutputSpec(tensors={"w": TensorSpec(dtype="float32", shape=(2,))})
            },
            "recipients": (Recipient(card=self.recipient.signed_card()),),
            "limits": JobLimits(resumes=5),
        }
        return Job(**(fields | changes))

    def propose(self, job: Job | None = None, *, consent: bool = True) -> str:
        job = job or self.job_document()
        name = self.clients["carol"].put_job(sign(job, self.carol))
        if consent:
            for owner in (self.alice, self.bob, self.carol):
                self.consent(owner, name)
        return name

    def consent(self, owner: Identity, job: str) -> None:
        slots = tuple(s for s, a in self.assets.items() if a.owner == owner.key_id)
        consent = Consent(
            job=job,
            policy=self.policies[owner.name].digest(),
            owner=owner.key_id,
            slots=slots,
            issued_at=self.now,
        )
        self.clients[owner.name].consent(sign(consent, owner))

    def host(self, name: str = "host-1") -> SoftHost:
        host = SoftHost(self, name, SoftTpm(self.ca))
        host.boot()
        host.enrol()
        return host

    def ready(self, **changes: Any) -> str:
        """Everything up to a consented job; its digest back."""
        self.register()
        self.publish()
        self.seal()
        self.put_policies(**changes)
        return self.propose()


__all__ = ["FILES", "NOW", "SoftHost", "World", "fake_manifest", "refused", "replace", "sha"]
