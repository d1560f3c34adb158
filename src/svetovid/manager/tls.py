"""The manager's TLS certificate: self-signed, pinned by stakeholders, TLS 1.3 only (T1)."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from svetovid.crypto import Secret
from svetovid.crypto.private import write_private
from svetovid.crypto.self_signed import self_signed

__all__ = ["make_certificate", "server_context"]


def _password(key: Secret) -> bytes:
    return key.reveal().hex().encode("ascii")


def make_certificate(path: Path, host: str, key_password: Secret, now: int) -> None:
    """Write a P-256 key (PKCS#8, encrypted) and its certificate to ``path``, mode 0600."""
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    key, certificate = self_signed(
        "svetovid manager", [ExtendedKeyUsageOID.SERVER_AUTH], names=names, now=now
    )
    pem = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(_password(key_password))
    )
    write_private(path, pem + certificate.public_bytes(Encoding.PEM))


def server_context(path: Path, key_password: Secret) -> tuple[ssl.SSLContext, bytes]:
    """A TLS 1.3 server context from what :func:`make_certificate` wrote, and the DER certificate.

    No session tickets: a resumed session would carry an older handshake's standing (C7).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(path, password=lambda: _password(key_password))
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return context, certificate.public_bytes(Encoding.DER)
