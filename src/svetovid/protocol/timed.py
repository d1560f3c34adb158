"""An HTTP/1.1 transport whose exchanges end in time, however slowly the other side answers (T12).

httpx bounds the wait for each read: a manager that sends a byte every 29 seconds would hold a
request, and whoever waits for it, for ever. Here every wait of one exchange (connecting, the
handshake, writing, reading) shares one end. Only what the resolver takes to look a name up is the
resolver's to bound.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any, cast

import httpcore
import httpx

__all__ = ["TimedTransport"]


class TimedTransport(httpx.BaseTransport):
    """Answers in time or raises httpx.TimeoutException. For one exchange at a time.

    Args:
        context: for TLS.
        total_s: seconds from the start of an exchange to the last byte of its answer.
        keepalive_s: seconds after which an idle connection is not used again.
    """

    def __init__(self, context: ssl.SSLContext, *, total_s: float, keepalive_s: float) -> None:
        self._total_s = total_s
        self._end = _End()
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            keepalive_expiry=keepalive_s,
            network_backend=_Backend(self._end),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange; the time runs on while the answer's body is read."""
        self._end.at = time.monotonic() + self._total_s
        url = request.url
        asked = httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=cast(httpx.SyncByteStream, request.stream),
            extensions=request.extensions,
        )
        with _as_httpx():
            answer = self._pool.handle_request(asked)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions={}
        )

    def close(self) -> None:
        self._pool.close()


class _End:
    """When the exchange that is under way has to be over, by ``time.monotonic``."""

    at = 0.0

    def left(self, timeout: float | None) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the whole exchange took too long")
        return left if timeout is None else min(left, timeout)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, end: _End) -> None:
        self._end = end
        self._real = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as e:
            raise httpcore.ConnectError(str(e)) from e
        if not found:
            raise httpcore.ConnectError("the name has no address")
        *others, last = dict.fromkeys(str(a[4][0]) for a in found)
        # A name may have any number of addresses: they share the time.
        share = self._end.left(timeout) / (len(others) + 1)

        def connect(address: str) -> httpcore.NetworkStream:
            left = self._end.left(share)
            real = self._real.connect_tcp(address, port, left, local_address, socket_options)
            return _Stream(real, self._end)

        for address in others:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return connect(address)
        return connect(last)


class _Stream(httpcore.NetworkStream):
    def __init__(self, real: httpcore.NetworkStream, end: _End) -> None:
        self._real = real
        self._end = end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._real.read(max_bytes, self._end.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._real.write(buffer, self._end.left(timeout))  # TLS writes it whole, or times out

    def close(self) -> None:
        self._real.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._end.left(timeout)
        return _Stream(self._real.start_tls(ssl_context, server_hostname, left), self._end)

    def get_extra_info(self, info: str) -> Any:
        return self._real.get_extra_info(info)


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except httpcore.TimeoutException as e:
        raise httpx.TimeoutException(str(e) or type(e).__name__) from e
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as e:
        raise httpx.TransportError(str(e) or type(e).__name__) from e
