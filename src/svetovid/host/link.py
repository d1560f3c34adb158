"""One manager of a job, as the host deals with it: challenge, evidence, release, renewal, end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from svetovid.crypto import Envelope, ReceivingKey, Secret, Signer
from svetovid.errors import IntegrityError, RefusalError, SvetovidError, TransportError
from svetovid.evidence.documents import NO_SUBJECT, Challenge, JobKeys, TeeEvidence, TpmEvidence
from svetovid.host.attester import Attester
from svetovid.host.lease import HeldLease, LeaseKeeper, boottime
from svetovid.policy.documents import Job
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.contexts import checkpoint_context, release_context
from svetovid.protocol.messages import Head, HeadUpdate, Release

__all__ = ["ManagerLink"]

T = TypeVar("T")
_NOT_RELEASED = "release comes first"
_RETRY_S = 1.0
_LOG_LOST = frozenset({"ima.offset", "ima.replay"})
"""The manager knows another log of this host: from before a reboot, or none since its restart."""


class ManagerLink:
    """Proves this host to one manager for one job, and holds what it released.

    Args:
        client: the pinned manager; signs as this host's agent.
        host_id: this host's id at the manager.
        job: the agreed job.
        receiving: this job's receiving key; its public half is bound into all evidence.
        signing: this job's signing key id, bound likewise.
        attester: gives the evidence.
    """

    def __init__(
        self,
        client: ManagerClient,
        host_id: str,
        job: Job,
        receiving: ReceivingKey,
        signing: str,
        attester: Attester,
    ) -> None:
        self.client = client
        self._host_id = host_id
        self._job = job
        self._receiving = receiving
        self._keys = JobKeys(receiving=receiving.public, signing=signing)
        self._attester = attester
        self._challenge: Challenge | None = None
        self._held: HeldLease | None = None
        self._keeper: LeaseKeeper | None = None
        self._released: Release | None = None
        self._start: TpmEvidence | TeeEvidence | None = None
        self._stop = threading.Event()
        self.timings = {"attest_s": 0.0, "release_s": 0.0}

    def _prove(
        self, role: Literal["release", "renew", "finish"], subject: str, *, fresh: bool = False
    ) -> tuple[float, Challenge, TpmEvidence | TeeEvidence]:
        envelope = self.client.challenge(self._host_id, self._job.digest(), role, fresh=fresh)
        received = boottime()
        evidence = self._attester.evidence(envelope, self._keys, self.client.channel, subject)
        return received, envelope.peek(Challenge), evidence

    def ask(self) -> None:
        """Get a lease and the keys.

        Raises:
            RefusalError: with every reason the manager lets a host see.
        """
        try:
            self._ask(fresh=False)
        except RefusalError as e:
            if e.code not in _LOG_LOST:
                raise
            self._ask(fresh=True)

    def _ask(self, *, fresh: bool) -> None:
        begun = time.monotonic()
        received, self._challenge, self._start = self._prove("release", NO_SUBJECT, fresh=fresh)
        proven = time.monotonic()
        self._released = self.client.release(self._start)
        self.timings = {"attest_s": proven - begun, "release_s": time.monotonic() - proven}
        lease = self._released.lease
        self._held = HeldLease(lease.id, received, lease.seconds, lease.renew_after)

    @property
    def release(self) -> Release:
        assert self._released is not None, _NOT_RELEASED
        return self._released

    @property
    def start(self) -> TpmEvidence | TeeEvidence:
        """The evidence that the release rests on."""
        assert self._start is not None, _NOT_RELEASED
        return self._start

    @property
    def lost(self) -> SvetovidError | None:
        """Why the lease was lost, if it was."""
        return None if self._keeper is None else self._keeper.lost

    def keys(self) -> Mapping[str, tuple[Mapping[str, object], Secret]]:
        """Slot name to manifest JSON and key, opened with this job's receiving key.

        Raises:
            IntegrityError: ``hpke.open``, or ``release.asset`` for an asset the job does not name.
        """
        assert self._challenge is not None, _NOT_RELEASED
        challenge = self._challenge.digest()
        out: dict[str, tuple[Mapping[str, object], Secret]] = {}
        for released in self.release.keys:
            agreed = self._job.assets.get(released.slot)
            if agreed is None or agreed.manager != self.client.manager:
                raise IntegrityError(
                    "release.asset",
                    expected="keys of this job's assets under this manager",
                    observed=f"slot {released.slot}",
                    next_step="report this manager to its stakeholders",
                )
            context = release_context(
                agreed.manifest, self._job.digest(), self._host_id, challenge, self.client.manager
            )
            out[released.slot] = (released.manifest, self._receiving.open(released.sealed, context))
        return out

    def checkpoint_key(self) -> Secret:
        """The key of this job's checkpoints (T11)."""
        assert self._challenge is not None, _NOT_RELEASED
        context = checkpoint_context(
            self._job.digest(), self._host_id, self._challenge.digest(), self.client.manager
        )
        return self._receiving.open(self.release.checkpoint_key, context)

    def keep(self, stop: threading.Event) -> None:
        """Renew in the background from now on; ``stop`` is set when the lease is lost."""
        assert self._held is not None, _NOT_RELEASED
        self._stop = stop
        self._keeper = LeaseKeeper(self._held, self._renew, stop)
        self._keeper.start()

    def _renew(self) -> HeldLease:
        self._attester.measure()
        received, _, evidence = self._prove("renew", NO_SUBJECT)
        lease = self.client.renew(self.lease_id, evidence).lease
        self._held = HeldLease(lease.id, received, lease.seconds, lease.renew_after)
        return self._held

    def _while_leased(self, act: Callable[[], T]) -> T:
        """``act``, again and again while the manager is away, until the lease is over.

        Only for requests that may be sent twice: an answer that was lost changes nothing.
        """
        assert self._held is not None, _NOT_RELEASED
        while True:
            try:
                return act()
            except TransportError:
                if self._stop.wait(_RETRY_S) or boottime() >= self._held.ends:
                    raise

    def record_head(self, update: HeadUpdate, signer: Signer) -> Head:
        """Have a checkpoint recorded; waits for a manager that is away while the lease lasts."""
        return self._while_leased(lambda: self.client.record_head(update, signer))

    def stop_renewing(self) -> None:
        if self._keeper is not None:
            self._keeper.close()

    def final(self, subject: str) -> TpmEvidence | TeeEvidence:
        """Evidence for the end of the job, over ``subject`` (T13)."""
        return self._while_leased(lambda: self._prove("finish", subject)[2])

    @property
    def holds_lease(self) -> bool:
        return self._held is not None

    @property
    def lease_id(self) -> str:
        assert self._held is not None, _NOT_RELEASED
        return self._held.lease_id

    def finish(self, evidence: TpmEvidence | TeeEvidence, receipt: Envelope) -> Envelope:
        """Hand in the final evidence and the receipt; the manager's countersignature back."""
        return self._while_leased(lambda: self.client.finish(self.lease_id, evidence, receipt))
