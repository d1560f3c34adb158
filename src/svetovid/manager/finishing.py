"""A job's way to its end: checkpoints recorded, leases given back (T11)."""

from __future__ import annotations

from svetovid.crypto import Envelope
from svetovid.errors import IntegrityError
from svetovid.manager.core import Core
from svetovid.manager.deciding import Deciding
from svetovid.manager.examining import Examiner
from svetovid.manager.leasing import live_lease
from svetovid.protocol.messages import Head, HeadUpdate, JsonObject, LeaseEnd

__all__ = ["Finishing"]


class Finishing:
    """What an instance says while it holds a lease, signed by the key in its evidence."""

    def __init__(self, core: Core, examiner: Examiner, deciding: Deciding) -> None:
        self._core = core
        self._examiner = examiner
        self._deciding = deciding

    def head(self, envelope: Envelope) -> JsonObject:
        """A :class:`HeadUpdate`; the recorded :class:`Head` back. The same update twice is one.

        Raises:
            PolicyError: ``lease.none``.
            IntegrityError: ``checkpoint.sequence``, ``checkpoint.predecessor``, ``signature.*``.
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
            body: JsonObject = {"head": head.to_json(), "lease": lease.id}
            host = tx.state.hosts[lease.host]
            tx.append(core.entry("head", [*job.parties, host.operator, host.agent], body))
        return head.to_json()

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


def _refused(code: str, expected: str, observed: str) -> IntegrityError:
    return IntegrityError(
        code,
        expected=expected,
        observed=observed,
        next_step="resume from the head that the manager recorded",
    )
