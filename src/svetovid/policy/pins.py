"""From a pin to the signed document it means (T2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from svetovid.crypto.envelope import Envelope
from svetovid.errors import PolicyError, SvetovidError
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.policy.documents import Pin, Policy

__all__ = ["resolve_pin", "resolve_policy"]


Pinned = TypeVar("Pinned", TrustAnchors, ReferenceValues)


def _matches(pin: Pin, envelope: Envelope, document: type[Pinned]) -> Pinned | None:
    try:
        if pin.document is not None:
            return envelope.peek(document) if envelope.payload_digest() == pin.document else None
        found = envelope.open(document, by=pin.signer or "")
    except SvetovidError:
        return None
    wanted = found.product == pin.product and found.version >= (pin.min_version or 1)
    return found if wanted else None


def resolve_pin(pin: Pin, held: Iterable[Envelope], document: type[Pinned]) -> Pinned:
    """The document that ``pin`` means, among ``held``; the newest edition of a signer's product.

    A pin by digest needs no signature: the digest is the owner's own choice. Envelopes that do not
    hold, or hold something else, count for nothing.

    Args:
        pin: the owner's choice (T2).
        held: envelopes of what was published.
        document: the class that it must be.

    Raises:
        PolicyError: ``policy.pin`` where no held document matches, or where two editions of one
            number differ, so that nobody can say which was meant.
    """
    found = [d for e in held if (d := _matches(pin, e, document)) is not None]
    newest = max((d.version for d in found), default=0)
    best = {d.digest(): d for d in found if d.version == newest}
    if len(best) != 1:
        raise PolicyError(
            "policy.pin",
            expected=pin.document
            or f"{pin.product} version {pin.min_version} or later by {pin.signer}",
            observed=f"{len(best)} matching documents",
            next_step=f"give this manager the signed {document.TYPE} that the policy pins",
        )
    return next(iter(best.values()))


def resolve_policy(
    policy: Policy, held: Iterable[Envelope]
) -> tuple[TrustAnchors, tuple[ReferenceValues, ...]]:
    """The anchors and reference values of one owner's own choice (T2).

    Raises:
        PolicyError: ``policy.pin``.
    """
    envelopes = tuple(held)
    return (
        resolve_pin(policy.anchors, envelopes, TrustAnchors),
        tuple(resolve_pin(pin, envelopes, ReferenceValues) for pin in policy.references),
    )
