"""A host proves itself at an interval, to every manager that it is enrolled with.

The agent pushes, so it works behind NAT. What a manager takes back by it is gone at once: the
process that runs the job here is told to end, and ended where it does not. A manager that has no
part in that job has no say in it.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from svetovid.crypto import Envelope, Identity, ReceivingKey, Secret
from svetovid.errors import RefusalError, SvetovidError
from svetovid.evidence.documents import NO_JOB, NO_SUBJECT, JobKeys
from svetovid.host.alone import end_job, lone_job
from svetovid.host.attester import Attester
from svetovid.host.home import HostHome
from svetovid.host.lease import boottime
from svetovid.host.life import managers_of
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.hosts import Attested
from svetovid.protocol.messages import ManagerPin

__all__ = ["Push", "attest_host"]

_RETRY_S = 1.0
_AFTER_REFUSAL_S = 10.0
_SPREAD = 0.1
_TICK_S = 0.25
"""Waits are short: they stand still while the machine is suspended, and intervals do not."""
_ANEW = frozenset({"challenge.unknown", "challenge.expired"})


@dataclass(frozen=True, slots=True)
class Push:
    """What came of one push.

    Attributes:
        manager: its key.
        standing: ``fresh``, ``refused``, or ``unheard`` where the manager did not answer.
        codes: why not, or why leases were lost.
        lost: leases that the manager took back.
        ended: whether the process that ran a job here was ended: only one that has keys of this
            manager's is.
    """

    manager: str
    standing: str
    codes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    ended: bool = False


class _Pushing:
    """Pushes to one manager until it is told to stop."""

    def __init__(
        self,
        home: Path,
        client: ManagerClient,
        attester: Attester,
        keys: JobKeys,
        on_push: Callable[[Push], None],
        stop: threading.Event,
    ) -> None:
        self._home = home
        self._host = HostHome(home).host_id
        self._client = client
        self._attester = attester
        self._keys = keys
        self._on_push = on_push
        self._stop = stop
        self._challenge: Envelope | None = None

    def run(self) -> None:
        while not self._stop.is_set():
            begun = boottime()
            push, wait = self._once()
            self._on_push(push)
            # A little early, by chance: hosts that came back at once would else stay in step.
            wait *= random.uniform(1 - _SPREAD, 1)  # noqa: S311 - nothing secret
            while boottime() < begun + wait and not self._stop.is_set():
                self._stop.wait(min(wait, _TICK_S))

    def _once(self) -> tuple[Push, float]:
        me = self._client.manager
        try:
            answer = self._ask()
        except RefusalError as e:
            codes = tuple(sorted({r.code for r in e.reasons}))
            if e.code in _ANEW:
                return Push(me, "unheard", codes), 0.0
            return Push(me, "refused", codes, ended=end_job(self._home, me)), _AFTER_REFUSAL_S
        except SvetovidError as e:
            return Push(me, "unheard", (e.code,)), _RETRY_S * random.uniform(1, 4)  # noqa: S311
        ended = bool(answer.lost) and end_job(self._home, me)
        return Push(me, "fresh", answer.codes, answer.lost, ended), answer.interval

    def _ask(self) -> Attested:
        """The first push of a process brings the whole log; so does one whose challenge is lost."""
        challenge, self._challenge = self._challenge, None
        if challenge is None:
            challenge = self._client.challenge(self._host, NO_JOB, "attest", fresh=True)
        self._attester.measure()
        evidence = self._attester.evidence(challenge, self._keys, self._client.channel, NO_SUBJECT)
        answer = self._client.attest(evidence)
        self._challenge = answer.challenge
        return answer


def attest_host(
    home: Path,
    pins: Sequence[ManagerPin],
    passphrase: Secret,
    *,
    stop: threading.Event,
    on_push: Callable[[Push], None] = lambda _: None,
) -> None:
    """Attest to each manager at its interval until ``stop`` is set.

    A host whose kernel keeps no measurement log is measured by whichever process runs: there this
    holds the host as a job does, and a job's own renewals are what proves it while one runs.

    Args:
        home: an enrolled host.
        pins: the managers, given by hand and never fetched (T1).
        passphrase: opens the agent's identity.
        on_push: hears of every push, from a thread for each manager.

    Raises:
        InputError, HostError: before the first push, as :meth:`HostHome.attester` does, and
            ``host.busy``.
    """
    at = HostHome(home)
    with contextlib.ExitStack() as stack:
        if not at.kernel_log:
            stack.enter_context(lone_job(home))
        clients = stack.enter_context(managers_of(home, pins, passphrase, "attest"))
        attester = at.attester()
        stack.callback(attester.close)
        # Nothing is sealed to these keys; the evidence binds some, as for a job (T6).
        keys = JobKeys(
            receiving=ReceivingKey.generate().public, signing=Identity.generate("standing").key_id
        )
        pushing = [_Pushing(home, c, attester, keys, on_push, stop) for c in clients]
        threads = [threading.Thread(target=p.run, name="attest", daemon=True) for p in pushing]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_TICK_S)
