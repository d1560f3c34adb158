"""A manager in this process, or in one that goes on in the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from svetovid.cli.output import note
from svetovid.crypto import Document, Identity, Secret, load_json
from svetovid.crypto.private import write_private
from svetovid.errors import HostError, InputError, SvetovidError, TransportError, from_dict
from svetovid.protocol.client import ManagerClient
from svetovid.stakeholder import read_pin
from svetovid.stakeholder.home import make_private

__all__ = ["Started", "serve_here", "start_in_background", "stop_background"]

_START_S = 60.0
_STOP_S = 20.0
_TAIL = 64 << 10


class _Running(Document):
    """Who runs: a process id alone could by now be somebody else's."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Started:
    """A manager that answers."""

    pid: int
    url: str


def serve_here(
    home: Path, secret: Secret | None, host: str, port: int, tpm: str | None, *, evidence: bool
) -> None:
    """Serve until interrupted. The root key is sealed by ``tpm`` where there is one, else under
    the passphrase ``secret``; with ``evidence`` that TPM also proves what runs here (T1)."""
    from svetovid.manager import PassphraseSealer, serve

    make_private(home)
    port = port or _last_port(home)
    if tpm is None:
        assert secret is not None
        serve(home, PassphraseSealer(secret), host=host, port=port)
        return
    from svetovid.cli.tpm_prover import open_prover
    from svetovid.cli.tpm_sealer import TpmSealer
    from svetovid.host.tpm import Tpm, open_transport

    with Tpm(open_transport(tpm)) as device:
        device.startup()
        prover = open_prover(device, tpm, home) if evidence else None
        if prover is None:
            note("manager: trusted, unproven: it gives no evidence of its own")
        serve(home, TpmSealer(device), host=host, port=port, prover=prover)


def start_in_background(
    home: Path, secret: Secret | None, host: str, port: int, tpm: str | None, *, evidence: bool
) -> Started:
    """Start a manager that outlives this process; returns when it answers.

    The passphrase goes through a pipe: neither argv nor the environment nor a file holds it.

    Raises:
        InputError: ``manager.running``.
        HostError: ``manager.start`` where it ends or does not answer in time.
        SvetovidError: what the manager itself ended with.
    """
    make_private(home)
    if (running := _running(home)) is not None:
        raise InputError(
            "manager.running",
            expected="no manager running here",
            observed=f"process {running.pid}",
            next_step="svetovid manager stop --home HOME",
        )
    reader, writer = os.pipe()
    log = home / "manager.log"
    code = "from svetovid.cli import main; main()"
    command = [sys.executable, "-c", code, "manager", "serve", "--json"]
    command += ["--home", str(home.absolute())]
    if tpm is not None:
        command += ["--tpm", tpm, "--evidence" if evidence else "--no-evidence"]
    environment = {k: v for k, v in os.environ.items() if k != "SVETOVID_PASSPHRASE_FILE"}
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, "--host", host, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment | {"SVETOVID_PASSPHRASE_FD": str(reader)},
            pass_fds=[reader],
            start_new_session=True,
        )
    os.close(reader)
    with suppress(BrokenPipeError):  # it has ended already; why is told below
        os.write(writer, b"" if secret is None else secret.reveal())
    os.close(writer)
    with suppress(OSError):
        running = _Running(pid=process.pid, started=_start_time(process.pid))
        write_private(home / "manager.pid", running.canonical())
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        if (url := _answers(home)) is not None:
            return Started(process.pid, url)
        time.sleep(0.1)
    process.kill()
    process.wait()
    (home / "manager.pid").unlink(missing_ok=True)
    raise _why(log, before)


def _why(log: Path, before: int) -> SvetovidError:
    """The error that the process wrote last, under its own code; else what little is known."""
    last = log.read_bytes()[before:][-_TAIL:].rstrip().rpartition(b"\n")[2]
    try:
        value = load_json(last)
    except SvetovidError:
        value = None
    if isinstance(value, dict) and "reasons" in value:
        return from_dict(value)
    return HostError(
        "manager.start",
        expected="a manager that answers",
        observed=last.decode("utf-8", "replace") or "nothing",
        next_step=f"read {log}",
    )


def stop_background(home: Path) -> int:
    """End the manager that was started in the background; its process id back.

    Raises:
        InputError: ``manager.stopped`` where none runs.
        HostError: ``manager.stop`` where it does not end.
    """
    running = _running(home)
    if running is None:
        raise InputError(
            "manager.stopped",
            expected=f"a manager running in {home}",
            observed="none",
            next_step="svetovid manager serve --home HOME --background",
        )
    os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while _alive(running):
        if time.monotonic() > deadline:
            raise HostError(
                "manager.stop",
                expected="the manager to end",
                observed=f"process {running.pid} goes on",
                next_step="look at manager.log; end it by hand",
            )
        time.sleep(0.05)
    (home / "manager.pid").unlink(missing_ok=True)
    return running.pid


def _last_port(home: Path) -> int:
    """Where this manager was before, so that pins stay good; 0 where it has never been."""
    path = home / "manager.json"
    return urlsplit(read_pin(path).url).port or 0 if path.is_file() else 0


def _answers(home: Path) -> str | None:
    if not (home / "manager.json").is_file():
        return None
    try:
        pin = read_pin(home / "manager.json")
        with ManagerClient(pin, Identity.generate("probe"), timeout_s=2.0) as client:
            client.status()
    except TransportError:
        return None
    return pin.url


def _running(home: Path) -> _Running | None:
    try:
        running = _Running.parse((home / "manager.pid").read_bytes(), max_bytes=1024)
    except (OSError, SvetovidError):
        return None
    return running if _alive(running) else None


def _alive(running: _Running) -> bool:
    try:
        return _start_time(running.pid) == running.started
    except OSError:
        return False


def _start_time(pid: int) -> int:
    """Clock ticks after boot at which a process started (proc(5), field 22); no zombies."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[19])
