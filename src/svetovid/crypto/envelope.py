"""Signed documents: the Dead Simple Signing Envelope (DSSE 1.0) with Ed25519 (RFC 8032).

The pre-authentication encoding binds the document's type, so a signature over a consent is never
one over a policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Protocol, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, StringConstraints

from svetovid.crypto.canonical import (
    Base64,
    Document,
    KeyId,
    Payload,
    b64decode,
    b64encode,
    load_json,
)
from svetovid.errors import IntegrityError, LimitError, ParseError

__all__ = ["Envelope", "Signature", "Signer", "pae", "payload_type", "sign", "verify_raw"]

D = TypeVar("D", bound=Document)


class Signer(Protocol):
    """Whoever can sign: an identity in memory, or a key in hardware."""

    @property
    def key_id(self) -> str:
        """Names the public key: ``ed25519:`` and its 32 bytes in hex."""
        ...

    def sign_bytes(self, data: bytes) -> bytes:
        """Ed25519 (RFC 8032) over ``data``; 64 bytes."""
        ...


def payload_type(document_type: str) -> str:
    return f"application/vnd.svetovid.{document_type}.v1+json"


def pae(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    t = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(t), t, len(payload), payload)


_P = 2**255 - 19
_SMALL_ORDER_Y = frozenset(
    int.from_bytes(bytes.fromhex(y), "little")
    for y in (
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    )
) | {0, 1, _P - 1}
"""The y of the eight points of small order: for such a "key" anybody can sign anything."""


def usable_key(raw: bytes) -> bool:
    """Whether ``raw`` is the one encoding (RFC 8032, section 5.1.3) of a key of large order.

    OpenSSL takes more than one encoding of a point, and points of small order. The first would be
    two key ids for one key, the second a signature that nobody in particular made.
    """
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    return len(raw) == 32 and y < _P and y not in _SMALL_ORDER_Y


def verify_raw(key_id: str, signature: bytes, data: bytes) -> bool:
    """Whether ``signature`` is by ``key_id`` over ``data``; malformed keys are a plain no."""
    try:
        raw = bytes.fromhex(key_id.removeprefix("ed25519:"))
        if not usable_key(raw):
            return False
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


class Signature(Document):
    """One signature over an envelope's payload, in the encoding of DSSE.

    Attributes:
        keyid: who signed.
        sig: Ed25519 over the DSSE pre-authentication encoding of media type and payload.
    """

    keyid: KeyId
    sig: Base64


class Envelope(Document):
    """A document's canonical bytes with the signatures over them.

    Attributes:
        payload: base64 of the canonical JSON.
        payloadType: media type that names the document's type and version.
        signatures: at least one; two by one key are refused.
    """

    TYPE: ClassVar[str] = "envelope"
    MAX_MEMBERS: ClassVar[int] = 256
    payload: Payload
    payloadType: Annotated[str, StringConstraints(max_length=128)]  # noqa: N815 (DSSE's own name)
    signatures: tuple[Signature, ...] = Field(min_length=1, max_length=16)

    def signed_by(self) -> frozenset[str]:
        """Key ids whose signature over this payload holds.

        Raises:
            IntegrityError: ``signature.invalid`` where any signature does not hold, or a key
                signed twice: nothing unverified travels along.
        """
        data = pae(self.payloadType, b64decode(self.payload))
        seen: set[str] = set()
        for s in self.signatures:
            if s.keyid in seen or not verify_raw(s.keyid, b64decode(s.sig), data):
                raise IntegrityError(
                    "signature.invalid",
                    expected="one valid signature a key",
                    observed=f"{self.payloadType} by {s.keyid}",
                    next_step="ask the signer for the document again",
                )
            seen.add(s.keyid)
        return frozenset(seen)

    def open(self, document: type[D], *, by: str | Iterable[str]) -> D:
        """Verify that every key in ``by`` signed, and return the document.

        Raises:
            IntegrityError: ``signature.type``, ``signature.invalid``, ``signature.missing``,
                ``signature.canonical``.
            InputError: where the payload is not such a document, or longer than one may be.
        """
        self._check_type(document)
        self.require(by)
        return self.peek(document)

    def require(self, by: str | Iterable[str]) -> None:
        """Verify that every key in ``by`` signed: of a document that :meth:`peek` showed already.

        Raises:
            IntegrityError: ``signature.invalid``, ``signature.missing``.
        """
        wanted = {by} if isinstance(by, str) else set(by)
        missing = wanted - self.signed_by()
        if missing or not wanted:
            raise IntegrityError(
                "signature.missing",
                expected=f"a signature by {', '.join(sorted(missing)) or 'somebody'}",
                observed=", ".join(sorted(s.keyid for s in self.signatures)),
                next_step="the named key must sign this document",
            )

    def _check_type(self, document: type[Document]) -> None:
        if self.payloadType != payload_type(document.TYPE):
            raise IntegrityError(
                "signature.type",
                expected=payload_type(document.TYPE),
                observed=self.payloadType,
                next_step="send the kind of document that is asked for here",
            )

    def peek(self, document: type[D]) -> D:
        """The document, unverified: to find out whom to ask. Trust nothing in it."""
        self._check_type(document)
        payload = b64decode(self.payload)
        value = document.from_json(load_json(payload, max_bytes=document.MAX_BYTES))
        if value.canonical() != payload:
            raise IntegrityError(
                "signature.canonical",
                expected="the canonical form (RFC 8785)",
                next_step="have it signed again by svetovid, which writes the canonical form",
            )
        return value

    def payload_digest(self) -> str:
        """The digest of the document inside: its name, whoever signed it."""
        from svetovid.crypto.canonical import digest

        return digest(b64decode(self.payload))


def sign(document: Document, *signers: Signer) -> Envelope:
    """Sign ``document`` with each signer.

    Raises:
        LimitError: ``json.size`` where nobody would read it.
    """
    if not document.TYPE or not signers:
        raise ParseError(
            "signature.type",
            expected="a typed document and at least one signer",
            next_step="send the kind of document that is asked for here",
        )
    payload = document.canonical()
    if len(payload) > document.MAX_BYTES:
        raise LimitError(
            "json.size",
            expected=f"a {document.TYPE} of at most {document.MAX_BYTES} bytes",
            observed=str(len(payload)),
            next_step="make it smaller, or several of it",
        )
    kind = payload_type(document.TYPE)
    data = pae(kind, payload)
    return Envelope(
        payload=b64encode(payload),
        payloadType=kind,
        signatures=tuple(
            Signature(keyid=s.key_id, sig=b64encode(s.sign_bytes(data))) for s in signers
        ),
    )
