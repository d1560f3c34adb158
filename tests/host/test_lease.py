"""Leases end by CLOCK_BOOTTIME, at once on a refusal, and never because of a lost packet (T12)."""

from __future__ import annotations

import threading
import time

import pytest

from svetovid.errors import EvidenceError, TransportError
from svetovid.host.lease import HeldLease, LeaseKeeper, boottime


def lease(seconds: float = 5.0, renew_after: float = 0.01) -> HeldLease:
    return HeldLease("lease", boottime(), seconds, renew_after)


def test_a_renewed_lease_keeps_the_job_alive() -> None:
    stop = threading.Event()
    renewals: list[int] = []

    def renew() -> HeldLease:
        renewals.append(1)
        return lease(0.2, 0.02)

    keeper = LeaseKeeper(lease(0.2, 0.02), renew, stop)
    keeper.start()
    assert not stop.wait(0.6)
    keeper.close()
    assert len(renewals) > 3
    assert keeper.lost is None
    assert not stop.is_set()


def test_t12_a_refusal_stops_the_job_at_once() -> None:
    stop = threading.Event()

    def renew() -> HeldLease:
        raise EvidenceError("ima.unlisted")

    keeper = LeaseKeeper(lease(60), renew, stop)
    keeper.start()
    assert stop.wait(1)
    keeper.close()
    assert keeper.lost is not None
    assert keeper.lost.code == "ima.unlisted"


def test_t12_silence_ends_the_lease_when_it_runs_out_and_not_before() -> None:
    stop = threading.Event()

    def renew() -> HeldLease:
        raise TransportError("transport.closed")

    started = time.monotonic()
    keeper = LeaseKeeper(lease(0.4), renew, stop)
    keeper.start()
    assert stop.wait(3)
    assert time.monotonic() - started >= 0.35
    keeper.close()
    assert keeper.lost is not None
    assert keeper.lost.code == "transport.closed"


def test_t12_time_is_the_clock_given_not_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    stop = threading.Event()
    offset = [0.0]
    keeper = LeaseKeeper(
        HeldLease("lease", 0.0, 100, 0.0),
        lambda: (_ for _ in ()).throw(TransportError("transport.closed")),
        stop,
        now=lambda: offset[0],
    )
    keeper._RETRY_S = 0.01  # type: ignore[misc]
    offset[0] = 101.0
    keeper.start()
    assert stop.wait(1)
    keeper.close()


def test_an_unknown_error_is_no_renewal() -> None:
    stop = threading.Event()

    def renew() -> HeldLease:
        raise ZeroDivisionError

    keeper = LeaseKeeper(lease(60), renew, stop)
    keeper.start()
    assert stop.wait(1)
    keeper.close()
    assert keeper.lost is not None
    assert keeper.lost.code == "lease.expired"


@pytest.mark.parametrize("whose", ["its own", "another"])
def test_t12_a_renewal_that_hangs_is_waited_for_while_leases_last(whose: str) -> None:
    """Whoever seals what a job made waits for it, and must not outlive any lease of the job."""
    stop, hang, asked = threading.Event(), threading.Event(), threading.Event()

    def renew() -> HeldLease:
        asked.set()
        hang.wait(20)
        raise TransportError("transport.timeout")

    keeper = LeaseKeeper(lease(0.6 if whose == "its own" else 60), renew, stop)
    keeper.start()
    assert asked.wait(5)
    if whose == "another":
        threading.Timer(0.4, stop.set).start()
    begun = time.monotonic()
    keeper.rest()
    assert 0.2 < time.monotonic() - begun < 3
    assert stop.is_set()
    assert (keeper.lost is not None) == (whose == "its own")
    hang.set()
    keeper.close()


def test_t12_a_lease_that_is_renewed_no_more_is_watched_on() -> None:
    stop = threading.Event()
    keeper = LeaseKeeper(lease(0.5, 0.1), lambda: lease(0.5, 60), stop)
    keeper.start()
    time.sleep(0.2)
    keeper.rest()
    assert not stop.is_set()
    assert stop.wait(2)
    assert keeper.lost is not None
    assert keeper.lost.code == "lease.expired"
    keeper.close()
