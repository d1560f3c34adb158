"""A host that proves itself at an interval, and ends the job that it lost the lease of (T12)."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentworld import PASSPHRASE, World
from svetovid.crypto import Identity
from svetovid.errors import HostError, RefusalError, TransportError
from svetovid.host import alone as alone_module
from svetovid.host import attest_host, life
from svetovid.host import attesting as attesting_module
from svetovid.host.alone import end_job, lone_job
from svetovid.host.attesting import Push
from svetovid.protocol import ManagerClient, ManagerPin
from svetovid.protocol.client import ManagerClient as Client
from svetovid.protocol.seen import SeenFile

Make = Callable[..., World]

JOB = """
import signal, sys, time
from pathlib import Path
from svetovid.host.alone import lone_job
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
with lone_job(Path(sys.argv[1])) as note:
    note(sys.argv[3:])
    try:
        print("running", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("orderly", flush=True)
        raise SystemExit(7)
"""


ANN, BEN = "ed25519:" + "a" * 64, "ed25519:" + "b" * 64


def job(home: Path, kind: str, *managers: str) -> subprocess.Popen[str]:
    """A process that holds the host in ``home`` for a job with keys of these managers."""
    args = [sys.executable, "-c", JOB, str(home), kind, *managers]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def test_t12_a_job_is_told_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone_module, "_ORDERLY_S", 30)  # a busy machine may take its time
    process = job(tmp_path, "civil", ANN, BEN)
    assert end_job(tmp_path, BEN)
    assert process.wait(10) == 7
    assert not end_job(tmp_path, BEN)


def test_t12_a_job_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    """T12: its keys go with it, within a second."""
    process = job(tmp_path, "deaf", ANN)
    begun = time.monotonic()
    assert end_job(tmp_path, ANN)
    assert process.wait(10) == -signal.SIGKILL
    assert time.monotonic() - begun < 5


def test_a_manager_that_has_no_part_in_a_job_does_not_end_it(tmp_path: Path) -> None:
    """Its refusal, its clock or its restored store is no business of this job's owners."""
    for managers in ((ANN,), ()):
        process = job(tmp_path, "civil", *managers)
        try:
            assert not end_job(tmp_path, BEN)
            assert not end_job(tmp_path, str(process.pid))
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()


def test_a_job_whose_managers_cannot_be_noted_does_not_start(tmp_path: Path) -> None:
    with lone_job(tmp_path) as note, pytest.MonkeyPatch.context() as m:
        m.setattr(alone_module.os, "pwrite", lambda *_: 1)
        with pytest.raises(HostError, match=r"host\.lock"):
            note([ANN])


def test_nobody_else_is_ended(tmp_path: Path) -> None:
    """What a file says of a job that is over may be anybody's number by now."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (tmp_path / "job.lock").write_text(f"{bystander.pid}\n{ANN}")
        assert not end_job(tmp_path, ANN)
        (tmp_path / "job.lock").write_text(f"no number\n{ANN}")
        assert not end_job(tmp_path, ANN)
        with lone_job(tmp_path) as note:
            note([ANN])
            assert not end_job(tmp_path, ANN)  # this very process
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.fixture
def looked_at(tmp_path: Path) -> Iterator[int]:
    """The descriptor of another look at the lock, under way."""
    fd = os.open(tmp_path / "job.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    yield fd
    os.close(fd)


def test_t8_a_look_at_an_idle_host_does_not_make_it_busy(tmp_path: Path, looked_at: int) -> None:
    """T8: a refused push asks whether a job runs, just as one starts."""
    threading.Timer(0.2, fcntl.flock, (looked_at, fcntl.LOCK_UN)).start()
    with lone_job(tmp_path), pytest.raises(HostError) as e, lone_job(tmp_path):
        pytest.fail("two at once")
    assert e.value.code == "host.busy"


def test_t8_who_never_stops_looking_is_not_waited_for(
    tmp_path: Path, looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone_module, "_LOOKING_S", 0.1)
    with pytest.raises(HostError, match=r"host\.busy"), lone_job(tmp_path):
        pytest.fail("the lock was shared")


def test_t8_a_look_is_no_job(tmp_path: Path, looked_at: int) -> None:
    """Or two refused pushes at once would end whatever has a finished job's number by now."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (tmp_path / "job.lock").write_text(f"{bystander.pid}\n{ANN}")
        assert not end_job(tmp_path, ANN)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


# -- pushes


@pytest.fixture
def world(make: Make, monkeypatch: pytest.MonkeyPatch) -> World:
    made = make()
    houses = {h.pin.url: h for h in made.all_houses}

    def client(pin: ManagerPin, agent: Identity, *, seen: SeenFile) -> ManagerClient:
        return ManagerClient(pin, agent, seen=seen, transport=houses[pin.url].gate)

    monkeypatch.setattr(life, "ManagerClient", client)
    monkeypatch.setattr(attesting_module, "_RETRY_S", 0.0)
    monkeypatch.setattr(attesting_module, "_AFTER_REFUSAL_S", 0.0)
    return made


def pushes(world: World, count: int) -> list[Push]:
    """What came of the first ``count`` pushes."""
    heard: list[Push] = []
    stop = threading.Event()

    def tell(push: Push) -> None:
        heard.append(push)
        if len(heard) >= count:
            stop.set()

    pin = world.data_house.pin
    attest_host(world.home.path, [pin], PASSPHRASE, stop=stop, on_push=tell)
    return heard


def test_a_host_is_fresh(world: World) -> None:
    house = world.data_house
    assert pushes(world, 1) == [Push(house.key, "fresh")]
    found = house.client(world.olga).standing(world.home.host_id)
    assert found.standing == "fresh"


def test_one_process_measures_a_host_without_a_kernels_log(world: World) -> None:
    """T8: a job's renewals prove it meanwhile."""
    process = job(world.home.path, "civil")
    try:
        with pytest.raises(HostError, match=r"host\.busy"):
            pushes(world, 1)
    finally:
        process.kill()
        process.wait()


def scripted(monkeypatch: pytest.MonkeyPatch, *answers: Exception | None) -> None:
    """What the manager answers to one push after the other; None lets it answer itself."""
    real, left = Client.attest, list(answers)

    def attest(self: Client, evidence: Any) -> Any:
        answer = left.pop(0) if left else None
        if answer is not None:
            raise answer
        return real(self, evidence)

    monkeypatch.setattr(Client, "attest", attest)


def test_a_manager_that_is_away_or_forgot_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attesting_module, "end_job", lambda *_: pytest.fail("nothing was refused"))
    away, forgot = TransportError("connection.failed"), RefusalError("challenge.unknown")
    scripted(monkeypatch, away, forgot)
    assert [(p.standing, p.codes) for p in pushes(world, 3)] == [
        ("unheard", ("connection.failed",)),
        ("unheard", ("challenge.unknown",)),
        ("fresh", ()),
    ]


def test_t12_what_is_refused_or_lost_ends_the_job_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[Path, str]] = []
    monkeypatch.setattr(attesting_module, "end_job", lambda *of: ended.append(of) or True)
    scripted(monkeypatch, RefusalError("ima.replay"))
    (push,) = pushes(world, 1)
    assert (push.standing, push.codes, push.ended) == ("refused", ("ima.replay",), True)
    lease = "sha256:" + "1" * 64
    real = Client.attest

    def lost(self: Client, evidence: Any) -> Any:
        return real(self, evidence).model_copy(update={"lost": (lease,), "codes": ("ima.x",)})

    monkeypatch.setattr(Client, "attest", lost)
    (push,) = pushes(world, 1)
    assert push == Push(world.data_house.key, "fresh", ("ima.x",), (lease,), ended=True)
    assert ended == [(world.home.path, world.data_house.key)] * 2
