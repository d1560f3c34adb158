"""Links to workers on other machines: TLS 1.3 over TCP, on which each side pins the other."""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from pathlib import Path

from svetovid.crypto import digest
from svetovid.errors import TransportError
from svetovid.offload.links.certificate import context, mismatch
from svetovid.offload.links.channel import Channel, gone, silent
from svetovid.offload.links.framed import FramedLink, Observer
from svetovid.offload.links.store import OwnStore
from svetovid.offload.links.stream import TlsStream

__all__ = ["connected", "handshaken", "tuned"]

_PROBE_S = 20
"""Of silence, after which a machine is asked whether it is there."""
_DEAD_AFTER_MS = 60_000
"""Sent and not acknowledged for so long: the other machine is not there any more."""


def connected(
    host: str,
    port: int,
    *,
    own: Path,
    identity: str,
    operator: str,
    timeout_s: float = 300.0,
    rest: int = 8 << 30,
    observer: Observer | None = None,
) -> FramedLink:
    """Connect to a worker that listens.

    Args:
        host, port: where.
        own: file of our key and certificate.
        identity: pin of the worker: ``sha256:`` and the hex SHA-256 of its certificate.
        operator: who runs it.
        timeout_s: for the connection, and for one message, the worker's computing included.
        rest: bytes of memory that are kept from one step to the next.
        observer: is shown every frame.

    Raises:
        InputError: ``worker.certificate_file``.
        IntegrityError: ``worker.certificate``: another certificate than the one that is pinned.
        TransportError: ``worker.unreachable``; ``worker.silent``, ``worker.gone``: as well where
            it does not want our certificate.
    """
    secure = context(own)
    until = time.monotonic() + timeout_s
    try:
        plain = socket.create_connection((host, port), timeout_s)
    except OSError as e:
        raise TransportError(
            "worker.unreachable",
            expected=f"a worker at {host} port {port}",
            observed=e,
            next_step="check the address, and that the worker runs",
        ) from e
    sock = TlsStream(plain, secure, server_side=False)
    try:
        tuned(plain)
        while not handshaken(sock, identity):
            _wait(sock, until)
    except BaseException:
        sock.close()
        raise
    link = FramedLink(
        Channel(sock),
        OwnStore(rest),
        identity=identity,
        operator=operator,
        timeout_s=timeout_s,
        observer=observer,
    )
    link.ping(max(until - time.monotonic(), 0.0))
    return link


def tuned(sock: socket.socket) -> None:
    """Nothing waits in the kernel; a machine that is gone is noticed, also while nothing is sent.

    Raises:
        TransportError: ``worker.gone``: it closed at once.
    """
    try:
        _tune(sock)
    except OSError as e:
        raise gone(e) from e


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)


def handshaken(sock: TlsStream, identity: str) -> bool:
    """Go on with a handshake: whether it is done, and with the pinned certificate.

    Raises:
        IntegrityError: ``worker.certificate``.
        TransportError: ``worker.gone``.
    """
    try:
        sock.do_handshake()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    except ssl.SSLCertVerificationError as e:
        raise mismatch(identity, e.verify_message) from e
    except OSError as e:
        raise gone(e) from e
    shown = sock.getpeercert()
    if shown is None or digest(shown) != identity:
        raise mismatch(identity, "another one")
    return True


def _wait(sock: TlsStream, until: float) -> None:
    left = until - time.monotonic()
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if left <= 0 or not poll.poll(math.ceil(left * 1000)):
        raise silent()
