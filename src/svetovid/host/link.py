"""One manager of a job, as the host deals with it: challenge, evidence, release, renewal, end."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Literal

from svetovid.crypto import Envelope, ReceivingKey, Secret
from svetovid.errors import IntegrityError, SvetovidError
from svetovid.evidence.documents import NO_SUBJECT, Challenge, JobKeys, TeeEvidence, TpmEvidence
from svetovid.host.attester import Attester
from svetovid.host.lease import HeldLease, LeaseKeeper, boottime
from svetovid.policy.documents import Job
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.contexts import checkpoint_context, release_context
from svetovid.protocol.messages import Release

__all__ = ["ManagerLink"]

_NOT_RELEASED = "release comes first"


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
        self.timings = {"attest_s": 0.0, "release_s": 0.0}

    def _prove(
        self, role: Literal["release", "renew", "finish"], subject: str, *, fresh: bool = False
    ) -> tuple[float, Challenge, TpmEvidence | TeeEvidence]:
        envelope = self.client.challenge(self._host_id, self._job.digest(), role, fresh=fresh)
        received = boottime()
        evidence = self._attester.evidence(envelope, self._keys, self.client.channel, subject)
        return received, envelope.peek(Challenge), evidence

    def ask(self, *, fresh: bool) -> None:
        """Get a lease and the keys.

        Args:
            fresh: send the whole measurement log, not just what the manager does not hold: for an
                agent that has only now opened its TPM, which may have been reset since.

        Raises:
            RefusalError: with every reason the manager lets a host see.
        """
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
        self._keeper = LeaseKeeper(self._held, self._renew, stop)
        self._keeper.start()

    def _renew(self) -> HeldLease:
        assert self._held is not None, _NOT_RELEASED
        self._attester.measure()
        received, _, evidence = self._prove("renew", NO_SUBJECT)
        lease = self.client.renew(self._held.lease_id, evidence).lease
        self._held = HeldLease(lease.id, received, lease.seconds, lease.renew_after)
        return self._held

    def stop_renewing(self) -> None:
        if self._keeper is not None:
            self._keeper.close()

    def final(self, subject: str) -> TpmEvidence | TeeEvidence:
        """Evidence for the end of the job, over ``subject`` (T13)."""
        return self._prove("finish", subject)[2]

    @property
    def holds_lease(self) -> bool:
        return self._held is not None

    @property
    def lease_id(self) -> str:
        assert self._held is not None, _NOT_RELEASED
        return self._held.lease_id

    def finish(self, evidence: TpmEvidence | TeeEvidence, receipt: Envelope) -> Envelope:
        """Hand in the final evidence and the receipt; the manager's countersignature back."""
        return self.client.finish(self.lease_id, evidence, receipt)
