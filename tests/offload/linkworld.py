"""Both transports, to a worker in a thread or a process, or to a peer that a test speaks for.

A peer is a worker only by its socket: it reads frames, and says whatever a test wants.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from svetovid.errors import SvetovidError
from svetovid.offload import wire
from svetovid.offload.links import FramedLink, connected, linked, make_certificate, started
from svetovid.offload.links.certificate import context
from svetovid.offload.links.channel import Channel
from svetovid.offload.worker.engine import Engine
from svetovid.offload.worker.listener import Listener
from svetovid.offload.worker.session import serve


class Peer:
    """The worker's end of a link, without a worker.

    Attributes:
        received: descriptors that came along.
    """

    def __init__(self, sock: socket.socket, *, shared: bool) -> None:
        self.sock, self.shared = sock, shared
        self.received: list[int] = []
        sock.settimeout(10)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if self.shared:
                some, fds, _, _ = socket.recv_fds(self.sock, size - len(data), 4)
                self.received += fds
            else:
                some = self.sock.recv(size - len(data))
            assert some, "the link closed"
            data += some
        return data

    def read(self) -> dict[str, Any]:
        """The next message, its payload under ``payload``."""
        (length,) = wire.PREFIX.unpack(self._exactly(4))
        message: dict[str, Any] = json.loads(self._exactly(length))
        if message["type"] == "operand" and not self.shared:
            message["payload"] = self._exactly(4 * message["count"])
        return message

    def until(self, kind: str) -> dict[str, Any]:
        """The next message of a kind; others are passed over."""
        while (message := self.read())["type"] != kind:
            pass
        return message

    def say(self, reply: wire.Reply, payload: bytes = b"") -> None:
        self.raw(wire.encode(reply) + payload)

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close(self) -> None:
        while self.received:
            os.close(self.received.pop())
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class Transport:
    """One of the two ways, and what a test opens over it, closed with it."""

    name = ""
    shared = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = contextlib.ExitStack()
        self.ended: list[SvetovidError] = []
        """Why connections to workers in threads ended."""

    def served(self, limits: wire.Limits | None = None, **more: Any) -> FramedLink:
        """A link to an honest worker in a thread."""
        raise NotImplementedError

    def process(self, **more: Any) -> tuple[FramedLink, int]:
        """A link to a worker in a process of its own, and its id."""
        raise NotImplementedError

    def peered(self, **more: Any) -> tuple[FramedLink, Peer]:
        """A link to nobody."""
        raise NotImplementedError

    def close(self) -> None:
        self._open.close()

    def _thread(self, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._open.callback(thread.join, 10)
        return thread

    def _serve(self, channel: Channel, limits: wire.Limits | None, **more: Any) -> None:
        self.ended.append(serve(channel, Engine(), limits or wire.Limits(), **more))

    def _given(self, link: FramedLink) -> FramedLink:
        self._open.callback(link.close)
        return link


def children() -> set[int]:
    """Processes that this one started."""
    files = Path("/proc/self/task").glob("*/children")
    return {int(pid) for file in files for pid in file.read_text().split()}


NAMED = {"operator": "ann", "timeout_s": 20.0}


class Local(Transport):
    name = "local"
    shared = True

    def served(
        self, limits: wire.Limits | None = None, seen: Any = None, **more: Any
    ) -> FramedLink:
        ours, theirs = socket.socketpair()
        channel = Channel(theirs, descriptors=True)
        self._thread(lambda: self._serve(channel, limits, observer=seen))
        return self._given(linked(ours, identity="worker-1", **NAMED | more))

    def process(self, **more: Any) -> tuple[FramedLink, int]:
        before = children()
        link = self._given(started(identity="worker-1", **NAMED | more))
        (pid,) = children() - before
        return link, pid

    def peered(self, **more: Any) -> tuple[FramedLink, Peer]:
        ours, theirs = socket.socketpair()
        link = self._given(linked(ours, identity="worker-1", **NAMED | more))
        peer = Peer(theirs, shared=True)
        self._open.callback(peer.close)
        return link, peer


class Tls(Transport):
    name = "tls"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.trusted, self.worker = folder / "trusted.pem", folder / "worker.pem"
        self.trusted_pin = make_certificate(self.trusted)
        self.worker_pin = make_certificate(self.worker)

    def connected(self, port: int, **more: Any) -> FramedLink:
        given = {"own": self.trusted, "identity": self.worker_pin}
        return self._given(connected("127.0.0.1", port, **given | NAMED | more))

    def listener(self, **more: Any) -> Listener:
        given = {
            "own": self.worker,
            "peer": self.trusted.with_suffix(".crt"),
            "identity": self.trusted_pin,
        }
        listener = Listener("127.0.0.1", 0, **given | more)
        self._open.callback(listener.close)
        return listener

    def served(
        self, limits: wire.Limits | None = None, seen: Any = None, **more: Any
    ) -> FramedLink:
        listener = self.listener()
        self._thread(lambda: self._serve(listener.accept(), limits, observer=seen))
        return self.connected(listener.port, **more)

    def process(self, **more: Any) -> tuple[FramedLink, int]:
        command = [sys.executable, "-m", "svetovid.cli", "worker", "serve", str(self.worker)]
        trusted = [f"--host={self.trusted.with_suffix('.crt')}", "--listen=127.0.0.1:0", "--json"]
        process = subprocess.Popen([*command, *trusted], stdout=subprocess.PIPE, text=True)
        self._open.enter_context(process)
        self._open.callback(process.kill)
        assert process.stdout is not None
        said = process.stdout.readline()
        return self.connected(json.loads(said)["port"], **more), process.pid

    def peered(self, **more: Any) -> tuple[FramedLink, Peer]:
        peers: list[Peer] = []
        secure = context(self.worker, _der(self.trusted))
        server = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            with server:
                plain, _ = server.accept()
            peer = Peer(secure.wrap_socket(plain, server_side=True), shared=False)
            peers.append(peer)
            peer.say(wire.Answered(peer.read()["seq"], 0))

        thread = self._thread(accept)
        link = self.connected(server.getsockname()[1], **more)
        thread.join(10)
        self._open.callback(peers[0].close)
        return link, peers[0]


def _der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.with_suffix(".crt").read_text())


@contextlib.contextmanager
def transport(name: str, folder: Path) -> Iterator[Transport]:
    made = {"local": Local, "tls": Tls}[name](folder)
    try:
        yield made
    finally:
        made.close()
