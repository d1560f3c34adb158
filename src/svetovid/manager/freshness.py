"""Challenges: fresh, scoped, single use, short-lived; and what is proven with them.

Checks run from cheap to dear (D2): the challenge's signature, its scope, its time, whether it was
used, and only then the evidence.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from svetovid.crypto import Envelope, b64encode
from svetovid.errors import EvidenceError, PolicyError, SvetovidError
from svetovid.evidence.documents import (
    NO_JOB,
    NO_SUBJECT,
    Challenge,
    HostRecord,
    HostRole,
    Role,
    TeeEvidence,
    TpmEvidence,
)
from svetovid.evidence.ima.state import LogState
from svetovid.evidence.verify import Proven, verify_evidence
from svetovid.manager.admission import Admission
from svetovid.manager.cache import Cache
from svetovid.manager.challenges import OpenChallenge, OpenChallenges
from svetovid.manager.core import Core
from svetovid.manager.state import LeaseState
from svetovid.protocol.hosts import ChallengeRequest

__all__ = ["Admitted", "Freshness"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """Evidence whose challenge is open and ours alone until this block ends.

    Attributes:
        name: the challenge's digest.
        boot: resets, restarts and clock known of the host's TPM when the challenge was made.
    """

    evidence: TpmEvidence | TeeEvidence
    challenge: Challenge
    name: str
    record: HostRecord
    log: LogState | None
    boot: tuple[int, int, int]


class Freshness:
    """Makes challenges, and admits evidence that answers one.

    Args:
        channel: digest of the certificate that the manager's TLS server shows.
    """

    def __init__(self, core: Core, channel: str, admission: Admission) -> None:
        self._core = core
        self._admission = admission
        self._channel = channel
        self._open = OpenChallenges(core.settings.open_challenges, core.now)
        self._boots: dict[str, tuple[int, int, int]] = {}
        # A host whose log is not here is asked for all of it, so all of it can be done without.
        self._logs: Cache[str, LogState] = Cache(core.settings.log_bytes)

    def challenge(self, envelope: Envelope) -> dict[str, Any]:
        """A signed :class:`ChallengeRequest`; a signed :class:`Challenge` back.

        Raises:
            EvidenceError: ``host.unknown``, ``challenge.scope``.
            PolicyError: ``job.unknown``, ``job.finished``, ``lease.none``.
            LimitError: ``challenge.limit``.
        """
        core = self._core
        request = envelope.peek(ChallengeRequest)
        core.for_me(request.manager)
        core.timely(request.issued_at)
        host = core.state.hosts.get(request.host)
        if host is None:
            raise EvidenceError(
                "host.unknown",
                expected="an enrolled host",
                observed=request.host,
                next_step="svetovid host enrol",
            )
        envelope.open(ChallengeRequest, by=host.agent)
        if request.role == "attest" or request.job == NO_JOB:
            if (request.role, request.job) != ("attest", NO_JOB):
                observed = f"role {request.role} and job {request.job}"
                raise _refused("challenge.scope", "role attest, and no job", observed)
        else:
            self._job_open(request)
        signed = self._make(request.host, request.job, request.role, fresh=request.fresh)
        return signed.to_json()

    def next(self, host: str) -> Envelope:
        """A challenge for the evidence that ``host`` owes in an interval.

        Raises:
            LimitError: ``challenge.limit``.
        """
        return self._make(host, NO_JOB, "attest", fresh=False)

    def _make(self, host: str, job: str, role: HostRole, *, fresh: bool) -> Envelope:
        core = self._core
        now = core.now()
        log = None if fresh else self._logs.get(host)
        more = core.settings.interval_s if role == "attest" else 0
        challenge = Challenge(
            nonce=b64encode(secrets.token_bytes(32)),
            manager=core.me,
            host=host,
            job=job,
            role=role,
            issued_at=now,
            expires_at=now + core.settings.challenge_s + more,
            log_offset=0 if log is None else log.count,
        )
        boot = self.known_boot(host)
        self._open.put(OpenChallenge(challenge, log, boot))
        return core.sign(challenge)

    def forget(self, host: str) -> None:
        """Have the host's next evidence bring its whole log."""
        self._logs.forget(host)

    def known_boot(self, host: str) -> tuple[int, int, int]:
        """The newest resets, restarts and clock of a host's TPM, on the record or seen since."""
        recorded = self._core.state.boots.get(host, (0, 0, 0))
        return max(recorded, self._boots.get(host, recorded))

    def seen_boot(self, host: str, boot: tuple[int, int, int]) -> None:
        """Remember a boot that no record says; it can be done without, as all else here."""
        self._boots[host] = max(boot, self.known_boot(host))

    def carry_on(self, proven: Proven) -> None:
        """Let the host's next evidence begin where this one, which was granted, ends.

        Of a stranger's host while there is room: the logs of those who were admitted stay.
        """
        if proven.log is not None:
            state = self._core.state
            known = self._admission.admitted(state, state.hosts[proven.host].operator)
            self._logs.keep(proven.host, proven.log, proven.log.size, yields=not known)

    def _job_open(self, request: ChallengeRequest) -> None:
        state, now = self._core.state, self._core.now()
        job = state.jobs.get(request.job)
        if job is None:
            raise PolicyError(
                "job.unknown",
                expected="a job this manager holds",
                observed=request.job,
                next_step="have it proposed to this manager",
            )
        if job.finished:
            raise PolicyError(
                "job.finished", expected="a job that goes on", next_step="propose a new job"
            )
        if request.role != "release":
            lease = state.leases.get(job.lease)
            if lease is None or lease.host != request.host or not lease.live(now):
                raise no_lease(lease)

    @contextmanager
    def admit(self, evidence: TpmEvidence | TeeEvidence, role: Role) -> Iterator[Admitted]:
        """Check the challenge, and hold it for this evidence alone (F8).

        Raises:
            EvidenceError: ``challenge.unknown``, ``challenge.scope``, ``challenge.expired``,
                ``challenge.used``.
        """
        core = self._core
        try:
            challenge = evidence.challenge.open(Challenge, by=core.me)
        except SvetovidError as e:
            raise _refused("challenge.unknown", "a challenge of this manager", e.code) from e
        if challenge.manager != core.me or challenge.role != role:
            raise _refused("challenge.scope", f"one of {core.me} for {role}", challenge.role)
        if challenge.host != evidence.host or challenge.host not in core.state.hosts:
            raise _refused("challenge.scope", f"evidence of {challenge.host}", evidence.host)
        self.unexpired(challenge)
        name = challenge.digest()
        with self._open.answered(challenge, core.store.challenge_used) as held:
            if held is None and role == "attest":
                raise _refused("challenge.unknown", "a challenge of this very process", "another")
            # Not remembered, it is what is known now: stricter, never looser.
            boot = held.boot if held else self.known_boot(challenge.host)
            log = held.log if held else self._logs.get(challenge.host)
            if challenge.log_offset and (log is None or log.count != challenge.log_offset):
                raise _refused(
                    "challenge.unknown",
                    "a challenge for the whole log: this manager was started anew",
                    f"one for the log from entry {challenge.log_offset} on",
                )
            record = core.store.document(core.state.hosts[challenge.host].record, HostRecord)
            yield Admitted(
                evidence, challenge, name, record, log if challenge.log_offset else None, boot
            )

    def unexpired(self, challenge: Challenge) -> None:
        """Refuse a challenge that is over, or that a clock set back makes one of the future."""
        now = self._core.now()
        if not challenge.issued_at <= now < challenge.expires_at:
            raise _refused(
                "challenge.expired",
                f"an answer from {challenge.issued_at} to {challenge.expires_at}",
                str(now),
            )

    def prove(self, admitted: Admitted, subject: str = NO_SUBJECT) -> Proven:
        """What the evidence proves, whoever asks.

        Where the log does not go on from what is held (after a reboot), what is held is forgotten:
        the host's next challenge asks for the whole log.

        Raises:
            EvidenceError, ParseError: of :func:`verify_evidence`.
        """
        host = admitted.challenge.host
        try:
            return verify_evidence(
                admitted.evidence,
                admitted.record,
                challenge=admitted.challenge,
                channel=self._channel,
                subject=subject,
                log=admitted.log,
                now=self._core.now(),
            )
        except EvidenceError as e:
            if e.code.startswith("ima."):
                self._logs.forget(host)
            raise


def no_lease(lease: LeaseState | None) -> PolicyError:
    """The refusal of whoever has no live lease."""
    return PolicyError(
        "lease.none",
        expected="a live lease of this job on this host",
        observed="none" if lease is None else lease.ended or "expired, or another host's",
        next_step="ask for a release, which resumes the job from its last checkpoint",
    )


def _refused(code: str, expected: str, observed: str) -> EvidenceError:
    return EvidenceError(
        code, expected=expected, observed=observed, next_step="ask for a new challenge"
    )
