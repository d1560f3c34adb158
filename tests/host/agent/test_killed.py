"""kill -9 of an agent in the middle of training, over real TLS and real processes (T11)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentworld import World, trained
from svetovid.crypto import Identity
from svetovid.manager import Settings
from svetovid.protocol import ManagerClient, ManagerPin

MANAGER = """
import sys
from pathlib import Path
from svetovid.crypto import Secret
from svetovid.manager import PassphraseSealer, Settings, serve
folder = Path(sys.argv[1])
serve(folder, PassphraseSealer(Secret(b"p")), port=0, name="m",
      settings=Settings(lease_s=int(sys.argv[2])),
      ready=lambda pin: (folder / "ready").write_text("yes"))
"""

AGENT = """
import json, sys
from pathlib import Path
from svetovid.crypto import Secret
from svetovid.host.agent import run_job
from svetovid.host.home import HostHome
from svetovid.protocol import ManagerClient, ManagerPin
home, pin, job, storage, outputs = sys.argv[1:]
host = HostHome(Path(home))
client = ManagerClient(ManagerPin.parse(Path(pin).read_bytes()), host.agent(Secret(b"passphrase")))
outcome = run_job(host, job, [client], storage=json.loads(storage), outputs=outputs)
print(json.dumps({"outputs": outcome.outputs, "bundles": outcome.bundles}))
"""


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


class Process:
    """A manager in a process of its own."""

    def __init__(self, folder: Path, name: str, settings: Settings) -> None:
        place = folder / name
        self._process = subprocess.Popen(
            [sys.executable, "-c", MANAGER, str(place), str(settings.lease_s)]
        )
        until((place / "ready").exists)
        self.pin_file = place / "manager.json"
        self.pin = ManagerPin.parse(self.pin_file.read_bytes())
        self.key = self.pin.open().signing

    def client(self, who: Identity) -> ManagerClient:
        return ManagerClient(self.pin, who)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, lease_s=3, house=Process, job_changes={"parameters": {"pause": 150}})
    yield world
    world.close()


def start(world: World) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-c", AGENT),
            *(str(world.home.path), str(world.data_house.pin_file), world.job.digest()),
            *(json.dumps(world.storage), f"file://{world.out}/"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def offspring(pid: int) -> set[int]:
    """Every descendant, by pid."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(p) for p in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found |= {child} | offspring(child)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_t11_kill_9_in_mid_training_resumes_to_the_same_weights(world: World) -> None:
    agent = start(world)
    until(lambda: any((world.out / f"train.checkpoint.{n}").exists() for n in (2, 3, 4)))
    sandbox = offspring(agent.pid)
    assert sandbox
    os.kill(agent.pid, signal.SIGKILL)
    agent.communicate()
    until(lambda: not any(map(alive, sandbox)), 5)  # no agent, no sandbox (T12)
    until(lambda: world.state() != "running")
    again = start(world)
    out, error = again.communicate(timeout=60)
    assert again.returncode == 0, error
    said = json.loads(out)
    data = world.open(said["outputs"]["answer"], world.rita)
    assert int.from_bytes(data[-8:], "little", signed=True) == trained()
    metrics = json.loads(world.open(said["outputs"]["metrics"], world.rita))
    assert 0 < len(metrics["metrics"]["n"]) < 8  # the first steps were not done again
