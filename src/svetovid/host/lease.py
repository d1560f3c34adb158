"""Leases on the host: a job runs while every manager keeps renewing it, and not a moment longer.

The end of a lease counts CLOCK_BOOTTIME from the moment its challenge arrived (T12): the operator
sets the wall clock, and suspended time counts as well. Only the manager's answer moves the end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from svetovid.errors import RefusalError, SvetovidError

__all__ = ["HeldLease", "LeaseKeeper", "boottime", "expired"]


def boottime() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as the host holds it.

    Attributes:
        lease_id: the manager's name for it.
        started: CLOCK_BOOTTIME seconds at which the challenge arrived.
        seconds: how long the manager allows from then on.
        renew_after: seconds after which to ask again.
    """

    lease_id: str
    started: float
    seconds: float
    renew_after: float

    @property
    def ends(self) -> float:
        return self.started + self.seconds


class LeaseKeeper:
    """Renews one lease in the background; sets ``stop`` when it is over.

    Args:
        held: the lease to start from.
        renew: asks the manager with fresh evidence; returns the lease that follows.
        stop: the job's stop signal, shared with every other keeper of the job.
        now: clock in CLOCK_BOOTTIME seconds.

    A refusal ends the lease at once: the manager has said no. Anything else (a lost packet, a
    manager that restarts) is tried again until the lease has run out. The clock is watched from a
    thread of its own, until :meth:`close`, so that nothing that hangs outlives its lease.

    Attributes:
        lost: why the lease is over, once it is.
    """

    _RETRY_S = 1.0
    _TICK_S = 0.25
    """Waits are short: they stand still while the machine is suspended, and the lease does not."""

    def __init__(
        self,
        held: HeldLease,
        renew: Callable[[], HeldLease],
        stop: threading.Event,
        *,
        now: Callable[[], float] = boottime,
    ) -> None:
        self._held = held
        self._renew = renew
        self._stop = stop
        self._now = now
        self._resting = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._trouble: SvetovidError | None = None
        self.lost: SvetovidError | None = None
        self._watching = threading.Thread(target=self._watch, name="lease", daemon=True)
        self._renewing = threading.Thread(target=self._keep, name="renewals", daemon=True)

    def start(self) -> None:
        self._watching.start()
        self._renewing.start()

    def rest(self) -> None:
        """Renew no more; the lease is watched on.

        A renewal under way is waited for until it is answered or ``stop`` is set, which this lease
        or another of the job does at its end: a manager that never answers cannot hold the job.
        """
        self._resting.set()
        while self._renewing.is_alive() and not self._stop.is_set():
            self._renewing.join(self._TICK_S)

    def close(self) -> None:
        """Renew and watch no more, without touching the job. A renewal under way is awaited."""
        self._resting.set()
        self._closed.set()
        self._watching.join()
        self._renewing.join()

    def _end(self, why: SvetovidError) -> None:
        with self._lock:
            if self.lost is None:
                self.lost = why
        self._resting.set()
        self._closed.set()
        self._stop.set()

    def _watch(self) -> None:
        while not self._closed.is_set():
            left = self._held.ends - self._now()
            if left <= 0:
                self._end(self._trouble or expired("a renewal before the lease ran out"))
                return
            self._closed.wait(min(left, self._TICK_S))

    def _keep(self) -> None:
        ask_at = self._held.started + self._held.renew_after
        while not self._resting.is_set():
            left = ask_at - self._now()
            if left > 0:
                self._resting.wait(min(left, self._TICK_S))
                continue
            try:
                self._held = self._renew()
            except RefusalError as e:
                self._end(e)
            except SvetovidError as e:
                self._trouble = e
                ask_at = self._now() + self._RETRY_S
            except Exception:  # noqa: BLE001 - fail closed: an unknown error is no renewal
                self._end(expired("a renewal that can be read"))
            else:
                self._trouble = None
                ask_at = self._held.started + self._held.renew_after


def expired(expected: str) -> RefusalError:
    """The refusal ``lease.expired``: what was to happen before the end did not."""
    return RefusalError(
        "lease.expired",
        expected=expected,
        next_step="look at the manager's records for this job, and start it again to resume it",
    )
