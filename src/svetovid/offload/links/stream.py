"""TLS on a socket, a bounded piece at a time.

OpenSSL reads on, of its own accord, for as long as messages of TLS itself come (new keys, tickets):
on a socket, a peer that sends nothing else would never let it return, and no deadline would be
looked at. Here it is given what one read of the socket brings, and no more.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

__all__ = ["AT_ONCE", "TlsStream"]

AT_ONCE = 1 << 18
"""Bytes that one call reads from the socket at the most."""
_CHUNK = 1 << 18
_MOST_UNSENT = 1 << 20
"""Bytes of TLS's own messages that may wait to be sent: a peer that asks for them reads them."""


class TlsStream:
    """One end of a TLS connection; raises as :class:`ssl.SSLSocket` does where it would wait.

    Args:
        sock: connected, not blocking; this object closes it.
        context: for this end.
        server_side: whether the other end called.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self._unsent = memoryview(b"")
        self._promised = 0

    def fileno(self) -> int:
        """Of the socket, to wait for."""
        return self._sock.fileno()

    def do_handshake(self) -> None:
        """Go on with the handshake.

        Raises:
            ssl.SSLWantReadError, ssl.SSLWantWriteError: it is not done yet.
            OSError: it failed.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush_some()
            self._fill()
            self._tls.do_handshake()
        finally:
            self._flush_some()  # also why it failed, for the other end

    def getpeercert(self) -> bytes | None:
        """The other end's certificate, DER."""
        return self._tls.getpeercert(binary_form=True)

    def recv_into(self, into: memoryview) -> int:
        """Read what is there, at most what fits; 0 at the end of the connection.

        Raises:
            ssl.SSLWantReadError: nothing is there yet.
            OSError: the connection broke.
        """
        try:
            return self._read(into)
        except ssl.SSLWantReadError:
            self._flush_some()
            if self._out.pending + len(self._unsent) > _MOST_UNSENT:
                raise ConnectionError("it asks for messages that it does not read") from None
            self._fill()
        return self._read(into)

    def send(self, data: memoryview) -> int:
        """Write some of it: how many bytes. Where that would wait, call again with the same.

        Raises:
            BlockingIOError: nothing can be written now.
            OSError: the connection broke.
        """
        if not self._promised:
            self._promised = self._tls.write(data[:_CHUNK])
        self._flush()
        sent, self._promised = self._promised, 0
        return sent

    def shutdown(self, how: int) -> None:
        """Of the socket: what TLS knows of it is left to its own thread."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _read(self, into: memoryview) -> int:
        try:
            return self._tls.read(len(into), into)  # type: ignore[return-value]
        except ssl.SSLEOFError:
            return 0

    def _fill(self) -> None:
        try:
            data = self._sock.recv(AT_ONCE)
        except BlockingIOError as e:
            raise ssl.SSLWantReadError from e
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def _flush(self) -> None:
        while self._unsent or self._out.pending:
            if not self._unsent:
                self._unsent = memoryview(self._out.read())
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    def _flush_some(self) -> None:
        with contextlib.suppress(OSError):  # a connection that broke says so when it is read
            self._flush()
