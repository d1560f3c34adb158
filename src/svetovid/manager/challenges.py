"""The challenges that wait for an answer, and those that had one.

They live in this process alone. A manager that starts anew knows none, so none of an earlier life
can be answered twice: the host asks again, at the price of one round trip. Nothing is written to
the disk for somebody who only asks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from svetovid.errors import EvidenceError, LimitError
from svetovid.evidence.documents import Challenge
from svetovid.evidence.ima.state import LogState

__all__ = ["OpenChallenge", "OpenChallenges"]


@dataclass(frozen=True, slots=True)
class OpenChallenge:
    """What was known of a host when it was challenged.

    Attributes:
        log: its measurement log as far as it was proven; the answer goes on from there.
        boot: resets, restarts and clock of its TPM.
    """

    challenge: Challenge
    log: LogState | None
    boot: tuple[int, int, int]


class OpenChallenges:
    """Each is taken once. Threads may share it.

    Args:
        of_a_host: how many of one host may be open.
    """

    def __init__(self, of_a_host: int) -> None:
        self._of_a_host = of_a_host
        self._lock = threading.Lock()
        self._open: dict[str, dict[str, OpenChallenge]] = {}
        self._taken: OrderedDict[str, int] = OrderedDict()

    def put(self, opened: OpenChallenge, now: int) -> None:
        """Raises:
        LimitError: ``challenge.limit``.
        """
        challenge = opened.challenge
        with self._lock:
            held = self._open.get(challenge.host, {})
            alive = {n: o for n, o in held.items() if o.challenge.expires_at > now}
            if len(alive) >= self._of_a_host:
                raise LimitError(
                    "challenge.limit",
                    expected=f"at most {self._of_a_host} open challenges a host",
                    observed="as many",
                    next_step="answer one, or wait until they expire",
                )
            alive[challenge.digest()] = opened
            self._open[challenge.host] = alive

    def take(self, challenge: Challenge, now: int) -> OpenChallenge:
        """The challenge is nobody else's from here on, whatever becomes of its answer.

        Raises:
            EvidenceError: ``challenge.used``; ``challenge.unknown`` where this process made none.
        """
        name = challenge.digest()
        with self._lock:
            while self._taken and next(iter(self._taken.values())) <= now:
                self._taken.popitem(last=False)
            held = self._open.get(challenge.host, {})
            found = held.pop(name, None)
            if not held:
                self._open.pop(challenge.host, None)
            if found is not None:
                self._taken[name] = challenge.expires_at
                return found
            used = name in self._taken
        raise EvidenceError(
            "challenge.used" if used else "challenge.unknown",
            expected="a challenge that waits for an answer" if used else "one this manager keeps",
            observed=f"{name}, answered before" if used else name,
            next_step="ask for a new challenge",
        )
