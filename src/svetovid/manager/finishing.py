"""A job's way to its end: checkpoints recorded (T11), leases given back, receipts countersigned.

A receipt is countersigned when it is signed by the very key that held the lease, speaks of this
run and nothing else, and the final evidence, whose subject it is, stands before every owner (T13).
The sealed outputs it names must be the job's, and no larger than the release was charged for (T9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from svetovid.assets.manifest import Manifest
from svetovid.crypto import Card, Envelope
from svetovid.errors import EvidenceError, IntegrityError, LimitError, PolicyError, Reason
from svetovid.evidence.verify import Proven
from svetovid.manager.admission import Admission
from svetovid.manager.core import Core
from svetovid.manager.deciding import Views
from svetovid.manager.examining import Case, Examiner, boot_of
from svetovid.manager.imported import policies_behind
from svetovid.manager.leasing import check_same, live_lease
from svetovid.manager.state import LeaseState, State
from svetovid.manager.transaction import Transaction
from svetovid.policy.documents import Consent, Job
from svetovid.policy.speaking import owner_keys
from svetovid.protocol.messages import FinishRequest, Head, HeadUpdate, JsonObject, LeaseEnd
from svetovid.protocol.records import LogProof
from svetovid.transparency.receipt import (
    METRICS,
    Countersignature,
    Receipt,
    final_subject,
)

__all__ = ["Finishing"]


class Finishing:
    """What an instance says while it holds a lease, signed by the key in its evidence."""

    def __init__(self, core: Core, examiner: Examiner, admission: Admission) -> None:
        self._core = core
        self._admission = admission
        self._examiner = examiner

    def head(self, envelope: Envelope) -> JsonObject:
        """A :class:`HeadUpdate`; the recorded :class:`Head` back. The same update twice is one.

        Raises:
            PolicyError: ``lease.none``.
            IntegrityError: ``checkpoint.sequence``, ``checkpoint.predecessor``, ``signature.*``.
            LimitError: ``checkpoint.rate``, ``store.quota``.
        """
        core = self._core
        claimed = envelope.peek(HeadUpdate)
        core.for_me(claimed.manager)
        with core.store.write() as tx:
            lease = live_lease(tx.state, claimed.lease, core.now())
            update = envelope.open(HeadUpdate, by=lease.keys.signing)
            head = Head(
                job=update.job,
                sequence=update.sequence,
                checkpoint=update.checkpoint,
                predecessor=update.predecessor,
            )
            job = tx.state.jobs[lease.job]
            if job.head == head:
                return head.to_json()
            if update.job != lease.job:
                raise _refused("checkpoint.job", lease.job, update.job)
            expected = 1 if job.head is None else job.head.sequence + 1
            if update.sequence != expected:
                raise _refused("checkpoint.sequence", str(expected), str(update.sequence))
            before = None if job.head is None else job.head.checkpoint
            if update.predecessor != before:
                raise _refused("checkpoint.predecessor", str(before), str(update.predecessor))
            self._slowly(lease)
            self._admission.lease_room(tx.state, lease.host, lease.job)
            body: JsonObject = {"head": head.to_json(), "lease": lease.id}
            host = tx.state.hosts[lease.host]
            tx.append(core.entry("head", [*job.parties, host.operator, host.agent], body))
        return head.to_json()

    def _slowly(self, lease: LeaseState) -> None:
        """Refuse what would be too many checkpoints for the time that the lease has had."""
        settings = self._core.settings
        passed = max(0, self._core.now() - lease.since)
        if lease.heads >= settings.head_burst + passed // settings.head_s:
            raise LimitError(
                "checkpoint.rate",
                expected=f"{settings.head_burst} checkpoints, and one more every"
                f" {settings.head_s} s since the release",
                observed=f"{lease.heads} in {passed} s",
                next_step="wait, and send it again; save checkpoints less often",
            )

    def end(self, envelope: Envelope) -> JsonObject:
        """A :class:`LeaseEnd`: the job is free for the next instance.

        Raises:
            PolicyError: ``lease.none``.
            IntegrityError: ``signature.*``.
        """
        core = self._core
        claimed = envelope.peek(LeaseEnd)
        core.for_me(claimed.manager)
        with core.store.write() as tx:
            lease = tx.state.leases.get(claimed.lease)
            if lease is not None and lease.ended:
                return {"lease": claimed.lease}
            lease = live_lease(tx.state, claimed.lease, core.now())
            message = envelope.open(LeaseEnd, by=lease.keys.signing)
            host = tx.state.hosts[lease.host]
            parties = [*tx.state.jobs[lease.job].parties, host.operator, host.agent]
            body: JsonObject = {"lease": lease.id, "job": lease.job, "why": message.why or "given"}
            tx.append(core.entry("lease-end", parties, body))
        return {"lease": claimed.lease}

    def finish(self, request: FinishRequest) -> JsonObject:
        """Final evidence and receipt; the signed :class:`Countersignature` back.

        The same receipt again gives its countersignature again.

        Raises:
            PolicyError: ``lease.none``, ``output.schema``, ``consent.revoked``,
                ``recipient.revoked``, ``host.revoked``, or an owner's reasons.
            IntegrityError: ``receipt.scope``, ``output.manifest``, ``output.scope``,
                ``signature.*``.
            LimitError: ``output.limit``.
            EvidenceError: ``lease.scope``, ``tpm.reset``, or what is wrong with the evidence.
        """
        core = self._core
        now = core.now()
        held = core.state.leases.get(request.lease) or live_lease(core.state, request.lease, now)
        receipt = request.receipt.open(Receipt, by=held.keys.signing)
        if core.state.jobs[held.job].finished != receipt.digest():
            live_lease(core.state, request.lease, now)

            def granted(tx: Transaction, case: Case, proven: Proven, views: Views) -> JsonObject:
                lease = live_lease(tx.state, request.lease, core.now())
                check_same(case, proven, lease)
                _one_boot(proven, lease)
                self._scope(receipt, case)
                _check_outputs(receipt, request.outputs, case.job)
                self._not_revoked(tx.state, case)
                _affirmed(views)
                body: JsonObject = {
                    **case.body(),
                    "lease": request.lease,
                    "document": receipt.digest(),
                    "by": tx.state.hosts[case.host].operator,
                }
                self._examiner.append(tx, "finish", case, body, views, document=request.receipt)
                return {}

            subject = final_subject(receipt.outputs, receipt.log, receipt.metrics)
            self._examiner.examine(
                request.evidence, "finish", granted, lease=request.lease, subject=subject
            )
        return self._countersigned(held.job).to_json()

    def _not_revoked(self, state: State, case: Case) -> None:
        """Refuse the end of a job where the key of a party was revoked since the release."""
        store = self._core.store
        named = cast(list[str], store.entry(state.jobs[case.name].release).body["consents"])
        consents = [store.document(d, Consent) for d in named]
        parties = {
            "consent.revoked": {*case.job.owners, *(k for c in consents for k in owner_keys(c))},
            "recipient.revoked": {Card.open(r.card).signing for r in case.job.recipients},
            "host.revoked": {state.hosts[case.host].operator},
        }
        reasons = [
            Reason(
                code,
                expected="a key that was not revoked since the release",
                observed=key,
                next_step="propose the job again, without this key",
            )
            for code, keys in parties.items()
            for key in sorted(keys & state.revoked)
        ]
        if reasons:
            raise PolicyError.from_reasons(reasons)

    def _scope(self, receipt: Receipt, case: Case) -> None:
        state, store = self._core.state, self._core.store
        release = store.entry(state.jobs[case.name].release).body
        expected = Receipt(
            job=case.name,
            manager=self._core.me,
            host=case.host,
            environment=case.job.environment,
            # As they stood at the release: an owner may have agreed anew since.
            consents=tuple(cast(list[str], release["consents"])),
            start=str(release["evidence"]),
            end=case.evidence,
            outputs=receipt.outputs,
            metrics=receipt.metrics,
            log=receipt.log,
        )
        if receipt != expected:
            wrong = [f for f in Receipt.model_fields if getattr(receipt, f) != getattr(expected, f)]
            raise IntegrityError(
                "receipt.scope",
                expected="a receipt of this run",
                observed=f"another {', '.join(wrong)}",
                next_step="make the receipt from this run's evidence and consents",
            )

    def _countersigned(self, name: str) -> Envelope:
        core = self._core
        job = core.state.jobs[name]
        release = core.store.entry(job.release).body
        policies = policies_behind(
            core.store,
            core.store.document(name, Job),
            cast(Mapping[str, str], release["policies"]),
            cast(Mapping[str, str], release["importers"]),
        )
        return core.sign(
            Countersignature(
                manager=core.me,
                job=name,
                receipt=job.finished,
                release=self._proof(job.release),
                finish=self._proof(job.finish),
                resumes=job.releases - 1,
                policies=policies,
                issued_at=core.now(),
            )
        )

    def _proof(self, index: int) -> LogProof:
        checkpoint, tree = self._core.store.tip
        entry = self._core.store.entry(index)
        path = tree.inclusion(index)
        return LogProof(index=index, entry=entry, path=path, checkpoint=checkpoint)


def _one_boot(proven: Proven, lease: LeaseState) -> None:
    """Refuse an end in another boot than that of the lease: no receipt over both verifies (T12)."""
    before, now = (lease.reset_count, lease.restart_count), boot_of(proven)[:2]
    if now != before:
        raise EvidenceError(
            "tpm.reset",
            expected=f"resets and restarts {before}, as when the lease was granted",
            observed=str(now),
            next_step="resume the job from its last checkpoint",
        )


def _check_outputs(receipt: Receipt, manifests: Mapping[str, Manifest], job: Job) -> None:
    """Whether what leaves is what the receipt names, what was agreed, and no more than that."""
    if set(receipt.outputs) - {METRICS} != set(job.outputs):
        raise PolicyError(
            "output.schema",
            expected=", ".join(sorted(job.outputs)),
            observed=", ".join(sorted(receipt.outputs)),
            next_step="hand in exactly the agreed outputs",
        )
    if {name: m.digest() for name, m in manifests.items()} != receipt.outputs:
        raise IntegrityError(
            "output.manifest",
            expected="the manifest of each output that the receipt names",
            observed=", ".join(sorted(manifests)),
            next_step="hand in the manifests of the sealed outputs, the metrics' among them",
        )
    first = Card.open(job.recipients[0].card).signing
    for name, m in manifests.items():
        if (m.kind, m.name, m.owner, m.manager) != ("output", name, first, job.code.manager):
            raise IntegrityError(
                "output.scope",
                expected=f"output {name} of {first} under {job.code.manager}",
                observed=f"{m.kind} {m.name} of {m.owner} under {m.manager}",
                next_step="seal each output under its name, for the job's first recipient",
            )
    metrics = sum(m.size for name, m in manifests.items() if name == METRICS)
    outputs = sum(m.size for m in manifests.values()) - metrics
    if outputs > job.limits.output_bytes or metrics > job.metrics_bytes:
        raise LimitError(
            "output.limit",
            expected=f"at most {job.limits.output_bytes} bytes of outputs and "
            f"{job.metrics_bytes} of metrics",
            observed=f"{outputs} and {metrics}",
            next_step="agree on a job with a larger limits.output_bytes",
        )


def _affirmed(views: Views) -> None:
    reasons = [*views.reasons]
    for owner, view in sorted(views.appraisals.items()):
        reasons += [replace(r, owner=owner) for r in view.reasons()]
    if reasons:
        raise PolicyError.from_reasons(reasons)


def _refused(code: str, expected: str, observed: str) -> IntegrityError:
    return IntegrityError(
        code,
        expected=expected,
        observed=observed,
        next_step="resume from the head that the manager recorded",
    )
