"""A finished job and its genuine receipt bundle, on a software TPM or a simulated TEE."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from evidence.authorities import NOW, anchors
from evidence.small_world import CHANNEL, JOB_KEY, MANAGER, OPERATOR, TeeWorld, World
from svetovid.crypto import Envelope, Identity, b64encode, digest, sign
from svetovid.evidence import NO_SUBJECT, ReferenceValues, TeeEvidence, TpmEvidence, binding
from svetovid.policy import Consent, Job
from svetovid.transparency import (
    Checkpoint,
    Countersignature,
    LogEntry,
    LogProof,
    MerkleTree,
    Receipt,
    ReceiptBundle,
    assemble,
    final_subject,
    make_receipt,
)

ALICE, CARA, RITA = (Identity.generate(n) for n in ("alice", "cara", "rita"))
LEASE = digest(b"lease")


def make_job() -> Job:
    def asset(manifest: bytes, owner: Identity, use: str) -> dict[str, str]:
        return {
            "manifest": digest(manifest),
            "owner": owner.key_id,
            "manager": MANAGER.key_id,
            "use": use,
        }

    return Job.from_json(
        {
            "version": "svetovid.job/v1",
            "name": "train",
            "proposer": CARA.key_id,
            "nonce": base64.b64encode(bytes(16)).decode(),
            "mode": "attested",
            "assets": {
                "code": asset(b"code", CARA, "code"),
                "images": asset(b"images", ALICE, "data"),
            },
            "entry": "train.py",
            "environment": digest(b"runtime"),
            "outputs": {"model": {"tensors": {"w": {"dtype": "float32", "shape": [2]}}}},
            "recipients": [{"card": RITA.signed_card().to_json()}],
        }
    )


class Log:
    """A manager's log, as far as a receipt needs it."""

    def __init__(self, signer: Identity = MANAGER) -> None:
        self.signer = signer
        self.tree = MerkleTree()
        self.entries: list[LogEntry] = []

    def add(self, kind: Any, at: int, **body: Any) -> int:
        entry = LogEntry(kind=kind, at=at, parties=(), body=body)
        self.entries.append(entry)
        return self.tree.append(entry.leaf)

    def checkpoint(self, at: int = NOW) -> Envelope:
        head = Checkpoint(
            log=self.signer.key_id, size=self.tree.size, root=self.tree.root(), issued_at=at
        )
        return sign(head, self.signer)

    def proof(self, index: int) -> LogProof:
        return LogProof(
            index=index,
            entry=self.entries[index],
            path=self.tree.inclusion(index),
            checkpoint=self.checkpoint(),
        )


@dataclass
class Story:
    """Change an attribute, then :meth:`bundle`."""

    job: Job = field(default_factory=make_job)
    offsets: tuple[int, int] = (0, 0)
    later: bool = False
    form: dict[str, Any] | None = None
    finish_role: Any = "finish"
    finish_at: int = NOW + 100
    entry_changes: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(
        default_factory=lambda: {"model": digest(b"model"), "metrics": digest(b"sealed metrics")}
    )
    signer: Identity = JOB_KEY
    metrics: str = field(default_factory=lambda: digest(b"salted"))
    agreed: list[Envelope] | None = None
    policies: tuple[Envelope, ...] = ()
    release_changes: dict[str, Any] = field(default_factory=dict)
    host: World | None = None

    def __post_init__(self) -> None:
        self.host = self.host or World()

    def consents(self) -> list[Envelope]:
        if self.agreed is not None:
            return self.agreed
        return [
            sign(
                Consent(
                    job=self.job.digest(),
                    policy=digest(b"policy"),
                    owner=who.key_id,
                    slots=(slot,),
                    issued_at=NOW - 10,
                ),
                who,
            )
            for who, slot in ((ALICE, "images"), (CARA, "code"))
        ]

    def evidence(
        self, role: Any, at: int, offset: int, subject: str, form: dict[str, Any] | None = None
    ) -> TpmEvidence:
        w = self.host
        assert w is not None
        w.subject = subject
        w.challenge = w.make_challenge(
            job=self.job.digest(), role=role, issued_at=at, expires_at=at + 60, log_offset=offset
        )
        return w.evidence(form)

    def parts(self) -> dict[str, Any]:
        w = self.host
        assert w is not None
        start = self.evidence("release", NOW, self.offsets[0], NO_SUBJECT)
        if self.later:
            w.measure("/opt/runtime/lib0.so", w.files["/opt/runtime/lib0.so"])
        log = b"".join(w.lines)
        subject = final_subject(self.outputs, digest(log), self.metrics)
        end = self.evidence(self.finish_role, NOW + 90, self.offsets[1], subject, self.form)
        return {"start": start, "end": end, "log": b64encode(log), "record": w.record}

    def bundle(self) -> ReceiptBundle:
        return self.put_together(**self.parts())

    def put_together(self, *, start: Any, end: Any, log: str, record: Any) -> ReceiptBundle:
        consents = self.consents()
        receipt = sign(
            make_receipt(
                self.job,
                manager=MANAGER.key_id,
                consents=consents,
                start=start,
                end=end,
                outputs=self.outputs,
                metrics=self.metrics,
                log=digest(base64.b64decode(log)),
            ),
            self.signer,
        )
        return assemble(
            receipt,
            job=self.job,
            consents=consents,
            host=sign(record, MANAGER),
            start=start,
            end=end,
            log=log,
            countersignature=self.countersign(receipt, record.host_id),
        )

    def countersign(self, receipt: Envelope, host: str) -> Envelope:
        log, job = Log(), self.job.digest()
        for i in range(3):
            log.add("policy", NOW - 5, number=i)
        body = {"job": job, "host": host, "lease": LEASE}
        given = {"consents": [*receipt.peek(Receipt).consents]}
        release = log.add("release", NOW + 1, **(body | given | self.release_changes))
        log.add("renewal", NOW + 50, **body)
        ending = {"job": job, "lease": LEASE, "document": receipt.payload_digest()}
        finish = log.add("finish", self.finish_at, **(ending | self.entry_changes))
        log.add("job", NOW + 200)
        return sign(
            Countersignature(
                manager=MANAGER.key_id,
                job=job,
                receipt=receipt.payload_digest(),
                release=log.proof(release),
                finish=log.proof(finish),
                resumes=0,
                policies=self.policies,
                issued_at=self.finish_at,
            ),
            MANAGER,
        )

    def reader(self, **change: Any) -> dict[str, Any]:
        """What a third party brings along."""
        assert self.host is not None
        own = {
            "anchors": self.host.anchors,
            "references": [self.host.references],
            "manager": MANAGER.key_id,
            "now": NOW + 900,
        }
        return own | change


def tee_story(story: Story | None = None) -> tuple[Story, ReceiptBundle, dict[str, Any]]:
    """The same job in a simulated TEE."""
    story, tee = story or Story(), TeeWorld()

    def report(role: Any, at: int, subject: str) -> TeeEvidence:
        change = {"job": story.job.digest(), "role": role, "issued_at": at, "expires_at": at + 60}
        tee.challenge = tee.challenge.model_copy(update=change)
        data = binding(tee.challenge, tee.keys, CHANNEL, subject).hex()
        raw = tee.report(report_data=data).canonical()
        signature = tee.key.sign(raw, ec.ECDSA(hashes.SHA256()))
        return tee.evidence(raw, subject=subject, signature=b64encode(signature))

    start = report("release", NOW, NO_SUBJECT)
    end = report("finish", NOW + 90, final_subject(story.outputs, digest(b""), story.metrics))
    bundle = story.put_together(start=start, end=end, log="", record=tee.record)
    values = ReferenceValues(product="enclave", version=1, tee_measurements=(tee.measurement,))
    kind = {"kind": "tee", "simulated": True}
    own = anchors(tee.root.anchor(**kind))
    return story, bundle, story.reader(anchors=own, references=[values])


def open_receipt(bundle: ReceiptBundle) -> Receipt:
    return bundle.receipt.peek(Receipt)


__all__ = ["JOB_KEY", "MANAGER", "NOW", "OPERATOR", "Log", "Story", "open_receipt", "tee_story"]
