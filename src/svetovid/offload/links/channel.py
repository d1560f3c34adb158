"""A connected socket, plain or TLS, on which nothing waits for longer than it was told."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import ssl
import time

from svetovid.errors import TransportError
from svetovid.offload.links.stream import TlsStream

__all__ = ["BYTES_PER_S", "Channel", "gone", "silent"]

BYTES_PER_S = 1 << 20
"""What moves slower than this is taken for a stall."""
_MOST_DESCRIPTORS = 4
_AT_ONCE = 1 << 20
"""Bytes of one call: TLS is not asked for more than it can do before a deadline is looked at."""


def silent() -> TransportError:
    """The other side took too long."""
    return TransportError(
        "worker.silent",
        expected="the other side to read and to answer in time",
        observed="nothing, or too little",
        next_step="see whether it runs and the network is up; or allow more time",
    )


def gone(why: object) -> TransportError:
    """The other side closed, or the connection broke."""
    return TransportError(
        "worker.gone",
        expected="the other side to stay connected",
        observed=why,
        next_step="see what it printed; start it again, or use another",
    )


class Channel:
    """One end.

    Args:
        sock: connected; this object closes it.
        descriptors: whether descriptors that are sent along are taken. Otherwise none is.
    """

    def __init__(self, sock: socket.socket | TlsStream, *, descriptors: bool = False) -> None:
        if isinstance(sock, socket.socket):
            sock.setblocking(False)
        self._sock = sock
        self._takes = descriptors
        self._received: list[int] = []
        self._to_read, self._to_write = select.POLLIN, select.POLLOUT

    def receive(self, into: memoryview) -> int:
        """Read what is there, at most what fits: how many bytes; 0 where nothing is there yet.

        Raises:
            TransportError: ``worker.gone``.
        """
        try:
            got = self._receive(into)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._to_read = select.POLLIN
            return 0
        except ssl.SSLWantWriteError:
            self._to_read = select.POLLOUT
            return 0
        except OSError as e:
            raise gone(e) from e
        if not got:
            raise gone("the end of the connection")
        return got

    def _receive(self, into: memoryview) -> int:
        if not self._takes or isinstance(self._sock, TlsStream):
            # Without room for descriptors: those that are sent along are dropped.
            return self._sock.recv_into(into[:_AT_ONCE])
        data, fds, _, _ = socket.recv_fds(
            self._sock, min(len(into), _AT_ONCE), _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        into[: len(data)] = data
        self._received += fds
        return len(data)

    def descriptor(self) -> int | None:
        """One that was sent along; the caller closes it."""
        return self._received.pop(0) if self._received else None

    def send(self, data: memoryview, descriptor: int | None = None) -> int:
        """Write what can be written now: how many bytes.

        Args:
            descriptor: sent along with the first byte. The caller closes it.

        Raises:
            TransportError: ``worker.gone``.
        """
        try:
            if descriptor is None or isinstance(self._sock, TlsStream):
                return self._sock.send(data[:_AT_ONCE])
            return socket.send_fds(self._sock, [data], [descriptor])
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._to_write = select.POLLOUT
            return 0
        except ssl.SSLWantReadError:
            self._to_write = select.POLLIN
            return 0
        except OSError as e:
            raise gone(e) from e

    def ready(self, until: float, *, sending: bool = False) -> None:
        """Wait until more can be read (or written), after what was tried last.

        Raises:
            TransportError: ``worker.silent`` at the time ``until`` of ``time.monotonic``.
        """
        left = max(until - time.monotonic(), 0.0)
        poll = select.poll()
        poll.register(self._sock, self._to_read | (self._to_write if sending else 0))
        if not poll.poll(None if left == math.inf else math.ceil(left * 1000)):
            raise silent()

    def in_time(self, until: float) -> None:
        """Hold a whole message to its time, also where each piece of it comes at once.

        Raises:
            TransportError: ``worker.silent``.
        """
        if time.monotonic() > until:
            raise silent()

    def read(self, into: memoryview, until: float) -> None:
        """Fill ``into``.

        Raises:
            TransportError: ``worker.silent``, ``worker.gone``.
        """
        while into:
            got = self.receive(into)
            into = into[got:]
            if not got:
                self.ready(until)
            self.in_time(until)

    def write(self, data: memoryview, until: float) -> None:
        """Send all of it.

        Raises:
            TransportError: ``worker.silent``, ``worker.gone``.
        """
        while data:
            sent = self.send(data)
            data = data[sent:]
            if not sent:
                self.ready(until, sending=True)
            self.in_time(until)

    def abort(self) -> None:
        """From any thread: whoever waits here is told that the other side is gone, and nothing is
        sent any more. What TLS knows of the connection is left to its own thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, and what was sent along and not taken."""
        for fd in self._received:
            os.close(fd)
        self._received = []
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
