"""Who is asking: signed, short-lived, single-use request tokens.

A token names manager, method, path, body, time and nonce, so it is worth nothing at another
manager (C2), for another request (C3), or a second time.
"""

from __future__ import annotations

import threading

from svetovid.crypto import Envelope, b64decode, digest
from svetovid.crypto.canonical import load_json
from svetovid.errors import IntegrityError, SvetovidError
from svetovid.manager.core import Core
from svetovid.protocol.messages import RequestToken

__all__ = ["Access"]

_PREFIX = "Svetovid "
_MAX_HEADER = 8 << 10
_MAX_NONCES = 100_000


def _refused(code: str, expected: str, observed: str = "") -> IntegrityError:
    return IntegrityError(
        code, expected=expected, observed=observed, next_step="sign the request again"
    )


class Access:
    """Verifies tokens and remembers their nonces for as long as they could be used again.

    A token issued before this process started is refused: its nonce may have been seen by the
    process before.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._started = core.now()
        self._lock = threading.Lock()
        self._nonces: dict[str, int] = {}

    def caller(self, header: str, method: str, path: str, body: bytes) -> frozenset[str]:
        """The keys of whoever signed this request: its own, and those it was rotated from.

        Raises:
            IntegrityError: ``token.missing``, ``token.form``, ``token.scope``, ``token.expired``,
                ``token.used``; ``identity.unknown``, ``key.*``, ``signature.*``.
        """
        if not header.startswith(_PREFIX) or len(header) > _MAX_HEADER:
            raise _refused("token.missing", "Authorization: Svetovid and a signed request")
        try:
            raw = load_json(b64decode(header.removeprefix(_PREFIX)), max_bytes=_MAX_HEADER)
            envelope = Envelope.from_json(raw)
            claimed = envelope.peek(RequestToken)
        except SvetovidError as e:
            raise _refused("token.form", "a signed request", e.code) from e
        if (claimed.method, claimed.path, claimed.body) != (method, path, digest(body)):
            raise _refused("token.scope", f"a token for {method} {path}", claimed.path)
        if claimed.manager != self._core.me:
            raise _refused("token.scope", f"a token for {self._core.me}", claimed.manager)
        signers = envelope.signed_by()
        if len(signers) != 1:
            raise _refused("token.form", "one signature", str(len(signers)))
        keys = self._keys(next(iter(signers)))
        self._once(claimed)
        return keys

    def _keys(self, key: str) -> frozenset[str]:
        state = self._core.state
        if key in state.agents:
            return frozenset({key})
        history = state.history(key)
        history.check(key, at=self._core.now())
        return frozenset(history.keys)

    def _once(self, token: RequestToken) -> None:
        now, skew = self._core.now(), self._core.settings.skew_s
        if abs(now - token.issued_at) > skew or token.issued_at < self._started:
            raise _refused("token.expired", f"a token made within {skew} s of {now}")
        with self._lock:
            if len(self._nonces) >= _MAX_NONCES:
                self._nonces = {n: t for n, t in self._nonces.items() if t >= now - skew}
            if token.nonce in self._nonces or len(self._nonces) >= _MAX_NONCES:
                raise _refused("token.used", "a token that was not used before")
            self._nonces[token.nonce] = token.issued_at
