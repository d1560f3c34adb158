"""Real TPMs for tests: libtpms in this process, swtpm beside it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from svetovid.errors import HostError
from svetovid.host.tpm import Tpm, open_transport


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    """A new libtpms, started. Opened and closed by each test: a process has one at a time."""
    try:
        tpm = Tpm(open_transport(f"libtpms:{tmp_path / 'tpm.state'}"))
    except HostError as e:
        if e.code == "tpm.absent":
            pytest.skip("libtpms.so.0 is not installed")
        raise
    tpm.startup()
    with tpm:
        yield tpm


def _wait(connect: Callable[[], None], process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        try:
            connect()
        except OSError:
            assert process.poll() is None, "swtpm stopped"
            time.sleep(0.01)
        else:
            return
    raise AssertionError("swtpm does not listen")


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Start swtpm on a unix path or a TCP port; answers its transport's spec."""
    if shutil.which("swtpm") is None:
        pytest.skip("swtpm is not installed")
    started: list[subprocess.Popen[bytes]] = []

    def start(way: str) -> str:
        state = tmp_path / f"swtpm-{way}"
        state.mkdir()
        path = f"{state}/s"
        if way == "unix":
            server, control = f"type=unixio,path={path}", f"type=unixio,path={path}.ctrl"
        else:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            server = f"type=tcp,port={port},bindaddr=127.0.0.1"
            control = f"type=unixio,path={path}.ctrl"
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", server]
        command += ["--ctrl", control, "--flags", "not-need-init"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(process)
        # Looked at, not connected to: swtpm serves one client and stops with the first.
        if way == "unix":
            _wait(lambda: _accepting(path), process)
            return f"swtpm:unix:{path}"
        _wait(lambda: _listening(port), process)
        return f"swtpm:tcp:127.0.0.1:{port}"

    yield start
    for process in started:
        process.terminate()
        process.wait(5)


def _accepting(path: str) -> None:
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    if not any(r[-1] == path and r[3] == "00010000" for r in rows):
        raise OSError("not yet")


def _listening(port: int) -> None:
    table = Path("/proc/net/tcp").read_text()
    if f":{port:04X} 00000000:0000 0A" not in table:
        raise OSError("not yet")
