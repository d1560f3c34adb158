"""However the demo is ended, nothing of it goes on: a manager holds opened keys (T18)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from svetovid.cli.demo.processes import Processes
from svetovid.errors import HostError

PLAY = """
import sys, time
from svetovid.cli.demo import play
from svetovid.cli.main import run

def open_house(story):
    story.stage.processes.start("sleeper", sys.argv[1])
    time.sleep(60)

play.open_house = open_house
sys.exit(run(["demo"]))
"""
SLEEPER = """
import os, pathlib, sys, time
place = pathlib.Path(sys.argv[1])
place.with_suffix(".new").write_text(str(os.getpid()))
place.with_suffix(".new").rename(place)
time.sleep(60)
"""


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


class Playing:
    """A demo that has got as far as a manager."""

    def __init__(self, folder: Path, *, nohup: bool = False) -> None:
        folder.mkdir(mode=0o755)
        (folder / "sleeper.py").write_text(SLEEPER)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._pid = folder / "pid"
        ignored = (lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if nohup else None
        self.process = subprocess.Popen(
            [sys.executable, "-c", PLAY, str(self._pid)],
            env={**os.environ, "PYTHONPATH": str(folder), "TMPDIR": str(self.temporary)},
            stderr=subprocess.DEVNULL,
            preexec_fn=ignored,
        )

    def pid(self) -> int:
        wait_for(self._pid.exists)
        return int(self._pid.read_text())


@pytest.mark.timeout(120)
def test_t18_no_signal_leaves_a_process_of_the_demo(tmp_path: Path) -> None:
    term, hup, kill = (Playing(tmp_path / name) for name in ("term", "hup", "kill"))
    nohup = Playing(tmp_path / "nohup", nohup=True)
    sent = ((term, signal.SIGTERM), (hup, signal.SIGHUP), (kill, signal.SIGKILL))
    for playing, number in sent:
        manager = playing.pid()
        assert not gone(manager)
        playing.process.send_signal(number)
        code = playing.process.wait(30)
        assert code == (-number if number == signal.SIGKILL else 128 + number)
        wait_for(lambda pid=manager: gone(pid))
    assert not any(term.temporary.iterdir())
    assert not any(hup.temporary.iterdir())
    manager = nohup.pid()
    nohup.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert not gone(manager)
    nohup.process.terminate()
    assert nohup.process.wait(30) == 128 + signal.SIGTERM


def test_nothing_is_started_after_the_end() -> None:
    processes = Processes()
    processes.end()
    with pytest.raises(HostError) as e:
        processes.start("svetovid.cli", "version")
    assert e.value.code == "demo.over"


def test_what_does_not_end_when_asked_is_made_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deaf.py").write_text(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
    )
    monkeypatch.setattr("svetovid.cli.demo.processes._END_S", 0.1)
    processes = Processes()
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = processes.start("deaf", str(tmp_path / "pid"), env=env)
    wait_for((tmp_path / "pid").exists)
    processes.end()
    assert process.returncode == -signal.SIGKILL
