"""One HTTP exchange with a pinned manager: TLS, bounds, signatures, checkpoints (T1, T15).

Rules, each enforced here and nowhere else:

1. The pinned certificate is the only trusted root, and TLS 1.3 the only version (C10).
2. An answer is bounded in size and, however it drips, in time; only our own parser decodes it.
3. An answer counts only when the pinned key signed it, for this very request.
4. Its checkpoint is never older than the newest one seen, and provably grown from it.
5. An error answer becomes our error; it changes nothing else. Only where the manager was started
   anew since, or another process answered, the request is signed again for that one, once.
"""

from __future__ import annotations

import secrets
import ssl
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import httpx

from svetovid.crypto import Document, Envelope, Signer, b64decode, b64encode, digest, sign
from svetovid.crypto.canonical import load_json
from svetovid.errors import (
    IntegrityError,
    LimitError,
    RefusalError,
    SvetovidError,
    TransportError,
    from_dict,
)
from svetovid.protocol.messages import (
    Answer,
    JsonObject,
    ManagerPin,
    RequestToken,
    request_digest,
)
from svetovid.protocol.seen import Seen
from svetovid.protocol.timed import TimedTransport
from svetovid.transparency.checkpoint import Checkpoint, advance

__all__ = ["MAX_ANSWER_BYTES", "Wire", "pinned_context"]

MAX_ANSWER_BYTES = 33 << 20
_MAX_ERROR_BYTES = 256 << 10
_MAX_EPOCH_BYTES = 32


def pinned_context(certificate: bytes) -> ssl.SSLContext:
    """A client context that trusts one DER certificate and speaks TLS 1.3 alone.

    Raises:
        IntegrityError: ``channel.certificate`` where it is not a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the pin is this very certificate, whatever its name
    try:
        context.load_verify_locations(cadata=certificate)
    except ssl.SSLError as e:
        raise IntegrityError(
            "channel.certificate",
            expected="a DER certificate",
            observed=str(e.reason),
            next_step="take the manager's pin again, from the manager's operator",
        ) from e
    return context


class Wire:
    """Sends one request at a time and believes only what rules 1 to 5 leave."""

    def __init__(
        self,
        pin: ManagerPin,
        signer: Signer,
        *,
        seen: Seen,
        clock: Callable[[], float],
        transport: httpx.BaseTransport | None,
        timeout_s: float,
        total_s: float,
    ) -> None:
        self._manager = pin.open().signing
        self._signer = signer
        self._seen = seen
        self._clock = clock
        self._one = threading.Lock()
        self._epoch = ""
        context = pinned_context(b64decode(pin.tls_certificate))
        self._http = httpx.Client(
            base_url=pin.url.rstrip("/"),
            # A little less than after how long a manager closes what is idle.
            transport=transport or TimedTransport(context, total_s=total_s, keepalive_s=12.0),
            timeout=httpx.Timeout(timeout_s),
            trust_env=False,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "svetovid"},
        )

    def close(self) -> None:
        self._http.close()

    @property
    def newest(self) -> Envelope | None:
        """The newest checkpoint seen, signed."""
        return self._seen.load()

    def token(self, method: str, path: str, body: bytes) -> str:
        """The Authorization header of one request."""
        fields = {
            "manager": self._manager,
            "method": method,
            "path": path,
            "body": digest(body),
            "epoch": self._epoch,
            "issued_at": int(self._clock()),
            "nonce": b64encode(secrets.token_bytes(16)),
        }
        envelope = sign(RequestToken.from_json(fields), self._signer)
        return "Svetovid " + b64encode(envelope.canonical())

    def post(self, path: str, message: Document, *, private: bool = False) -> JsonObject:
        return self._asked("POST", path, message.canonical(), private)

    def get(self, path: str, *, private: bool = True) -> JsonObject:
        return self._asked("GET", path, b"", private)

    def _asked(self, method: str, path: str, body: bytes, private: bool) -> JsonObject:
        if not private:
            return self._exchange(method, path, body, "")
        before = self._epoch
        try:
            return self._exchange(method, path, body, self.token(method, path, body))
        except RefusalError as e:
            if e.code != "token.epoch" or self._epoch == before:
                raise
        return self._exchange(method, path, body, self.token(method, path, body))

    def _exchange(self, method: str, path: str, body: bytes, token: str) -> JsonObject:
        with self._one, cast(AbstractContextManager[None], self._seen.lock()):
            before = self._seen.load()
            known = None if before is None else before.open(Checkpoint, by=self._manager)
            headers = {"Svetovid-Seen": str(0 if known is None else known.size)}
            if token:
                headers["Authorization"] = token
            if body:
                headers["Content-Type"] = "application/json"
            status, data = self._send(method, path, body, headers)
            if status != 200:
                raise _error(status, data)
            envelope = Envelope.parse(data, max_bytes=MAX_ANSWER_BYTES)
            answer = envelope.open(Answer, by=self._manager)
            if answer.request != request_digest(method, path, body, token):
                raise IntegrityError(
                    "answer.request",
                    expected="an answer to this request",
                    observed="an answer to another",
                    next_step="somebody between you and the manager replays answers",
                )
            advance(known, answer.checkpoint, answer.consistency, log=self._manager)
            self._seen.save(answer.checkpoint)
            return answer.body

    def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        try:
            with self._http.stream(method, path, content=body or None, headers=headers) as r:
                if r.headers.get("content-encoding", "identity") != "identity":
                    raise TransportError(
                        "transport.encoding",
                        expected="no content encoding",
                        next_step="reach the manager without a proxy that changes its answers",
                    )
                limit = MAX_ANSWER_BYTES if r.status_code == 200 else _MAX_ERROR_BYTES
                got = bytearray()
                for chunk in r.iter_raw():
                    got += chunk
                    if len(got) > limit:
                        raise LimitError(
                            "transport.answer_size",
                            expected=f"{limit} bytes",
                            next_step="ask for less at once, or tell the operator",
                        )
                self._epoch = _epoch(r.headers.get("svetovid-epoch", ""))
                return r.status_code, bytes(got)
        except httpx.TimeoutException as e:
            raise TransportError(
                "transport.timeout",
                expected="an answer in time",
                observed=str(e) or type(e).__name__,
                next_step="try again; the manager may be busy or down",
            ) from e
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
            raise TransportError(
                "transport.unreachable",
                expected="the manager behind the pinned certificate",
                observed=str(e) or type(e).__name__,
                next_step="check its address and the pin, and that it is running",
            ) from e


def _epoch(text: str) -> str:
    """An answer's epoch, if it has the form of one."""
    try:
        return text if len(b64decode(text)) <= _MAX_EPOCH_BYTES else ""
    except SvetovidError:
        return ""


def _error(status: int, data: bytes) -> SvetovidError:
    try:
        value = load_json(data)
    except SvetovidError:
        value = None
    if not isinstance(value, dict):
        return TransportError(
            "transport.answer",
            expected="an answer of a manager",
            observed=f"HTTP {status}",
            next_step="check that the address is a manager's, not a proxy's",
        )
    return from_dict(value)
