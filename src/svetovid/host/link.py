"""One manager of a job, as the host deals with it: challenge, evidence, release, renewal, end.

Evidence is asked for once more, with the whole measurement log, where the manager knows nothing
(any more) of the challenge that it answers: a manager forgets its challenges with its process. So
it is where an owner changed its mind while the evidence was looked at.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeVar

from svetovid.assets import Manifest
from svetovid.crypto import Envelope, ReceivingKey, Secret, Signer
from svetovid.errors import IntegrityError, RefusalError, SvetovidError, TransportError
from svetovid.evidence.documents import NO_SUBJECT, Challenge, JobKeys, TeeEvidence, TpmEvidence
from svetovid.host.attester import Attester
from svetovid.host.lease import HeldLease, LeaseKeeper, boottime, expired
from svetovid.host.waiting import answered
from svetovid.policy.documents import Job
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.contexts import checkpoint_context, release_context
from svetovid.protocol.messages import Head, HeadUpdate, Release

__all__ = ["ManagerLink", "once_more"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_NOT_RELEASED = "release comes first"
_RETRY_S = 1.0
_ANEW = frozenset({"challenge.unknown", "policy.changed"})


class _Asking(Protocol[T_co]):
    def __call__(self, *, fresh: bool) -> T_co: ...


def once_more(ask: _Asking[T], *, fresh: bool = False) -> T:
    """``ask``; where the manager forgot what it challenged, or an owner's choice was changed while
    it looked at the evidence, once more, ``fresh`` this time."""
    try:
        return ask(fresh=fresh)
    except RefusalError as e:
        if e.code not in _ANEW:
            raise
    return ask(fresh=True)


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
        self._settling = threading.Lock()
        self.timings = {"attest_s": 0.0, "release_s": 0.0}

    def _challenged(self, role: Literal["release", "renew", "finish"], *, fresh: bool) -> Envelope:
        return self.client.challenge(self._host_id, self._job.digest(), role, fresh=fresh)

    def _prove(
        self, role: Literal["release", "renew"], subject: str, *, fresh: bool = False
    ) -> tuple[float, Challenge, TpmEvidence | TeeEvidence]:
        return self._proved(self._challenged(role, fresh=fresh), subject)

    def _proved(
        self, envelope: Envelope, subject: str
    ) -> tuple[float, Challenge, TpmEvidence | TeeEvidence]:
        received = boottime()
        evidence = self._attester.evidence(envelope, self._keys, self.client.channel, subject)
        return received, envelope.peek(Challenge), evidence

    def ask(self, until: float = math.inf, signer: Signer | None = None) -> None:
        """Get a lease and the keys.

        The first evidence of an attester brings its whole log: the manager may hold that of an
        earlier process, whose end this one does not continue.

        Args:
            until: CLOCK_BOOTTIME seconds up to which the answer is waited for: another lease of
                the job is over then.
            signer: the job's signing key: gives back a lease that comes after that.

        Raises:
            RefusalError: with every reason the manager lets a host see; ``lease.expired``.
        """
        known = self._attester.known
        fresh = self.client.manager not in known
        late = threading.Event()

        def ask(*, fresh: bool) -> None:
            self._ask(late, signer, fresh=fresh)

        try:
            self._answered(lambda: once_more(ask, fresh=fresh), until)
        except BaseException:
            with self._settling:
                late.set()
            raise
        known.add(self.client.manager)

    def _ask(self, late: threading.Event, signer: Signer | None, *, fresh: bool) -> None:
        """Runs on where nobody waits any more (``late``); then it proves nothing, and keeps
        nothing."""
        begun = time.monotonic()
        envelope = self._challenged("release", fresh=fresh)
        if late.is_set():
            raise expired("a challenge before another lease of the job ran out")
        received, challenge, start = self._proved(envelope, NO_SUBJECT)
        proven = time.monotonic()
        released = self.client.release(start)
        lease = released.lease
        with self._settling:
            if not late.is_set():
                self._challenge, self._start, self._released = challenge, start, released
                self._held = HeldLease(lease.id, received, lease.seconds, lease.renew_after)
                self.timings = {"attest_s": proven - begun, "release_s": time.monotonic() - proven}
                return
        if signer is not None:
            self.client.end_lease(lease.id, "lease.expired", signer)

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
        """This manager's part of the key of the job's checkpoints (T11)."""
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
        return once_more(self._ask_for_more)

    def _ask_for_more(self, *, fresh: bool) -> HeldLease:
        received, _, evidence = self._prove("renew", NO_SUBJECT, fresh=fresh)
        lease = self.client.renew(self.lease_id, evidence).lease
        self._held = HeldLease(lease.id, received, lease.seconds, lease.renew_after)
        return self._held

    def _while_leased(self, act: Callable[[], T]) -> T:
        """``act``, again and again while the manager is away or asks to wait, while leased.

        Only for requests that may be sent twice: an answer that was lost changes nothing.
        """
        while True:
            try:
                return self._answered(act)
            except SvetovidError as e:
                if not isinstance(e, TransportError) and e.code != "checkpoint.rate":
                    raise
                if self._stop.wait(_RETRY_S) or self._over():
                    raise

    def _over(self) -> bool:
        held = self._held
        return self._stop.is_set() or (held is not None and boottime() >= held.ends)

    def _answered(self, act: Callable[[], T], until: float = math.inf) -> T:
        """What ``act`` comes to, unless the lease is over first, or ``until`` is there.

        A manager that takes a request and stays silent is left to it: plaintext must not wait for
        the client's time limit (T12).

        Raises:
            RefusalError: ``lease.expired``, or why the lease was lost.
        """

        def given_up() -> SvetovidError | None:
            if self._over() or boottime() >= until:
                return self.lost or expired("an answer before the lease ran out")
            return None

        return answered(act, given_up)

    def record_head(self, head: Head, signer: Signer) -> None:
        """Have a checkpoint recorded; waits for a manager that is away while the lease lasts.

        Raises:
            IntegrityError: ``checkpoint.recorded`` where the manager answers with another head.
        """
        update = HeadUpdate(
            manager=self.client.manager,
            lease=self.lease_id,
            job=head.job,
            sequence=head.sequence,
            checkpoint=head.checkpoint,
            predecessor=head.predecessor,
        )
        recorded = self._while_leased(lambda: self.client.record_head(update, signer))
        if recorded != head:
            raise IntegrityError(
                "checkpoint.recorded",
                expected=f"checkpoint {head.sequence}, {head.checkpoint}",
                observed=f"checkpoint {recorded.sequence}, {recorded.checkpoint}",
                next_step="report this manager to its stakeholders",
            )

    def stop_renewing(self) -> None:
        """Renew no more. The lease is watched on: the job may not outlive it while it is sealed."""
        if self._keeper is not None:
            self._keeper.rest()

    def close(self) -> None:
        """Neither renew nor watch the lease any more. A renewal under way is awaited."""
        if self._keeper is not None:
            self._keeper.close()

    def final(self, subject: str, *, fresh: bool = False) -> TpmEvidence | TeeEvidence:
        """Evidence for the end of the job, over ``subject`` (T13)."""
        envelope = self._while_leased(lambda: self._challenged("finish", fresh=fresh))
        return self._attester.evidence(envelope, self._keys, self.client.channel, subject)

    @property
    def holds_lease(self) -> bool:
        """Whether there is a lease to give back: a lost one is over by itself."""
        held = self._held
        return held is not None and self.lost is None and boottime() < held.ends

    @property
    def ends(self) -> float:
        """When the lease is over, in CLOCK_BOOTTIME seconds."""
        assert self._held is not None, _NOT_RELEASED
        return self._held.ends

    @property
    def lease_id(self) -> str:
        assert self._held is not None, _NOT_RELEASED
        return self._held.lease_id

    def finish(
        self,
        evidence: TpmEvidence | TeeEvidence,
        receipt: Envelope,
        outputs: Mapping[str, Manifest],
    ) -> Envelope:
        """Hand in the final evidence, the receipt and the manifests of what it names; the
        manager's countersignature back. The lease is over with it, and watched no more."""
        countersignature = self._while_leased(
            lambda: self.client.finish(self.lease_id, evidence, receipt, outputs)
        )
        self.close()
        return countersignature
