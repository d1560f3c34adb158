"""A job lives as long as its lease, and its plaintext no longer (T12)."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentworld import SLOW, World, children, plaintext_open, trained
from sandboxing import small_runtime
from svetovid.errors import SvetovidError, TransportError
from svetovid.host.lease import HeldLease, LeaseKeeper, boottime

Make = Callable[..., World]


def refused(world: World, **changes: Any) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        world.run(**changes)
    return e.value


class Shut:
    """Shuts a manager's gate when the job is under way, and remembers when."""

    def __init__(self, world: World, *, after: int = 2) -> None:
        self.gate = world.data_house.gate
        self.left = after
        self.at = 0.0
        self.gate.tap = self

    def __call__(self, request: httpx.Request) -> None:
        if request.url.path == "/v1/heads":
            self.left -= 1
        if self.left == 0 and not self.at:
            self.at = time.monotonic()
            self.gate.down = True


def test_t12_a_manager_that_is_gone_ends_the_job_with_the_lease_and_not_before(make: Make) -> None:
    world = make(lease_s=3, job_changes=SLOW)
    shut = Shut(world)
    error = refused(world)
    lived = time.monotonic() - shut.at
    assert isinstance(error, TransportError)
    assert error.code == "transport.unreachable"
    assert 1.0 < lived < 5.0  # renewed after one second, it has at least two left
    assert plaintext_open() == 0
    assert not children()


def test_t11_t12_a_manager_that_comes_back_in_time_ends_nothing(make: Make) -> None:
    """The checkpoint that was under way is recorded when it is back."""
    world = make(lease_s=6, job_changes={"parameters": {"pause": 50}})
    shut = Shut(world)

    def come_back() -> None:
        while not shut.at:
            time.sleep(0.05)
        time.sleep(1.0)
        shut.gate.down = False

    back = threading.Thread(target=come_back, daemon=True)
    back.start()
    outcome = world.run()
    back.join()
    assert shut.at
    assert world.answer(outcome) == trained()


def test_t12_an_unlisted_file_ends_the_job_at_once_with_the_managers_reason(
    make: Make, tmp_path: Path
) -> None:
    runtime = tmp_path / "runtime"
    shutil.copytree(small_runtime(), runtime, copy_function=os.link)
    world = make(kind="tpm", runtime=runtime, lease_s=30, job_changes=SLOW)
    house = world.data_house

    def evil(request: httpx.Request) -> None:
        if request.url.path == "/v1/heads":
            (runtime / "evil.py").write_text("import os")

    house.gate.tap = evil
    begun = time.monotonic()
    # a lease of 30 s is renewed after 10: make the host ask at once
    real = HeldLease.__init__

    def eager(self: Any, *a: Any, **k: Any) -> None:
        real(self, *a, **k)
        object.__setattr__(self, "renew_after", 0.5)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(HeldLease, "__init__", eager)
        error = refused(world)
    assert error.code == "ima.unlisted"
    assert time.monotonic() - begun < 8
    assert "ima.unlisted" in house.refusals(world.alice)
    assert plaintext_open() == 0
    assert not children()


def test_t12_leases_are_renewed_while_the_job_runs(make: Make) -> None:
    world = make(kind="tpm", lease_s=3, job_changes=SLOW)
    outcome = world.run()
    assert world.answer(outcome) == trained()
    entries = [r.entry for r in world.data_house.client(world.carol).records().records]
    assert [e.kind for e in entries if e].count("renewal") >= 1
    assert world.verify(world.bundle_of(outcome, world.data_house)).affirmed


def test_t12_a_manager_that_was_restarted_renews_from_the_whole_log(make: Make) -> None:
    world = make(kind="tpm", lease_s=3, job_changes=SLOW)
    house = world.data_house
    restarted: list[str] = []

    def after(request: httpx.Request) -> None:
        if request.url.path == "/v1/heads" and not restarted:
            restarted.append("yes")
            house.restart()

    house.gate.after = after
    outcome = world.run()
    assert restarted
    assert house.gate.paths.count("/v1/renewals") >= 1
    assert world.answer(outcome) == trained()
    assert house.refusals(world.carol) == []


def test_f9_a_host_that_was_rebooted_sends_its_whole_log(make: Make) -> None:
    """The manager holds the log of an earlier boot; the first evidence brings all of this one's."""
    world = make(kind="tpm")
    for _ in range(2):  # the embedded TPM starts anew with every job
        outcome = world.run()
        assert world.verify(world.bundle_of(outcome, world.data_house)).affirmed
        world.job = world.propose(name="again")
    assert world.data_house.refusals(world.carol) == []


def test_t12_a_lease_lost_while_sealing_is_no_receipt(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svetovid.host import agent

    world = make(lease_s=2)
    deliver = agent.deliver

    def slow(job: Any, name: str, *rest: Any) -> Any:
        world.data_house.gate.down = name == "answer"
        time.sleep(2.5)  # and the manager is back, too late
        return deliver(job, name, *rest)

    monkeypatch.setattr(agent, "deliver", slow)
    assert isinstance(refused(world), TransportError)
    assert not list(world.out.glob("*receipt*"))


def test_t12_the_end_is_waited_for_only_while_the_lease_lasts(make: Make) -> None:
    world = make(lease_s=3)
    gate = world.data_house.gate
    gate.tap = lambda r: setattr(gate, "down", gate.down or r.url.path == "/v1/finishes")
    begun = time.monotonic()
    assert isinstance(refused(world), TransportError)
    assert time.monotonic() - begun < 8
    assert not list(world.out.glob("*receipt*"))


def test_t13_an_answer_that_was_lost_is_asked_for_again(make: Make) -> None:
    """The manager countersigned; its word did not arrive; the job is not lost."""
    world = make()
    gate = world.data_house.gate
    lost: list[str] = []

    def after(request: httpx.Request) -> None:
        if request.url.path == "/v1/finishes" and not lost:
            lost.append("once")
            raise httpx.ReadError("gone")

    gate.after = after
    outcome = world.run()
    assert lost
    assert world.verify(world.bundle_of(outcome, world.data_house)).affirmed


def test_t13_a_log_that_grew_after_the_last_look_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svetovid.host import receipts

    world = make(kind="tpm", job_changes={"seed": 3})
    final = receipts.ManagerLink.final

    with world.attester() as attester:

        def grown(self: Any, subject: str, **more: Any) -> Any:
            launcher: Any = attester._log  # type: ignore[attr-defined]
            from svetovid.evidence.ima import build_entry

            launcher._enter([build_entry("/late.py", "sha256:" + "1" * 64)])
            return final(self, subject, **more)

        monkeypatch.setattr(receipts.ManagerLink, "final", grown)
        error = refused(world, attester=attester)
    assert error.code == "ima.unlisted"
    assert world.state() != "finished"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"metrics": "sha256:" + "0" * 64}, "evidence.subject"),
        ({"host": "sha256:" + "0" * 64}, "receipt.scope"),
        ({"start": "sha256:" + "0" * 64}, "receipt.scope"),
    ],
)
def test_t13_an_altered_receipt_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], code: str
) -> None:
    from svetovid.host import receipts

    world = make()
    real = receipts.make_receipt
    monkeypatch.setattr(
        receipts, "make_receipt", lambda *a, **k: real(*a, **k).model_copy(update=changes)
    )
    assert refused(world).code == code
    assert world.state() != "finished"
    assert not list(world.out.glob("*receipt*"))


def test_t12_a_renewal_that_hangs_does_not_outlive_its_lease() -> None:
    stop, hang = threading.Event(), threading.Event()

    def renew() -> HeldLease:
        hang.wait(5)
        raise TransportError("transport.timeout")

    keeper = LeaseKeeper(HeldLease("lease", boottime(), 0.4, 0.0), renew, stop)
    keeper.start()
    assert stop.wait(1)
    assert keeper.lost is not None
    assert keeper.lost.code == "lease.expired"
    hang.set()
    keeper.close()


def test_t12_a_lease_runs_while_the_machine_is_suspended() -> None:
    """CLOCK_BOOTTIME jumps, the monotonic clock that waits count by does not."""
    stop = threading.Event()
    jump = [0.0]
    keeper = LeaseKeeper(
        HeldLease("lease", boottime(), 3600, 8000),
        lambda: pytest.fail("asked too early"),
        stop,
        now=lambda: boottime() + jump[0],
    )
    keeper.start()
    assert not stop.wait(0.2)
    jump[0] = 7200
    assert stop.wait(1.5)
    keeper.close()
