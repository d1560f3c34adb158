"""The manager on the wire: Starlette routes around :class:`Manager`.

What bounds what: a body is at most 16 MiB and read within 20 s, whatever its headers promise, and
all larger than 64 KiB that are in memory at once are 256 MiB together;
headers are the server's to bound; eight requests are worked on at a time, the rest wait; the
number of connections is the server's to bound. Errors have one JSON form and no trace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from svetovid.crypto import Envelope
from svetovid.crypto.canonical import canonical
from svetovid.errors import (
    HostError,
    InputError,
    LimitError,
    RefusalError,
    SvetovidError,
    TransportError,
)
from svetovid.manager.service import MAX_BODY_BYTES, Manager
from svetovid.protocol.messages import JsonObject, request_digest

__all__ = ["make_app"]

BODY_SECONDS = 20.0
SMALL_BYTES = 64 << 10
MAX_BODIES_BYTES = 256 << 20
WORKERS = 8
MAX_REASONS = 64
"""As many as a client reads; an owner's records have more."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
}
_TOO_MUCH = frozenset(
    {
        "body.busy",
        "challenge.limit",
        "checkpoint.rate",
        "consent.importers",
        "consent.unknown",
        "evidence.busy",
        "identity.rate",
        "identity.strangers",
        "store.quota",
        "token.limit",
    }
)
_log = logging.getLogger("svetovid.manager")

Work = Callable[[Request, str, bytes], JsonObject]
Endpoint = Callable[[Request], Awaitable[Response]]


def _status(e: SvetovidError) -> int:
    if e.code in _TOO_MUCH:
        return 429
    if e.code.startswith("token."):
        return 401
    if e.code in ("body.size", "json.size"):
        return 413
    if e.code == "body.slow":
        return 408
    if isinstance(e, HostError | TransportError):
        return 503
    if isinstance(e, RefusalError):
        return 403
    return 400 if isinstance(e, InputError) else 500


def _error(e: SvetovidError, headers: Mapping[str, str] = _HEADERS) -> Response:
    told = {**e.to_dict(), "reasons": [r.to_dict() for r in e.reasons[:MAX_REASONS]]}
    return Response(canonical(told), _status(e), headers=headers, media_type="application/json")


class _Room:
    """Bytes of request bodies that are in memory at once. Small ones always find room: the number
    of connections bounds them."""

    def __init__(self, size: int) -> None:
        self._free = size

    def take(self, size: int) -> None:
        """Raises LimitError ``body.busy``."""
        if size > self._free:
            raise LimitError(
                "body.busy",
                expected="room for another large request",
                observed="large requests by others, which are read first",
                next_step="try again in a second",
            )
        self._free -= size

    def give(self, size: int) -> None:
        self._free += size


@asynccontextmanager
async def _body(request: Request, room: _Room) -> AsyncIterator[bytes]:
    """The whole body. Its room is taken until it was answered."""
    taken = 0
    got = bytearray()
    try:
        async for chunk in _chunks(request):
            got += chunk
            if len(got) > taken + SMALL_BYTES:
                more = min(MAX_BODY_BYTES, 2 * len(got)) - taken
                room.take(more)
                taken += more
        yield bytes(got)
    finally:
        room.give(taken)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    declared = request.headers.get("content-length", "0")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InputError(
            "body.encoding",
            expected="no content encoding",
            next_step="send the body without Content-Encoding",
        )
    if not (declared.isascii() and declared.isdigit()) or int(declared[:12]) > MAX_BODY_BYTES:
        raise _too_large(declared)
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise _too_large("more")
                yield chunk
    except TimeoutError as e:
        raise TransportError(
            "body.slow", expected=f"a body within {BODY_SECONDS:.0f} s", next_step="send it again"
        ) from e
    except ClientDisconnect as e:
        raise TransportError("body.cut", expected="a whole body", next_step="send it again") from e


def _too_large(observed: str) -> LimitError:
    return LimitError(
        "body.size",
        expected=f"at most {MAX_BODY_BYTES} bytes",
        observed=observed[:20],
        next_step="send less at once",
    )


def _seen(request: Request) -> int:
    text = request.headers.get("svetovid-seen", "0")
    if not (text.isascii() and text.isdigit()) or len(text) > 13:
        raise InputError(
            "request.seen",
            expected="a log size",
            observed=text,
            next_step="send the size of the log that was seen last, in digits",
        )
    return int(text)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or len(text) > 13:
        raise InputError(
            "request.query",
            expected=f"a number for {name}",
            observed=text,
            next_step="send a plain number, in digits",
        )
    return int(text)


def make_app(manager: Manager) -> Starlette:
    """The ASGI application of one manager."""
    limiter = anyio.CapacityLimiter(WORKERS)
    room = _Room(MAX_BODIES_BYTES)
    headers = {**_HEADERS, "Svetovid-Epoch": manager.epoch}

    def endpoint(work: Work) -> Endpoint:
        async def handle(request: Request) -> Response:
            try:
                async with _body(request, room) as body:
                    path = request.scope["raw_path"].decode("ascii", "replace")
                    if query := request.scope["query_string"].decode("ascii", "replace"):
                        path += "?" + query
                    call = partial(_answer, manager, work, request, path, body, _seen(request))
                    envelope = await anyio.to_thread.run_sync(call, limiter=limiter)
            except SvetovidError as e:
                return _error(e, headers)
            except Exception as e:  # noqa: BLE001 (a defect of ours must not show a trace)
                # Its type for the operator; never its text, which may hold anything (K9).
                _log.error("unexpected %s at %s", type(e).__name__, request.scope["path"][:80])
                return _error(SvetovidError("server.fault", next_step="tell the operator"))
            return Response(envelope.canonical(), headers=headers, media_type="application/json")

        return handle

    def private(read: Callable[[frozenset[str], Request], JsonObject]) -> Endpoint:
        def work(request: Request, path: str, body: bytes) -> JsonObject:
            header = request.headers.get("authorization", "")
            return read(manager.caller(header, request.method, path, body), request)

        return endpoint(work)

    def change(handle: Callable[[bytes], JsonObject]) -> Endpoint:
        return endpoint(lambda _request, _path, body: handle(body))

    def register(request: Request, _path: str, body: bytes) -> JsonObject:
        return manager.register(body, request.client.host if request.client else "")

    def publish(request: Request, path: str, body: bytes) -> JsonObject:
        header = request.headers.get("authorization", "")
        return manager.publish(manager.caller(header, "POST", path, body), body)

    reading = manager.reading
    routes = [Route(p, change(h), methods=["POST"]) for p, h in manager.changes.items()]
    routes += [
        Route("/v1/identities", endpoint(register), methods=["POST"]),
        Route("/v1/documents", endpoint(publish), methods=["POST"]),
        Route("/v1/status", endpoint(lambda _r, _p, _b: reading.status()), methods=["GET"]),
        Route("/v1/evidence", endpoint(lambda _r, _p, _b: manager.own.record()), methods=["GET"]),
        Route(
            "/v1/policies/{owner}/{name}",
            private(lambda c, r: reading.policy(c, r.path_params["owner"], r.path_params["name"])),
        ),
        Route(
            "/v1/documents/{digest}",
            private(lambda c, r: reading.document(c, r.path_params["digest"])),
        ),
        Route(
            "/v1/hosts/{digest}/standing",
            private(lambda _c, r: reading.standing(r.path_params["digest"])),
        ),
        Route("/v1/hosts/{digest}", private(lambda _c, r: reading.host(r.path_params["digest"]))),
        Route("/v1/jobs/{digest}", private(lambda c, r: reading.job(c, r.path_params["digest"]))),
        Route(
            "/v1/records",
            private(
                lambda c, r: reading.records(c, _number(r, "first", 0), _number(r, "limit", 100))
            ),
        ),
        Route(
            "/v1/proofs/{index}",
            private(lambda c, r: reading.proof(c, _index(r.path_params["index"]))),
        ),
    ]

    async def unknown(_request: Request, _error_: Exception) -> Response:
        e = InputError(
            "request.path",
            expected="an endpoint of docs/spec/protocol.md",
            next_step="see docs/spec/protocol.md for the endpoints",
        )
        return Response(
            canonical(e.to_dict()), 404, headers=_HEADERS, media_type="application/json"
        )

    app = Starlette(routes=routes, exception_handlers={404: unknown, 405: unknown})
    app.router.redirect_slashes = False
    return app


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 13:
        raise InputError(
            "request.path",
            expected="an index",
            observed=text,
            next_step="see docs/spec/protocol.md for the endpoints",
        )
    return int(text)


def _answer(
    manager: Manager, work: Work, request: Request, path: str, body: bytes, seen: int
) -> Envelope:
    manager.refresh()
    header = request.headers.get("authorization", "")
    name = request_digest(request.method, path, body, header)
    return manager.answer(name, seen, work(request, path, body))
