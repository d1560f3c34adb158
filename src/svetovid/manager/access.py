"""Who is asking: signed, short-lived, single-use request tokens.

A token names manager, method, path, body, time and nonce, so it is worth nothing at another
manager (C2), for another request (C3), or a second time. It also names this process, by the random
epoch in its answers: what another process has seen, before a restart or beside this one, is worth
nothing here, whatever its date.
"""

from __future__ import annotations

import secrets
import threading

from svetovid.crypto import Envelope, b64decode, b64encode, digest
from svetovid.crypto.canonical import load_json
from svetovid.errors import IntegrityError, LimitError, SvetovidError
from svetovid.manager.core import Core
from svetovid.protocol.messages import RequestToken

__all__ = ["Access"]

_PREFIX = "Svetovid "
_MAX_HEADER = 8 << 10
_MAX_NONCES = 4_000
"""Of each party, with all its hosts, within twice the skew: nobody fills anybody else's room."""


def _refused(code: str, expected: str, observed: str = "") -> IntegrityError:
    return IntegrityError(
        code, expected=expected, observed=observed, next_step="sign the request again"
    )


class Access:
    """Verifies tokens and remembers their nonces for as long as they could be used again.

    Attributes:
        epoch: names this process; tokens for another are refused.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.epoch = b64encode(secrets.token_bytes(16))
        self._lock = threading.Lock()
        self._nonces: dict[str, dict[str, int]] = {}

    def caller(self, header: str, method: str, path: str, body: bytes) -> frozenset[str]:
        """The keys of whoever signed this request: its own, and those it was rotated from.

        Raises:
            IntegrityError: ``token.missing``, ``token.form``, ``token.scope``, ``token.epoch``,
                ``token.expired``, ``token.used``; ``identity.unknown``, ``host.revoked``,
                ``key.*``, ``signature.*``.
            LimitError: ``token.limit``.
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
        if claimed.epoch != self.epoch:
            raise _refused("token.epoch", f"a token for epoch {self.epoch}", claimed.epoch)
        signers = envelope.signed_by()
        if len(signers) != 1:
            raise _refused("token.form", "one signature", str(len(signers)))
        party, keys = self._keys(next(iter(signers)))
        self._once(party, claimed)
        return keys

    def _keys(self, key: str) -> tuple[str, frozenset[str]]:
        """Who answers for ``key``, and the keys it reads for."""
        state = self._core.state
        if key in state.agents:
            operators = sorted(state.agents[key] - state.revoked)
            if not operators:
                raise IntegrityError(
                    "host.revoked",
                    expected="the agent of a host whose operator's key is not revoked",
                    observed=key,
                    next_step="the operator must enrol its hosts again under a new key",
                )
            return state.root(operators[0]), frozenset({key})
        history = state.history(key)
        history.check(key, at=self._core.now())
        return state.root(key), frozenset(history.keys)

    def _once(self, party: str, token: RequestToken) -> None:
        now, skew = self._core.now(), self._core.settings.skew_s
        if abs(now - token.issued_at) > skew:
            raise _refused("token.expired", f"a token made within {skew} s of {now}")
        with self._lock:
            nonces = self._nonces.setdefault(party, {})
            if len(nonces) >= _MAX_NONCES:
                nonces = {n: t for n, t in nonces.items() if t >= now - skew}
                self._nonces[party] = nonces
            name = digest(token.nonce.encode())
            if name in nonces:
                raise _refused("token.used", "a token that was not used before")
            if len(nonces) >= _MAX_NONCES:
                raise LimitError(
                    "token.limit",
                    expected=f"at most {_MAX_NONCES} requests in {2 * skew} s",
                    observed="as many",
                    next_step="ask less often",
                )
            nonces[name] = token.issued_at
