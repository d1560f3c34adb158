"""One command starts a manager: its home folder, its keys, its TLS server.

The home holds ``root.key`` (sealed), ``identity.json`` and ``tls.pem`` (under the root key),
``store.db``, ``door.json`` where the administrator admitted somebody, and ``manager.json``: the pin
that stakeholders take away out of band (T1).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from svetovid.crypto import Identity, Secret, b64encode, digest, keystore
from svetovid.crypto.private import write_private
from svetovid.errors import HostError, SvetovidError
from svetovid.manager.app import make_app
from svetovid.manager.core import Settings
from svetovid.manager.door import door_of
from svetovid.manager.proving import Prover
from svetovid.manager.rootkey import RootKey, RootSealer, open_root_key
from svetovid.manager.service import Manager
from svetovid.manager.store import Fault
from svetovid.manager.tls import make_certificate, server_context
from svetovid.protocol.messages import ManagerPin

__all__ = ["Home", "open_home", "open_manager", "serve"]

_log = logging.getLogger("svetovid.manager")
MAX_CONNECTIONS = 4096
"""Hosts that attest at an interval keep theirs open."""
IDLE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Home:
    """A manager's home, open: everything :func:`serve` needs, and the pin."""

    folder: Path
    identity: Identity
    root: RootKey
    sealer: RootSealer
    context: Any
    pin: ManagerPin
    prover: Prover | None = None
    begun: bool = False


def _now() -> int:
    return int(time.time())


def open_home(
    folder: Path,
    sealer: RootSealer,
    *,
    host: str,
    port: int,
    name: str = "manager",
    prover: Prover | None = None,
) -> Home:
    """Open a manager's home; make what is missing; write ``manager.json``, which names the device
    of ``prover`` where there is one.

    Args:
        folder: 0700 where it is made.
        sealer: of the root key.
        host: name or address that its TLS certificate and URL are for.
        port: of the URL.
        name: for its card.
        prover: gives evidence of this very machine (T1); None where nothing can.

    Raises:
        InputError: ``key.file``.
        IntegrityError: ``key.passphrase``, ``store.tamper``.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = open_root_key(folder / "root.key", sealer)
    begun = (folder / "identity.json").exists()
    identity = _identity(folder / "identity.json", root, name)
    certificate_path = folder / "tls.pem"
    tls_key = root.derive("tls")
    if not certificate_path.exists():
        make_certificate(certificate_path, host, tls_key, _now())
    context, certificate = server_context(certificate_path, tls_key)
    shown = f"[{host}]" if ":" in host else host
    pin = ManagerPin(
        card=identity.signed_card(),
        tls_certificate=b64encode(certificate),
        url=f"https://{shown}:{port}",
        device=None if prover is None else digest(prover.ek),
    )
    write_private(folder / "manager.json", pin.canonical())
    return Home(folder, identity, root, sealer, context, pin, prover, begun)


def _identity(path: Path, root: RootKey, name: str) -> Identity:
    passphrase = Secret(root.derive("identity").reveal().hex().encode("ascii"))
    if not path.exists():
        keystore.save(Identity.generate(name), path, passphrase)
    return keystore.load(path, passphrase)


def open_manager(
    home: Home,
    *,
    clock: Callable[[], int] = _now,
    settings: Settings | None = None,
    fault: Fault | None = None,
) -> Manager:
    """The manager of an open home.

    Args:
        home: of the manager.
        clock: Unix seconds.
        settings: limits and times; its own by default.
        fault: called where a write may fail, in tests.
    """
    more: dict[str, Any] = {} if fault is None else {"fault": fault}
    return Manager(
        home.folder / "store.db",
        home.identity,
        home.root,
        home.sealer,
        channel=home.pin.channel,
        clock=clock,
        settings=settings,
        door=door_of(home.folder),
        prover=home.prover,
        begun=home.begun,
        **more,
    )


class _Impatient(H11Protocol):
    """Closes a connection that has had no whole request for too long (slow headers, D1)."""

    _done: Any = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._done = self.cycle
        self._timer = self.loop.call_later(IDLE_SECONDS, self._check)

    def _check(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._done:
            self.transport.close()
        else:
            self._watch()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except OSError as e:
        raise HostError(
            "server.port",
            expected=f"an address to listen on: {host}:{port}",
            observed=e.strerror or "unusable",
            next_step="choose another port, or stop what uses it",
        ) from e
    # Accepted sockets inherit it; without it every answer waits 40 ms for a delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _allow_files(wanted: int) -> None:
    """As many open files as connections need, if the system lets this process have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _run(
    server: uvicorn.Server,
    listener: socket.socket,
    ready: Callable[[], None],
    tick: Callable[[], None],
) -> None:
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not (server.started or running.done()):
        await asyncio.sleep(0.01)
    if server.started:
        ready()
    ticking = asyncio.create_task(_tick(tick))
    await running
    ticking.cancel()


async def _tick(tick: Callable[[], None]) -> None:
    """Once a second, in a thread: it writes to the disk."""
    while True:
        await asyncio.sleep(1)
        try:
            await asyncio.to_thread(tick)
        except SvetovidError as e:  # a full disk, say: requests say so too
            _log.error("hosts' standings were not written: %s", e.code)
        except Exception as e:  # noqa: BLE001 (a defect of ours must not end the watch)
            _log.error("unexpected %s in the watch over hosts", type(e).__name__)


class _Server(uvicorn.Server):
    """Stops when told to and returns, so that the store is closed; uvicorn would raise again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def serve(
    folder: Path,
    sealer: RootSealer,
    *,
    host: str = "127.0.0.1",
    port: int = 8443,
    name: str = "manager",
    prover: Prover | None = None,
    settings: Settings | None = None,
    ready: Callable[[ManagerPin], None] = lambda _pin: None,
    fault: Fault | None = None,
) -> None:
    """Run a manager until it is told to stop (SIGINT, SIGTERM).

    Args:
        folder: its home; made at the first start.
        sealer: protects the root key.
        port: 0 takes a free one; the pin names it.
        prover: what this machine can prove of itself (T1).
        ready: called once, when requests are answered.
        fault: for tests.

    What bounds a slow or greedy peer: 4,096 connections, 15 s without a whole request, 16 KiB of
    headers, 20 s and 16 MiB of body, TLS 1.3 without resumption.

    Raises:
        SvetovidError: as :func:`open_home` and :class:`Manager` do.
        HostError: ``server.port`` where the address cannot be used.
    """
    config = uvicorn.Config(
        app="",
        host=host,
        port=port,
        http=_Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=16 << 10,
    )
    listener = _listen(host, port)
    _allow_files(MAX_CONNECTIONS + 256)
    port = listener.getsockname()[1]
    home = open_home(folder, sealer, host=host, port=port, name=name, prover=prover)
    manager = open_manager(home, settings=settings, fault=fault)
    config.app = make_app(manager)
    config.load()
    config.ssl = home.context
    server = _Server(config)
    # Logs of hosts are many small objects that stay: walking them at every request is what makes
    # the slowest releases slow.
    gc.set_threshold(50_000, 50, 50)
    # The thread that speaks to all peers must not wait 5 ms for each thread that works for one.
    sys.setswitchinterval(0.0005)
    try:
        asyncio.run(_run(server, listener, lambda: ready(home.pin), manager.watching.tick))
    finally:
        manager.close()
