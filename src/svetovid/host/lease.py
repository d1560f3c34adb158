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

__all__ = ["HeldLease", "LeaseKeeper", "boottime"]


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
    manager that restarts) is tried again until the lease has run out.
    """

    _RETRY_S = 1.0

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
        self._closed = threading.Event()
        self.lost: SvetovidError | None = None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop renewing, without touching the job."""
        self._closed.set()
        self._thread.join()

    def _keep(self) -> None:
        ask_at = self._held.started + self._held.renew_after
        while not self._closed.is_set():
            now = self._now()
            if now >= self._held.ends:
                self.lost = self.lost or RefusalError(
                    "lease.expired",
                    expected="a renewal before the lease ran out",
                    next_step="look at the manager's records for this job",
                )
                self._stop.set()
                return
            if now < ask_at:
                self._closed.wait(min(ask_at, self._held.ends) - now)
                continue
            try:
                self._held = self._renew()
                ask_at = self._held.started + self._held.renew_after
                self.lost = None
            except RefusalError as e:
                self.lost = e
                self._stop.set()
                return
            except SvetovidError as e:
                self.lost = e
                ask_at = now + self._RETRY_S
            except Exception:  # noqa: BLE001 - fail closed: an unknown error is no renewal
                self.lost = RefusalError("lease.expired", expected="a renewal that can be read")
                self._stop.set()
                return
