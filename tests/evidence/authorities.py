"""Certificate authorities and device certificates, one change at a time."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from svetovid.crypto.canonical import b64encode
from svetovid.evidence.documents import TrustAnchor, TrustAnchors

NOW = 1_800_000_000
_START = dt.datetime.fromtimestamp(NOW - 1000, dt.UTC)
_END = dt.datetime.fromtimestamp(NOW + 1000, dt.UTC)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
EK_EKU = x509.ObjectIdentifier("2.23.133.8.1")


def dn(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


@dataclass
class Authority:
    """A CA with a P-256 key; ``parent`` None makes a root."""

    name: str = "Vendor root"
    parent: Authority | None = None
    ca: bool | None = True
    path_length: int | None = None
    cert_sign: bool | None = True
    start: dt.datetime = _START
    end: dt.datetime = _END

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = []
        if self.ca is not None:
            length = self.path_length if self.ca else None
            extensions.append((x509.BasicConstraints(self.ca, length), True))
        if self.cert_sign is not None:
            flags = dict.fromkeys(_USAGES, False)
            extensions.append((x509.KeyUsage(key_cert_sign=self.cert_sign, **flags), True))
        issuer = self.parent or self
        self.certificate = issuer.issue(
            self.key.public_key(),
            subject=dn(self.name),
            extensions=extensions,
            start=self.start,
            end=self.end,
        )

    def issue(
        self,
        key: object,
        *,
        subject: x509.Name | None = None,
        extensions: object = (),
        start: dt.datetime = _START,
        end: dt.datetime = _END,
        hash_algorithm: hashes.HashAlgorithm | None = None,
        issuer: x509.Name | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(dn("device") if subject is None else subject)
            .issuer_name(issuer or dn(self.name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        return builder.sign(self.key, hash_algorithm or hashes.SHA256())

    def leaf(self, key: object, *, eku: object = (EK_EKU,), **changes: object) -> bytes:
        extensions = list(changes.pop("extensions", [(x509.BasicConstraints(False, None), True)]))
        if eku is not None:
            extensions.append((x509.ExtendedKeyUsage(list(eku)), False))
        return der(self.issue(key, extensions=extensions, **changes))

    @property
    def der(self) -> bytes:
        return der(self.certificate)

    def anchor(self, kind: str = "tpm-ek", simulated: bool = False) -> TrustAnchor:
        return TrustAnchor(
            kind=kind, name=self.name, certificate=b64encode(self.der), simulated=simulated
        )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def anchors(*items: TrustAnchor) -> TrustAnchors:
    return TrustAnchors(product="vendors", version=1, anchors=items)
