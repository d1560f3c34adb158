"""Who may sign for a stakeholder, as its key is rotated and revoked over time.

A history starts from a pinned key and only ever moves forward, one signed statement at a time, in
the order in which they were accepted::

    history = KeyHistory.start(pinned)
    for envelope in statements:
        history = history.add(envelope, now=now)
    history.check(key, at=recorded_at)

Rules:

1. A rotation is signed by both keys, and the old one is the current key.
2. A key has one successor: a second, different one is a fork, and both are in doubt.
3. A successor was never seen before in this history, so there is no loop.
4. A revocation is signed by the key it names, or by a later key of the same history.
5. A revocation of any key ends the whole history. Whoever stole the newest key speaks for all that
   the older ones own; whoever stole an older one may have chosen what followed. So no key of it
   signs anything more, and none follows.
6. A rotation takes effect at ``issued_at``, which never runs backwards within a history and never
   lies ahead of the verifier's time: nobody can undo what was signed before the last accepted
   statement, or bar the way to later ones.
7. A revocation is never refused for its date: one that is too early counts from the last accepted
   statement on, one that lies ahead from the verifier's time on.
8. The same statement twice changes nothing, and neither does any after a revocation.

``at`` is when a signature was recorded by somebody the verifier trusts for time (the manager's
log), never what the signer claims: whoever stole a key can write any date.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from svetovid.crypto.envelope import Envelope, payload_type
from svetovid.crypto.identity import Card, Revocation, Rotation
from svetovid.errors import IntegrityError, LimitError

__all__ = ["KeyHistory"]

MAX_ROTATIONS = 32
"""Revocations are not counted: there is always room for one."""


@dataclass(frozen=True, slots=True)
class _Tenure:
    """One key's time: from ``since`` (None: always) until ``rotated``, if it was."""

    key: str
    since: int | None = None
    rotated: int | None = None
    card: Card | None = None


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """The keys of one stakeholder, oldest first. Build it with :meth:`start` or :meth:`follow`.

    Attributes:
        revoked: when it was ended (Unix seconds), or None while it stands.
    """

    _tenures: tuple[_Tenure, ...]
    revoked: int | None = None
    _last: int | None = None
    _seen: frozenset[str] = frozenset()

    @classmethod
    def start(cls, pinned: str) -> KeyHistory:
        """The history of a key (``ed25519:...``) of which nothing else is known yet."""
        return cls((_Tenure(pinned),))

    @classmethod
    def follow(cls, pinned: str, statements: Iterable[Envelope], *, now: int) -> KeyHistory:
        """:meth:`start`, then :meth:`add` for each statement in order.

        Args:
            pinned: id of the key that the reader trusts.
            statements: signed rotations and revocations, the oldest first.
            now: Unix seconds.
        """
        history = cls.start(pinned)
        for statement in statements:
            history = history.add(statement, now=now)
        return history

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key so far, oldest first."""
        return tuple(t.key for t in self._tenures)

    @property
    def current(self) -> str:
        """The key that may sign now.

        Raises:
            IntegrityError: ``key.revoked`` where any key of this history was revoked.
        """
        last = self._tenures[-1].key
        if self.revoked is not None:
            raise self._ended(last)
        return last

    @property
    def card(self) -> Card | None:
        """The last key's card, as its rotation gave it; None where the pinned key still stands."""
        return self._tenures[-1].card

    def check(self, key: str, *, at: int) -> None:
        """Refuse ``key`` unless it may sign at ``at`` (Unix seconds, recorded, not claimed).

        Raises:
            IntegrityError: ``key.unknown``, ``key.early``, ``key.rotated``, ``key.revoked``.
        """
        tenure = self._find(key)
        if self.revoked is not None and at >= self.revoked:
            raise self._ended(key)
        if tenure.rotated is not None and at >= tenure.rotated:
            raise IntegrityError(
                "key.rotated",
                expected=f"a signature by {self.keys[-1]}",
                observed=f"{key}, rotated at {tenure.rotated}",
                next_step="sign with the key that followed",
            )
        if tenure.since is not None and at < tenure.since:
            raise IntegrityError(
                "key.early",
                expected=f"a time from {tenure.since} on",
                observed=str(at),
                next_step="check the record's time, or sign with the key that was valid then",
            )

    def add(self, statement: Envelope, *, now: int) -> KeyHistory:
        """The history after one more signed rotation or revocation, at ``now`` (Unix seconds).

        Raises:
            IntegrityError: ``signature.*``, ``key.unknown``, ``key.fork``, ``key.loop``,
                ``key.revoked``, ``key.order``, ``key.future``.
            LimitError: ``key.rotations``.
        """
        if statement.payloadType == payload_type(Rotation.TYPE):
            return self._rotate(statement, now)
        return self._revoke(statement, now)

    def _find(self, key: str) -> _Tenure:
        for tenure in self._tenures:
            if tenure.key == key:
                return tenure
        raise IntegrityError(
            "key.unknown",
            expected=f"one of {len(self._tenures)} keys from {self._tenures[0].key} on",
            observed=key,
            next_step="pin the signer's key, or add the rotation that leads to it",
        )

    def _ordered(self, issued_at: int, now: int) -> None:
        if issued_at > now:
            raise IntegrityError(
                "key.future",
                expected=f"a statement made by {now}",
                observed=str(issued_at),
                next_step="check both clocks, then make the statement again",
            )
        if self._last is not None and issued_at < self._last:
            raise IntegrityError(
                "key.order",
                expected=f"a statement from {self._last} on",
                observed=str(issued_at),
                next_step="give the statements in the order in which they were made",
            )

    def _rotate(self, statement: Envelope, now: int) -> KeyHistory:
        claimed = statement.peek(Rotation)
        rotation = statement.open(Rotation, by=(claimed.old, claimed.new.signing))
        digest = statement.payload_digest()
        if digest in self._seen:
            return self
        old = self._find(rotation.old)
        if self.revoked is not None:
            raise self._ended(old.key)
        if old.rotated is not None:
            raise IntegrityError(
                "key.fork",
                expected=f"one successor of {old.key}",
                observed=f"a second one, {rotation.new.signing}",
                next_step="the key may be stolen: ask its owner, then pin the key it names anew",
            )
        if rotation.new.signing in self.keys:
            raise IntegrityError(
                "key.loop",
                expected="a fresh key",
                observed=f"{rotation.new.signing}, already in this history",
                next_step="rotate to a newly made identity",
            )
        self._ordered(rotation.issued_at, now)
        if len(self._seen) >= MAX_ROTATIONS:
            raise LimitError(
                "key.rotations",
                expected=f"at most {MAX_ROTATIONS} rotations",
                next_step="start a new identity, and have its card pinned again",
            )
        new = _Tenure(rotation.new.signing, since=rotation.issued_at, card=rotation.new)
        ended = replace(old, rotated=rotation.issued_at)
        return replace(
            self,
            _tenures=(*self._tenures[:-1], ended, new),
            _last=rotation.issued_at,
            _seen=self._seen | {digest},
        )

    def _revoke(self, statement: Envelope, now: int) -> KeyHistory:
        revocation = statement.peek(Revocation)
        signers = statement.signed_by()
        place = self._tenures.index(self._find(revocation.key))
        entitled = {t.key for t in self._tenures[place:]}
        if not signers & entitled:
            raise IntegrityError(
                "key.unknown",
                expected=f"a signature by {revocation.key} or a key that followed it",
                observed=", ".join(sorted(signers)),
                next_step="only a key itself or its successor can revoke it",
            )
        if self.revoked is not None:
            return self
        since = min(revocation.issued_at, now)
        return replace(self, revoked=since if self._last is None else max(since, self._last))

    def _ended(self, key: str) -> IntegrityError:
        return IntegrityError(
            "key.revoked",
            expected="a key that may sign",
            observed=f"{key}, of a history that was revoked at {self.revoked}",
            next_step="ask its owner for a new key out of band, and pin that",
        )
