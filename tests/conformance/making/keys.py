"""Keys and certificates that are the same in every run: of no secret, and to be trusted by nobody.

Only ECDSA on NIST curves: its keys follow from a label, and its signatures can be made without
chance (RFC 6979).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NOW = 1_800_000_000
START, END = dt.datetime(2025, 1, 1, tzinfo=dt.UTC), dt.datetime(2045, 1, 1, tzinfo=dt.UTC)
EK_USE = x509.ObjectIdentifier("2.23.133.8.1")
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def derived(label: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """The key of ``label``."""
    number = int.from_bytes(hashlib.sha256(b"svetovid conformance " + label.encode()).digest())
    return ec.derive_private_key(number % (_ORDER - 1) + 1, curve or ec.SECP256R1())


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(NOW + seconds, dt.UTC)


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _usage(*, certificates: bool, lists: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        False, False, False, False, False, certificates, lists, False, False
    )  # fmt: skip


@dataclass
class Maker:
    """A certificate authority of a TPM maker; without ``parent`` its own root."""

    name: str
    parent: Maker | None = None
    ca: bool = True
    may_sign: bool = True
    path_length: int | None = None
    end: dt.datetime = END
    label: str = ""

    def __post_init__(self) -> None:
        self.key = derived(self.label or self.name)
        by = self.parent or self
        self.certificate = by.issue(
            self.key.public_key(),
            subject=named(self.name),
            extensions=[
                (x509.BasicConstraints(self.ca, self.path_length if self.ca else None), True),
                (_usage(certificates=self.may_sign, lists=True), True),
            ],
            end=self.end,
        )

    def issue(
        self,
        key: object,
        *,
        subject: x509.Name,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        start: dt.datetime = START,
        end: dt.datetime = END,
        hash_algorithm: hashes.HashAlgorithm | None = None,
        issuer: str = "",
        signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.Certificate:
        serial = hashlib.sha256(subject.public_bytes() + self.name.encode()).digest()[:8]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(named(issuer or self.name))
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(int.from_bytes(serial) >> 1 | 1)
            .not_valid_before(start)
            .not_valid_after(end)
        )
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        return builder.sign(
            signer or self.key, hash_algorithm or hashes.SHA256(), ecdsa_deterministic=True
        )

    def device(
        self,
        key: object,
        *,
        name: str = "device",
        uses: Sequence[x509.ObjectIdentifier] = (EK_USE,),
        authority: bool = False,
        more: Sequence[tuple[x509.ExtensionType, bool]] = (),
        **changes: object,
    ) -> bytes:
        """An EK certificate, DER."""
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(authority, None), True),
            (x509.ExtendedKeyUsage(list(uses)), False),
            *more,
        ]
        made = self.issue(key, subject=named(name), extensions=extensions, **changes)  # type: ignore[arg-type]
        return made.public_bytes(Encoding.DER)

    def revoked(self, *serials: int, start: int = -1000, end: int = 1000) -> bytes:
        """A revocation list, PEM, of this time unless told otherwise (seconds from NOW)."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(named(self.name))
            .last_update(moment(start))
            .next_update(moment(end))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(entry.revocation_date(moment(-5000)).build())
        made = builder.sign(self.key, hashes.SHA256(), ecdsa_deterministic=True)
        return made.public_bytes(Encoding.PEM)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)
