"""The manager as a process: TLS, slow peers, and ``kill -9`` at any point."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from softtpm import SoftCa
from svetovid.crypto import Identity, Secret, b64encode
from svetovid.errors import HostError, SvetovidError
from svetovid.manager import PassphraseSealer, open_home, server
from svetovid.manager.tls import make_certificate, server_context
from svetovid.protocol import ManagerClient, ManagerPin, SeenFile

HERE = Path(__file__).parent


@contextmanager
def served(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "served.py"), str(home), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("https://")
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def pin_of(home: Path) -> ManagerPin:
    return ManagerPin.parse((home / "manager.json").read_bytes())


def register(client: ManagerClient, identity: Identity) -> None:
    client.register_identity(identity.signed_card())


def load(home: Path, seen: Path, stop: threading.Event, known: list[str]) -> None:
    """Register identities as fast as answers come; note those that were answered."""
    while not stop.is_set():
        identity = Identity.generate("load")
        try:
            with ManagerClient(pin_of(home), identity, timeout_s=2) as client:
                register(client, identity)
            known.append(identity.key_id)
        except SvetovidError:
            time.sleep(0.02)


def check_nothing_lost(home: Path, known: list[str], seen: Path) -> None:
    """Everything that was answered is in the log that the next process reads."""
    auditor = Identity.generate("auditor")
    with served(home), ManagerClient(pin_of(home), auditor, seen=SeenFile(seen)) as client:
        register(client, auditor)
        page = client.records(0, 1000)
        assert page.size >= len(known)
    from svetovid.manager.server import open_manager

    opened = open_home(home, PassphraseSealer(Secret(b"test")), host="127.0.0.1", port=1)
    manager = open_manager(opened)
    assert set(known) <= set(manager._store.state.pinned)
    manager.close()


@pytest.mark.parametrize("delay", [0.15, 0.4])
def test_killed_under_load_at_any_time(tmp_path: Path, delay: float) -> None:
    home, seen = tmp_path / "m", tmp_path / "seen"
    known: list[str] = []
    stop = threading.Event()
    with served(home) as process:
        threads = [threading.Thread(target=load, args=(home, seen, stop, known)) for _ in range(3)]
        for t in threads:
            t.start()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        stop.set()
        for t in threads:
            t.join()
    check_nothing_lost(home, known, seen)


@pytest.mark.parametrize("point", ["before commit", "after commit", "after anchor"])
def test_killed_at_a_named_point(tmp_path: Path, point: str) -> None:
    home, seen = tmp_path / "m", tmp_path / "seen"
    known: list[str] = []
    with served(home, point, "3") as process:
        for _ in range(3):
            identity = Identity.generate("x")
            try:
                with ManagerClient(pin_of(home), identity, seen=SeenFile(seen)) as client:
                    register(client, identity)
                known.append(identity.key_id)
            except SvetovidError as e:
                assert e.code == "transport.unreachable"  # noqa: PT017
        assert process.wait(10) == -signal.SIGKILL
    assert len(known) == 2
    check_nothing_lost(home, known, seen)


def test_an_older_store_under_the_real_server(tmp_path: Path) -> None:
    """T15."""
    home, seen = tmp_path / "m", tmp_path / "seen"
    identity = Identity.generate("a")
    with served(home), ManagerClient(pin_of(home), identity, seen=SeenFile(seen)) as client:
        client.status()
    for suffix in ("", "-wal", "-shm"):
        source = home / f"store.db{suffix}"
        if source.exists():
            shutil.copy(source, tmp_path / f"old{suffix}")
    with served(home), ManagerClient(pin_of(home), identity, seen=SeenFile(seen)) as client:
        register(client, identity)
    for suffix in ("", "-wal", "-shm"):
        (home / f"store.db{suffix}").unlink(missing_ok=True)
        if (tmp_path / f"old{suffix}").exists():
            shutil.copy(tmp_path / f"old{suffix}", home / f"store.db{suffix}")
    with (
        served(home),
        ManagerClient(pin_of(home), identity, seen=SeenFile(seen)) as client,
        pytest.raises(SvetovidError, match=re.escape("store.rollback")),
    ):
        client.status()


def test_only_the_pinned_certificate_and_tls_1_3(tmp_path: Path) -> None:
    """C10: another certificate, an older version, no TLS at all."""
    home = tmp_path / "m"
    with served(home):
        pin = pin_of(home)
        who = Identity.generate("a")
        other = pin.model_copy(update={"tls_certificate": b64encode(SoftCa().der)})
        with (
            ManagerClient(other, who) as client,
            pytest.raises(SvetovidError, match=re.escape("transport.unreachable")),
        ):
            client.status()
        impostor = pin.model_copy(update={"card": Identity.generate("m").signed_card()})
        with (
            ManagerClient(impostor, who) as client,
            pytest.raises(SvetovidError, match=re.escape("signature.missing")),
        ):
            client.status()
        port = int(pin.url.rsplit(":", 1)[1])
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", port)) as s, pytest.raises(ssl.SSLError):
            old.wrap_socket(s)
        with ManagerClient(pin, who) as client:
            assert client.status().evidence == "none"


def test_told_to_stop(tmp_path: Path) -> None:
    home = tmp_path / "m"
    with served(home) as process:
        with ManagerClient(pin_of(home), Identity.generate("a")) as client:
            client.status()
        process.terminate()
        assert process.wait(10) == 0


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SvetovidError, match=re.escape("server.port")):
            server.serve(tmp_path / "m", PassphraseSealer(Secret(b"p")), port=port)


def test_a_home_keeps_its_keys(tmp_path: Path) -> None:
    """And is worth nothing without the passphrase."""
    folder = tmp_path / "m"
    sealer = PassphraseSealer(Secret(b"p"))
    first = open_home(folder, sealer, host="127.0.0.1", port=1)
    again = open_home(folder, sealer, host="::1", port=2)
    assert first.pin.channel == again.pin.channel
    assert first.identity.key_id == again.identity.key_id
    assert again.pin.url == "https://[::1]:2"
    for name in ("root.key", "identity.json", "tls.pem", "manager.json"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    with pytest.raises(SvetovidError, match=re.escape("key.passphrase")):
        open_home(folder, PassphraseSealer(Secret(b"q")), host="127.0.0.1", port=1)


def test_the_environment_turns_nothing_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """V15: no variable weakens a manager; simulators are for each owner's policy to name."""
    for name in ("SVETOVID_DEV", "SVETOVID_SIMULATED", "SVETOVID_INSECURE", "DEBUG"):
        monkeypatch.setenv(name, "1")
    home = open_home(tmp_path / "m", PassphraseSealer(Secret(b"p")), host="::1", port=1)
    assert home.context.minimum_version == ssl.TLSVersion.TLSv1_3
    sources = (HERE.parents[1] / "src/svetovid/manager").glob("*.py")
    assert not [p for p in sources if "os.environ" in p.read_text() or "getenv" in p.read_text()]


def test_nothing_is_fetched_for_anybody() -> None:
    """D3: the deciding wing has no client at all."""
    sources = (HERE.parents[1] / "src/svetovid/manager").glob("*.py")
    for source in sources:
        text = source.read_text()
        assert not any(w in text for w in ("import httpx", "urllib", "import requests"))


def test_a_host_name_in_the_certificate(tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    key = Secret.random(32)
    make_certificate(path, "manager.example", key, 1_800_000_000)
    context, der = server_context(path, key)
    assert context.num_tickets == 0
    assert b"manager.example" in der
    with pytest.raises(ssl.SSLError):
        server_context(path, Secret.random(32))


class _Loop:
    def __init__(self) -> None:
        self.later: list[Any] = []

    def call_later(self, _seconds: float, call: Any) -> Any:
        self.later.append(call)
        return self

    def cancel(self) -> None:
        self.later.clear()


def test_a_connection_without_a_request_is_closed() -> None:
    """D1: slow headers; one with a request in progress is left alone."""
    import uvicorn
    from uvicorn.server import ServerState

    class Transport:
        closed = False

        def get_extra_info(self, _name: str) -> None:
            return None

        def close(self) -> None:
            self.closed = True

    async def app(*_: Any) -> None:
        return

    loop = _Loop()
    config = uvicorn.Config(app, log_config=None)
    protocol = server._Impatient(config, ServerState(), {}, loop)  # type: ignore[arg-type]
    transport = Transport()
    protocol.connection_made(transport)
    busy = type("Cycle", (), {"response_complete": False, "message_event": _Event()})()
    protocol.cycle = busy
    loop.later.pop()()
    assert not transport.closed
    busy.response_complete = True
    loop.later.pop()()
    assert transport.closed
    protocol.connection_lost(None)


class _Event:
    def set(self) -> None:
        return


def test_the_watch_over_hosts_goes_on_after_a_defect(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever happens in one second: else nobody would be overdue any more, and nobody know."""
    real = asyncio.sleep
    monkeypatch.setattr(server.asyncio, "sleep", lambda _: real(0))
    done = threading.Event()
    faults: list[Exception] = [ValueError("secret"), HostError("store.unavailable")]

    def tick() -> None:
        if faults:
            raise faults.pop(0)
        done.set()

    async def go() -> None:
        ticking = asyncio.create_task(server._tick(tick))
        await asyncio.to_thread(done.wait, 10)
        ticking.cancel()

    asyncio.run(go())
    assert done.is_set()
    assert "ValueError" in caplog.text
    assert "store.unavailable" in caplog.text
    assert "secret" not in caplog.text
