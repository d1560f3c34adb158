"""One job at a time on a host and on its accelerators; their memory is cleared between (T8)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentworld import Event, World, trained
from fakegpu import MIB, TOTAL, fake, numbered
from svetovid.errors import HostError, RefusalError
from svetovid.host.accelerators import Accelerators
from svetovid.host.agent import run_job
from svetovid.host.alone import lone_job
from svetovid.policy.documents import Grant

Make = Callable[..., World]
NODE = "/dev/zero"
"""A node that every machine has; the tests below call it a GPU."""

HOLD = """
import sys
from pathlib import Path
from svetovid.host.alone import lone_job
with lone_job(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def gpu_world(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose owners grant a GPU and whose host has one, a FAKE."""
    numbered(monkeypatch, {NODE: (195, 0)})
    monkeypatch.setattr(
        World, "policy", lambda w, who, slot, real=World.policy: _with_gpu(real(w, who, slot))
    )
    return make(job_changes={"devices": (NODE,)})


def _with_gpu(policy):
    grants = tuple(Grant(**{**dict(g), "devices": (NODE,)}) for g in policy.grants)
    return policy.model_copy(update={"grants": grants})


def run(world: World, machine: Accelerators, on_event: Callable[[Event], None]):
    return run_job(
        world.home,
        world.job.digest(),
        world.clients(),
        storage=world.storage,
        outputs=f"file://{world.out}/",
        on_event=on_event,
        accelerators=machine,
    )


@pytest.fixture
def holder(make: Make) -> Iterator[tuple[World, subprocess.Popen[str]]]:
    world = make()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(world.home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    yield world, other
    other.kill()
    other.communicate()


def test_t8_one_job_at_a_time_on_a_host(holder: tuple[World, subprocess.Popen[str]]) -> None:
    """Whatever kind of TPM it has, and before a manager is asked for anything."""
    world, other = holder
    asked = len(world.data_house.gate.paths)
    with pytest.raises(HostError) as e:
        world.run()
    assert e.value.code == "host.busy"
    assert f"process {other.pid}" in e.value.reason.observed
    assert str(world.home.path) in e.value.reason.observed
    assert len(world.data_house.gate.paths) == asked
    other.send_signal(signal.SIGKILL)  # no lock outlives its holder
    other.wait()
    assert world.answer(world.run()) == trained()


def test_t8_the_lock_lasts_as_long_as_the_job(make: Make) -> None:
    world = make()
    seen: list[str] = []

    def on_event(event: Event) -> None:
        with pytest.raises(HostError) as e, lone_job(world.home.path):
            pytest.fail("two at once")
        assert f"process {os.getpid()}" in e.value.reason.observed
        said = (world.home.path / "job.lock").read_text().split("\n")
        assert said[1:] == sorted(world.job.managers), "a job is ended for its managers alone"
        seen.append(event.stage)

    run(world, Accelerators(), on_event)
    assert seen[0] == "attesting"
    assert seen[-1] == "finished"
    with lone_job(world.home.path):
        pass


def test_a_lock_that_says_nothing_of_its_holder(tmp_path: Path) -> None:
    with lone_job(tmp_path):
        (tmp_path / "job.lock").write_bytes(b"\x1b[2J lies")
        with pytest.raises(HostError) as e, lone_job(tmp_path):
            pytest.fail("two at once")
        assert e.value.reason.observed.startswith("another process ")


def test_t8_an_accelerator_that_this_host_has_not(make: Make) -> None:
    """Refused before anything is asked of a manager: no run of anybody's limit is used up."""
    world = make(job_changes={"devices": ("/dev/nvidia77",)})
    asked = len(world.data_house.gate.paths)
    with pytest.raises(HostError) as e:
        world.run()
    assert e.value.code == "device.missing"
    assert set(world.data_house.gate.paths[asked:]) == {f"/v1/jobs/{world.job.digest()}"}


def test_t8_memory_is_cleared_before_and_after_a_job(gpu_world: World, tmp_path: Path) -> None:
    """On a FAKE driver: what an earlier job left, and what this one did."""
    machine = fake(tmp_path)
    memory = tmp_path / "device-memory"
    stages: dict[str, bool] = {}

    def on_event(event: Event) -> None:
        left = memory.read_bytes()[: TOTAL - 2 * MIB]
        stages[event.stage] = any(left)
        if event.stage == "running":
            memory.write_bytes(b"secret" * (TOTAL // 6))
        with pytest.raises(HostError) as e, machine.lent(machine.find([NODE])):
            pytest.fail("two jobs on one GPU")
        assert e.value.code == "device.busy"

    outcome = run(gpu_world, machine, on_event)
    assert gpu_world.answer(outcome) == trained()
    assert not any(stages.values())
    assert set(stages) >= {"attesting", "running", "sealing", "finished"}
    assert outcome.timings["clear_s"] > 0


def test_t8_memory_is_cleared_after_a_job_that_failed(
    make: Make, gpu_world: World, tmp_path: Path
) -> None:
    machine = fake(tmp_path)
    memory = tmp_path / "device-memory"
    world = make(script="raise ValueError\n", job_changes={"devices": (NODE,)})

    def on_event(event: Event) -> None:
        if event.stage == "running":
            memory.write_bytes(b"secret" * (TOTAL // 6))

    with pytest.raises(RefusalError) as e:
        run(world, machine, on_event)
    assert e.value.code == "sandbox.script"
    assert not any(memory.read_bytes()[: TOTAL - 2 * MIB])


def test_t8_without_a_clearing_no_key_is_asked_for(gpu_world: World, tmp_path: Path) -> None:
    machine = fake(tmp_path, defect=1)
    asked = len(gpu_world.data_house.gate.paths)
    with pytest.raises(HostError) as e:
        run(gpu_world, machine, lambda _: None)
    assert e.value.code == "device.clear"
    assert set(gpu_world.data_house.gate.paths[asked:]) == {f"/v1/jobs/{gpu_world.job.digest()}"}


def test_t8_a_clearing_that_failed_after_a_job_ends_all(gpu_world: World, tmp_path: Path) -> None:
    """No output and no receipt of a job whose data may still be there; and no next job."""
    machine = fake(tmp_path)

    def on_event(event: Event) -> None:
        if event.stage == "running":
            os.truncate(tmp_path / "held", TOTAL // 2)

    for _ in range(2):
        with pytest.raises(HostError) as e:
            run(gpu_world, machine, on_event)
        assert e.value.code == "device.clear"
        assert not list(gpu_world.out.glob("*.sealed"))
        assert not list(gpu_world.out.glob("*.receipt.json"))
    assert gpu_world.state() != "running"  # the lease was given back
    os.truncate(tmp_path / "held", 2 * MIB)
    assert gpu_world.answer(run(gpu_world, machine, lambda _: None)) == trained()
