"""Who stakeholders are: registration, rotation, revocation.

A key of an identity is never the agent key of a host, nor the other way round: an agent is not
asked for its history, so a revoked identity would live on as one.
"""

from __future__ import annotations

from typing import Any, Literal

from svetovid.crypto import Card, Envelope, Revocation, Rotation
from svetovid.errors import IntegrityError
from svetovid.manager.admission import Admission
from svetovid.manager.core import Core
from svetovid.manager.state import State
from svetovid.manager.transaction import Transaction
from svetovid.protocol.messages import IdentityRegistration

__all__ = ["Identities"]


class Identities:
    """The register of a manager's stakeholders."""

    def __init__(self, core: Core, admission: Admission) -> None:
        self._core = core
        self._admission = admission

    def register(self, envelope: Envelope, source: str) -> dict[str, Any]:
        """An :class:`IdentityRegistration` that came from the network address ``source``.

        Raises:
            IntegrityError: ``request.manager``, ``request.time``, ``signature.*``,
                ``identity.conflict``.
            LimitError: ``identity.strangers``, ``identity.rate``.
        """
        core = self._core
        claimed = envelope.peek(IdentityRegistration)
        core.for_me(claimed.manager)
        card = Card.open(claimed.card)
        envelope.open(IdentityRegistration, by=card.signing)
        with core.store.write() as tx:
            if card.signing not in tx.state.pinned:
                core.timely(claimed.issued_at)
                _no_agent(tx.state, card.signing)
                self._admission.newcomer(tx.state, card.signing, source)
                body = {
                    "key": card.signing,
                    "name": card.name,
                    "document": envelope.payload_digest(),
                    "by": card.signing,
                    "bytes": self._admission.room(tx.state, card.signing, envelope),
                }
                tx.append(core.entry("identity", [card.signing], body), envelope)
        return {"key": card.signing}

    def rotate(self, envelope: Envelope) -> dict[str, Any]:
        """A :class:`Rotation`, signed by both keys. What was agreed stays agreed (T5).

        Raises:
            IntegrityError: ``identity.unknown``, ``identity.conflict``, ``signature.*``, ``key.*``.
            LimitError: ``key.rotations``.
        """
        rotation = envelope.peek(Rotation)
        with self._core.store.write() as tx:
            state, new = tx.state, rotation.new.signing
            if state.root(new) != state.root(rotation.old) and new in state.pinned:
                raise _taken(new)
            _no_agent(state, new)
            self._succeed(tx, "rotation", rotation.old, envelope)
        return {"key": new}

    def revoke(self, envelope: Envelope) -> dict[str, Any]:
        """A :class:`Revocation`, signed by the key or a later one of its history, which it ends.

        There is always room for it.

        Raises:
            IntegrityError: ``identity.unknown``, ``signature.*``, ``key.unknown``.
        """
        revocation = envelope.peek(Revocation)
        with self._core.store.write() as tx:
            self._succeed(tx, "revocation", revocation.key, envelope)
        return {"key": revocation.key}

    def _succeed(
        self,
        tx: Transaction,
        kind: Literal["rotation", "revocation"],
        key: str,
        envelope: Envelope,
    ) -> None:
        history, now = tx.state.history(key), self._core.now()
        grown = history.add(envelope, now=now)
        if grown == history:
            return
        body = {
            "key": key,
            "document": envelope.payload_digest(),
            "by": key,
            "bytes": len(envelope.canonical()),
        }
        entry = self._core.entry(kind, grown.keys, body)
        # The replay must accept what was accepted here, even if the clock has stepped back since.
        tx.append(entry.model_copy(update={"at": now}), envelope)


def _no_agent(state: State, key: str) -> None:
    if key in state.agents:
        raise _taken(key)


def _taken(key: str) -> IntegrityError:
    return IntegrityError(
        "identity.conflict",
        expected="a key that is nobody's yet",
        observed=key,
        next_step="make a new identity, or rotate to a newly made one",
    )
