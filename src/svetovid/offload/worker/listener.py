"""Where a worker waits for its trusted side on the network."""

from __future__ import annotations

import select
import socket
import time
from pathlib import Path

from svetovid.errors import InputError, SvetovidError, TransportError
from svetovid.offload.links.certificate import context, read_certificate
from svetovid.offload.links.channel import Channel
from svetovid.offload.links.stream import TlsStream
from svetovid.offload.links.tls import handshaken, tuned

__all__ = ["Listener"]

_MOST = 16
"""Handshakes under way. Strangers can hold these up, each for a bounded time, and nothing else."""
_LOOK_MS = 200
"""How often handshakes under way are held to their time."""


class Listener:
    """Takes connections of one certificate, one after another.

    Args:
        host, port: to listen at; 0 for any port.
        own: file of our key and certificate.
        peer: file of the trusted side's certificate.
        identity: its pin, ``sha256:`` and its hex SHA-256.
        handshake_s: that a handshake may take.

    Raises:
        InputError: ``worker.certificate_file``, ``worker.address``.
        IntegrityError: ``worker.certificate``.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        own: Path,
        peer: Path,
        identity: str,
        handshake_s: float = 10.0,
    ) -> None:
        self._context = context(own, read_certificate(peer, identity))
        self._identity = identity
        self._handshake_s = handshake_s
        self._begun: dict[TlsStream, float] = {}
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._sock = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as e:
            raise InputError(
                "worker.address",
                expected="an address of this machine, and a port that is free",
                observed=f"{host} port {port}: {e}",
                next_step="name another with --listen",
            ) from e
        self._sock.setblocking(False)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sock.getsockname()[1])

    def accept(self) -> Channel:
        """Wait for the trusted side, and for nobody else."""
        while True:
            poll = select.poll()
            for sock in self._begun:
                poll.register(sock, select.POLLIN)
            if len(self._begun) < _MOST:
                poll.register(self._sock, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(_LOOK_MS if self._begun else None)}
            if self._sock.fileno() in ready:
                self._begin()
            for sock in list(self._begun):
                if (channel := self._go_on(sock)) is not None:
                    return channel

    def _begin(self) -> None:
        try:
            plain, _ = self._sock.accept()
        except OSError:  # whoever it was has left
            return
        sock = TlsStream(plain, self._context, server_side=True)
        try:
            tuned(plain)
        except TransportError:
            sock.close()
        else:
            self._begun[sock] = time.monotonic() + self._handshake_s

    def _go_on(self, sock: TlsStream) -> Channel | None:
        try:
            if handshaken(sock, self._identity):
                del self._begun[sock]
                return Channel(sock)
            late = time.monotonic() > self._begun[sock]
        except SvetovidError:
            late = True
        if late:
            del self._begun[sock]
            sock.close()
        return None

    def close(self) -> None:
        """Take no more connections."""
        for sock in self._begun:
            sock.close()
        self._begun.clear()
        self._sock.close()
