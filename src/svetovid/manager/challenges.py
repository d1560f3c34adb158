"""What a manager remembers of the challenges it made until they are answered.

A challenge stands on its own: the manager's signature says that it made it, its time until when it
counts, and the store, in the transaction of the decision, that it counts once. So nothing is
written to the disk for somebody who only asks, and another manager over the same store may take
the answer. What is remembered here can be done without.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

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


class _Made(NamedTuple):
    """A challenge that may be open still; ``name`` is its digest."""

    expires_at: int
    issued_at: int
    host: str
    name: str


class OpenChallenges:
    """What waits for an answer, and what is being answered. Threads may share it.

    Args:
        of_a_host: how many of one host may be open.
        clock: Unix seconds. It is read under the lock: of two threads, the one that read it first
            may come last, and that is no clock set back.
    """

    def __init__(self, of_a_host: int, clock: Callable[[], int]) -> None:
        self._of_a_host = of_a_host
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, dict[str, OpenChallenge]] = {}
        self._made: list[_Made] = []  # a heap: what expires first, first
        self._newest = 0
        self._busy: set[str] = set()

    def put(self, opened: OpenChallenge) -> None:
        """Raises:
        LimitError: ``challenge.limit``.
        """
        challenge = opened.challenge
        with self._lock:
            self._forget(self._clock())
            held = self._open.get(challenge.host, {})
            if len(held) >= self._of_a_host:
                raise LimitError(
                    "challenge.limit",
                    expected=f"at most {self._of_a_host} open challenges a host",
                    observed="as many",
                    next_step="answer one, or wait until they expire",
                )
            name = challenge.digest()
            self._open.setdefault(challenge.host, {})[name] = opened
            made = _Made(challenge.expires_at, challenge.issued_at, challenge.host, name)
            heapq.heappush(self._made, made)

    def _forget(self, now: int) -> None:
        """What nobody can answer any more, of any host: each holds a log."""
        if now < self._newest:  # a clock that was set back: what it made since is of the future
            for made in self._made:
                if made.issued_at > now:
                    self._take(made.host, made.name)
            self._made = [made for made in self._made if made.issued_at <= now]
            heapq.heapify(self._made)
        self._newest = now
        while self._made and self._made[0].expires_at <= now:
            made = heapq.heappop(self._made)
            self._take(made.host, made.name)

    def _take(self, host: str, name: str) -> OpenChallenge | None:
        held = self._open.get(host, {})
        found = held.pop(name, None)
        if not held:
            self._open.pop(host, None)
        return found

    @contextmanager
    def answered(
        self, challenge: Challenge, used: Callable[[str], bool]
    ) -> Iterator[OpenChallenge | None]:
        """Hold the challenge for one answer; what was remembered of it.

        Args:
            used: asks the store whether it was answered; only where nothing is remembered.

        Raises:
            EvidenceError: ``challenge.used``.
        """
        name = challenge.digest()
        with self._lock:
            busy = name in self._busy
            self._busy.add(name)
            found = self._take(challenge.host, name)
        if busy:
            raise _used(name)
        try:
            if found is None and used(name):
                raise _used(name)
            yield found
        finally:
            with self._lock:
                self._busy.discard(name)


def _used(name: str) -> EvidenceError:
    return EvidenceError(
        "challenge.used",
        expected="a challenge that was not answered",
        observed=name,
        next_step="ask for a new challenge",
    )
