"""The in-memory world: owners, an operator, machines, managers, a recipient, and a clock.

Everything is the real thing but the devices (a soft TPM, a simulated TEE), the network (in this
process) and the sandbox (a run's outputs are the test's bytes). Attacks are one line each::

    world.host.log.append("/tmp/evil.so")
    world.policy("alice", runs=1)
    world.clock.advance(3600)
    world.replay(evidence)

    with world.refuses("limit.runs"):      # no key, exactly one record, this reason
        world.run(job)
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softtpm import SoftCa
from svetovid.assets import Manifest, seal_stream
from svetovid.crypto import Identity, Secret, b64encode, sign
from svetovid.errors import SvetovidError
from svetovid.evidence.documents import ReferenceValues, TpmEvidence, TrustAnchor, TrustAnchors
from svetovid.policy.documents import Consent, Grant, Job, JobAsset, JobLimits, Limits, Pin, Policy
from svetovid.policy.outputs import OutputSpec, Recipient, TensorSpec
from svetovid.protocol import ManagerClient
from world.machines import Machine, sha
from world.managers import WorldManager
from world.runs import Run

NOW = 1_800_000_000
CANARY = b"CANARY-of-the-plaintext-7d1f"
FILES = {f"/opt/svetovid/lib/file{i}.py": b"file %d" % i for i in range(6)}
OWNERS = ("alice", "bob", "carol")
SLOTS = {
    "left": ("alice", "dataset", "data"),
    "right": ("bob", "dataset", "data"),
    "code": ("carol", "code", "code"),
}
_LIMITS = frozenset(Limits.model_fields)
_GRANT = frozenset(Grant.model_fields) - {"asset", "use", "limits"}
_GIVING = ("release", "renewal")
_PAPERS = ("identity", "asset", "document", "policy", "job", "consent", "host")


class Clock:
    """The time of everybody in the world, Unix seconds."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def advance(self, seconds: int) -> None:
        self.now += seconds

    def __call__(self) -> int:
        return self.now


class Refusal:
    """What a refused block raised."""

    error: SvetovidError

    @property
    def codes(self) -> set[str]:
        return {r.code for r in self.error.reasons}


class World:
    """Alice and Bob own data, Carol owns code and proposes, Rita receives, Opal operates.

    Args:
        at: owner to the name of its manager; all at ``north`` unless said otherwise.
        counter: whether managers' stores are anchored in a counter.
        now: Unix seconds at the beginning.
    """

    def __init__(
        self,
        folder: Path,
        *,
        at: dict[str, str] | None = None,
        counter: bool = False,
        now: int = NOW,
    ) -> None:
        self.folder = folder
        self.clock = Clock(now)
        self.at = dict.fromkeys(OWNERS, "north") | (at or {})
        self.managers = {
            n: WorldManager(n, folder, self.clock, counter=counter)
            for n in sorted(set(self.at.values()))
        }
        names = (*OWNERS, "rita", "opal")
        self.people = {n: Identity.generate(n) for n in names}
        self.ca = SoftCa()
        self._clients: dict[tuple[str, str], ManagerClient] = {}
        self.urls: dict[str, str] = {}
        self.keys: dict[str, Secret] = {}
        self.manifests: dict[str, Manifest] = {}
        self.assets: dict[str, JobAsset] = {}
        self.policies: dict[str, Policy] = {}
        self.runtime = ReferenceValues(
            product="runtime", version=1, files={p: (sha(c),) for p, c in FILES.items()}
        )
        self.anchors = {n: self.anchors_of(self.ca, simulated=True) for n in OWNERS}
        values: tuple[ReferenceValues, ...] = (self.runtime,)
        self.references = dict.fromkeys(OWNERS, values)
        for manager in self.managers.values():
            for name in (*OWNERS, "opal"):
                if name == "opal" or self.at[name] == manager.name:
                    client = self.client(name, manager.name)
                    client.register_identity(self.people[name].signed_card())
        for slot, (owner, kind, use) in SLOTS.items():
            self.seal(slot, owner, kind, use)
        for name in OWNERS:
            self.publish(name)
            self.policy(name)
        self.host = self.machine("host-1")

    # -- who and where

    def key(self, name: str) -> str:
        return self.people[name].key_id

    def manager_of(self, owner: str) -> WorldManager:
        return self.managers[self.at[owner]]

    @property
    def manager(self) -> WorldManager:
        """Where the code's key is: the one manager of most stories."""
        return self.manager_of("carol")

    def by_key(self, key: str) -> WorldManager:
        return next(m for m in self.managers.values() if m.key_id == key)

    def client(self, name: str, manager: str | None = None) -> ManagerClient:
        """``name``'s client of its own manager, or of another; it remembers what it saw."""
        where = manager or self.at.get(name, self.manager.name)
        found = self._clients.get((name, where))
        if found is None:
            found = self.managers[where].client(self.people[name])
            self._clients[name, where] = found
        return found

    def close(self) -> None:
        for manager in self.managers.values():
            manager.close()

    # -- what owners do

    def seal(
        self, slot: str, owner: str, kind: Any, use: Any, content: bytes | None = None, **more: Any
    ) -> Manifest:
        """Seal an asset at home and deposit its key with the owner's manager."""
        url = f"file://{self.folder}/{slot}-{secrets.token_hex(4)}.sealed"
        data = content if content is not None else CANARY + b" of " + slot.encode()
        manager = self.manager_of(owner).key_id
        manifest, key = seal_stream(
            url, [data], kind=kind, name=slot, owner=self.key(owner), manager=manager, **more
        )
        self.client(owner).deposit_key(manifest, key)
        name = manifest.digest()
        self.urls[name], self.keys[name], self.manifests[name] = url, key, manifest
        self.assets[slot] = JobAsset(manifest=name, owner=self.key(owner), manager=manager, use=use)
        return manifest

    @staticmethod
    def anchors_of(*cas: SoftCa, simulated: bool = False, kind: Any = "tpm-ek") -> TrustAnchors:
        anchors = tuple(
            TrustAnchor(kind=kind, name=c.name, certificate=b64encode(c.der), simulated=simulated)
            for c in cas
        )
        return TrustAnchors(product="anchors", version=1, anchors=anchors)

    def publish(self, owner: str) -> None:
        """Tell the owner's manager of its anchors and reference values (T2)."""
        for document in (self.anchors[owner], *self.references[owner]):
            self.client(owner).publish(sign(document, self.people[owner]))

    def draft(self, owner: str, **changes: Any) -> Policy:
        """The next edition of an owner's policy; grant and limit fields change its grants."""
        held = self.policies.get(owner)
        limits = {k: changes.pop(k) for k in tuple(changes) if k in _LIMITS}
        for_grants = {k: changes.pop(k) for k in tuple(changes) if k in _GRANT}
        mine = [a for a in self.assets.values() if a.owner == self.key(owner)]
        if held is None:
            grants = tuple(
                Grant(
                    asset=a.manifest,
                    use=a.use,
                    code=(self.assets["code"].manifest,) if "code" in self.assets else (),
                    modes=("attested", "enclave"),
                    recipients=(self.key("rita"),),
                )
                for a in mine
            )
        else:
            grants = held.grants
        made = tuple(
            g.model_copy(
                update=for_grants
                | ({"limits": Limits(**(g.limits.model_dump() | limits))} if limits else {})
            )
            for g in grants
        )
        fields: dict[str, Any] = {
            "version": "svetovid.policy/v1",
            "name": "main",
            "owner": self.key(owner),
            "sequence": 1 if held is None else held.sequence + 1,
            "predecessor": None if held is None else held.digest(),
            "manager": self.manager_of(owner).key_id,
            "profile": "test",
            "accepts": ("simulated", "launcher"),
            "anchors": Pin(document=self.anchors[owner].digest()),
            "references": tuple(Pin(document=r.digest()) for r in self.references[owner]),
            "operators": (self.key("opal"),),
            "grants": made,
        }
        if held is not None:
            kept = ("profile", "accepts", "operators", "hosts", "exports", "imports")
            fields |= {k: getattr(held, k) for k in kept}
        return Policy(**(fields | changes))

    def policy(self, owner: str, **changes: Any) -> Policy:
        """Put the owner's next policy in force."""
        policy = self.draft(owner, **changes)
        self.client(owner).put_policy(sign(policy, self.people[owner]))
        self.policies[owner] = policy
        return policy

    def job(self, **changes: Any) -> Job:
        fields: dict[str, Any] = {
            "version": "svetovid.job/v1",
            "name": "main",
            "proposer": self.key("carol"),
            "nonce": b64encode(secrets.token_bytes(16)),
            "mode": "attested",
            "assets": dict(self.assets),
            "entry": "train.py",
            "environment": self.runtime.digest(),
            "outputs": {
                "model": OutputSpec(tensors={"w": TensorSpec(dtype="float32", shape=(2,))})
            },
            "recipients": (Recipient(card=self.people["rita"].signed_card()),),
            "limits": JobLimits(resumes=5),
        }
        return Job(**(fields | changes))

    def propose(self, job: Job | None = None, **changes: Any) -> Job:
        """Carol proposes to every manager the job names."""
        made = job or self.job(**changes)
        signed = sign(made, self.people["carol"])
        for key in sorted(made.managers):
            where = self.by_key(key).name
            client = self.client("carol", where)
            client.register_identity(self.people["carol"].signed_card())
            client.put_job(signed)
        return made

    def consent(self, owner: str, job: Job, **changes: Any) -> None:
        """An owner agrees, under its policy in force; every manager of the job hears of it."""
        slots = tuple(s for s, a in sorted(job.assets.items()) if a.owner == self.key(owner))
        fields: dict[str, Any] = {
            "job": job.digest(),
            "policy": self.policies[owner].digest(),
            "owner": self.key(owner),
            "slots": slots,
            "issued_at": self.clock(),
        }
        signed = sign(Consent(**(fields | changes)), self.people[owner])
        for key in sorted(job.managers):
            self.client(owner, self.by_key(key).name).consent(signed)

    def agreed(self, **changes: Any) -> Job:
        """A job that every owner consented to."""
        job = self.propose(**changes)
        for owner in OWNERS:
            self.consent(owner, job)
        return job

    # -- hosts

    def machine(
        self, name: str, *, ca: SoftCa | None = None, enrol: bool = True, **more: Any
    ) -> Machine:
        """A machine of Opal's, enrolled with every manager."""
        machine = Machine(name, self.folder, ca or self.ca, dict(FILES), **more)
        if enrol:
            for manager in self.managers.values():
                self.enrol(machine, manager.name)
        return machine

    def enrol(self, machine: Machine, manager: str, operator: str = "opal") -> None:
        client = self.managers[manager].client(machine.agent)
        machine.enrol(client, self.people[operator], self.clock())

    def run(self, job: Job, host: Machine | None = None) -> Run:
        """A machine asks every manager of the job for its keys."""
        return self.start(job, host).ask()

    def start(self, job: Job, host: Machine | None = None) -> Run:
        """The same before anything is asked for."""
        return Run(self, host or self.host, job)

    def evidence(self, run: Run, role: Any = "release", **changes: Any) -> TpmEvidence:
        """Fresh evidence of a run's machine, with fields changed afterwards."""
        link = run.main
        _, _, evidence = link._prove(role, changes.pop("subject", "sha256:" + "0" * 64))
        return evidence.model_copy(update=changes)  # type: ignore[return-value]

    def replay(self, evidence: TpmEvidence, host: Machine | None = None) -> Any:
        """Hand in evidence, whoever made it and whenever."""
        client = self.manager.client((host or self.host).agent)
        return client.release(evidence)

    # -- what must hold when something is refused

    def released(self) -> int:
        """How many decisions that give or prolong keys stand in the logs."""
        return sum(e.kind in _GIVING for m in self.managers.values() for e in m.entries())

    @contextlib.contextmanager
    def refuses(
        self,
        code: str,
        *,
        records: int = 1,
        kind: str = "refusal",
        manager: str | None = None,
    ) -> Iterator[Refusal]:
        """The block is refused with ``code``: no key goes, and ``records`` of ``kind`` say so.

        A challenge that does not stand is refused without a record (``records=0``), and so is what
        a stranger sends: whoever is not known must not be able to fill the log. What a known party
        signed, other than evidence, is recorded as ``rejection``.
        """
        where = self.managers[manager] if manager else self.manager
        size, given = where.size, self.released()
        refusal = Refusal()
        with pytest.raises(SvetovidError) as caught:
            yield refusal
        refusal.error = caught.value
        assert code in refusal.codes, refusal.error.to_dict()
        for reason in refusal.error.reasons:
            if records and reason.code == code:
                assert reason.next_step, f"{code} says nothing of what to do"
        assert self.released() == given, "a key was released"
        new = [e for e in where.entries(size) if e.kind not in _PAPERS]
        assert [e.kind for e in new] == [kind] * records
        if records:
            assert code in new[-1].body["codes"]  # type: ignore[operator]
