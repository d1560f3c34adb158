"""What crosses the wire, kept: everything a listener on the operator's side could read."""

from __future__ import annotations

from collections.abc import Callable

import httpx


class Tap(httpx.BaseTransport):
    """Passes requests on, and keeps both directions.

    ``alter`` may change an answer on its way back: one line for an attacker in between.
    """

    def __init__(self, to: httpx.BaseTransport) -> None:
        self._to = to
        self.seen: list[bytes] = []
        self.calls: list[tuple[str, str]] = []
        self.alter: Callable[[httpx.Response], httpx.Response] = lambda r: r

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        response = self._to.handle_request(request)
        self.seen += [repr(request.headers).encode(), str(request.url).encode(), body]
        self.seen += [repr(response.headers).encode(), response.read()]
        self.calls.append((request.method, request.url.path))
        again = httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=httpx.ByteStream(response.content),
        )
        return self.alter(again)

    def close(self) -> None:
        return
