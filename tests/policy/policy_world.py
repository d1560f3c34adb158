"""A small agreed world for decisions: one line changes it, and one clause must fail."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from svetovid.crypto import Envelope, Identity, ReceivingKey, Secret, digest, sign
from svetovid.errors import Reason
from svetovid.policy import (
    Condition,
    Consent,
    Export,
    Grant,
    History,
    Import,
    Job,
    JobAsset,
    Limits,
    MetricSpec,
    OutputSpec,
    Pin,
    Policy,
    Recipient,
    Request,
    TensorSpec,
)


def who(name: str) -> Identity:
    """The same identity for the same name, every time."""
    seed = (name.encode() + b"." * 96)[:96]
    return Identity(name, Secret((name.encode() + b"." * 32)[:32]), ReceivingKey(Secret(seed)))


ALICE, BOB, CARA = who("alice"), who("bob"), who("cara")
RITA, OPAL, MANAGER, OTHER = who("rita"), who("opal"), who("manager"), who("other-manager")
MALLORY = who("mallory")
IMAGES, LABELS, CODE = digest(b"images"), digest(b"labels"), digest(b"code")
RUNTIME = digest(b"runtime")
HOST = digest(b"host")
NOW = 1_800_000_000

FACTS: dict[str, Any] = {
    "affirmed": True,
    "anchor": "swtpm",
    "host": HOST,
    "host_name": "node-1",
    "kind": "tpm",
    "log_entries": 100,
    "machine_owner": "Opal Ltd",
    "measurement": "kernel",
    "operator": OPAL.key_id,
    "reset_count": 1,
    "restart_count": 0,
    "secure_boot": True,
    "simulated": False,
    "unchecked_files": 0,
}


@dataclass
class FakeAppraisal:
    values: dict[str, Any] = field(default_factory=lambda: dict(FACTS))
    affirmed: bool = True
    why: list[Reason] = field(default_factory=list)

    def reasons(self) -> list[Reason]:
        return self.why

    def facts(self) -> dict[str, Any]:
        return self.values


def grant(asset: str, use: str, **change: Any) -> Grant:
    fields: dict[str, Any] = {
        "asset": asset,
        "use": use,
        "code": () if use == "code" else (CODE,),
        "modes": ("attested",),
        "recipients": (RITA.key_id,),
        "limits": Limits(runs=3, expires_at=NOW + 1000, output_bytes=100_000),
    }
    return Grant(**{**fields, **change})


def policy(owner: Identity, *grants: Grant, **change: Any) -> Policy:
    fields: dict[str, Any] = {
        "version": "svetovid.policy/v1",
        "name": owner.name,
        "owner": owner.key_id,
        "sequence": 1,
        "manager": MANAGER.key_id,
        "profile": "production",
        "anchors": Pin(document=digest(b"anchors")),
        "references": (Pin(document=RUNTIME),),
        "operators": (OPAL.key_id,),
        "grants": grants,
    }
    return Policy(**{**fields, **change})


def job(**change: Any) -> Job:
    def asset(manifest: str, owner: Identity, use: str) -> JobAsset:
        return JobAsset(manifest=manifest, owner=owner.key_id, manager=MANAGER.key_id, use=use)

    fields: dict[str, Any] = {
        "version": "svetovid.job/v1",
        "name": "train",
        "proposer": CARA.key_id,
        "nonce": base64.b64encode(bytes(16)).decode(),
        "mode": "attested",
        "assets": {
            "code": asset(CODE, CARA, "code"),
            "images": asset(IMAGES, ALICE, "data"),
            "labels": asset(LABELS, BOB, "data"),
        },
        "entry": "train.py",
        "parameters": {"epochs": 3},
        "environment": RUNTIME,
        "outputs": {"model": OutputSpec(tensors={"w": TensorSpec(dtype="float32", shape=(2, 3))})},
        "metrics": {"loss": MetricSpec(type="float", max_count=10)},
        "recipients": (Recipient(card=RITA.signed_card()),),
        "limits": {"output_bytes": 1000, "resumes": 1},
    }
    merged = {**fields, **change}
    return Job.from_json({k: _plain(v) for k, v in merged.items()})


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


class World:
    """Everything granted; change an attribute, then ask :meth:`request`."""

    def __init__(self) -> None:
        self.job = job()
        self.policies = {
            ALICE.key_id: policy(ALICE, grant(IMAGES, "data")),
            BOB.key_id: policy(BOB, grant(LABELS, "data")),
            CARA.key_id: policy(CARA, grant(CODE, "code")),
        }
        self.deposits = {IMAGES: ALICE.key_id, LABELS: BOB.key_id, CODE: CARA.key_id}
        self.appraisals = {k: FakeAppraisal() for k in self.policies}
        self.references = {k: frozenset({RUNTIME}) for k in self.policies}
        self.history = History()
        self.revoked: frozenset[str] = frozenset()
        self.now = NOW
        self.role: Any = "release"
        self.evidence_job: str | None = None
        self.manager = MANAGER.key_id
        self.consents: list[Envelope] | None = None

    def consent(self, owner: Identity, *slots: str, **change: Any) -> Envelope:
        held = self.policies.get(owner.key_id)
        fields: dict[str, Any] = {
            "job": self.job.digest(),
            "policy": held.digest() if held else digest(b"elsewhere"),
            "owner": owner.key_id,
            "slots": slots,
            "issued_at": self.now - 10,
        }
        return sign(Consent(**{**fields, **change}), owner)

    def all_consents(self) -> list[Envelope]:
        return [
            self.consent(ALICE, "images"),
            self.consent(BOB, "labels"),
            self.consent(CARA, "code"),
        ]

    def export_images_to_bob(self, **change: Any) -> None:
        """Alice exports her images to Bob, who imports them and consents in her stead."""
        fields = grant(IMAGES, "data").to_json() | change
        alice = policy(ALICE, exports=(Export.from_json(fields | {"to": BOB.key_id}),))
        self.policies[ALICE.key_id] = alice
        self.policies[BOB.key_id] = policy(
            BOB, grant(LABELS, "data"), imports=(Import(policy=alice.digest(), asset=IMAGES),)
        )
        self.consents = [self.consent(BOB, "images", "labels"), self.consent(CARA, "code")]

    def request(self) -> Request:
        return Request(
            job=self.job,
            manager=self.manager,
            role=self.role,
            evidence_job=self.evidence_job or self.job.digest(),
            consents=self.all_consents() if self.consents is None else self.consents,
            policies=self.policies,
            deposits=self.deposits,
            appraisals=self.appraisals,
            references=self.references,
            history=self.history,
            revoked=self.revoked,
            now=self.now,
        )


def condition(cel: str, name: str = "check") -> Condition:
    return Condition(name=name, cel=cel)
