"""Certificates of both ends of a link: made once, and pinned by their SHA-256."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from svetovid.crypto import digest
from svetovid.crypto.private import write_private
from svetovid.crypto.self_signed import self_signed
from svetovid.errors import InputError, IntegrityError

__all__ = ["context", "fingerprint", "make_certificate", "mismatch", "read_certificate"]

_MAX_BYTES = 64 << 10


def make_certificate(path: Path) -> str:
    """Write a new P-256 key with its self-signed certificate to ``path``, for its owner alone, and
    the certificate to the same path with the suffix ``.crt``, for the other side.

    Returns:
        What the other side pins: ``sha256:`` and the hex SHA-256 of the certificate.
    """
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    key, certificate = self_signed("svetovid link", uses, now=int(time.time()))
    pem = certificate.public_bytes(Encoding.PEM)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(path, secret + pem)
    path.with_suffix(".crt").write_bytes(pem)
    return digest(certificate.public_bytes(Encoding.DER))


def read_certificate(path: Path, identity: str) -> bytes:
    """The certificate in a PEM file, as DER, where it is the one that is pinned.

    Args:
        identity: ``sha256:`` and its hex SHA-256, as the configuration names it.

    Raises:
        InputError: ``worker.certificate_file``: it cannot be read.
        IntegrityError: ``worker.certificate``: it is another one.
    """
    der = _read(path)
    if digest(der) != identity:
        raise mismatch(identity, digest(der))
    return der


def fingerprint(path: Path) -> str:
    """What others pin of the certificate in a PEM file: ``sha256:`` and its hex SHA-256.

    Raises:
        InputError: ``worker.certificate_file``.
    """
    return digest(_read(path))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            found = x509.load_pem_x509_certificate(file.read(_MAX_BYTES))
    except (OSError, ValueError) as e:
        raise _unread(path, e) from e
    return found.public_bytes(Encoding.DER)


def context(own: Path, peer: bytes | None = None) -> ssl.SSLContext:
    """TLS 1.3 with certificates on both sides, of which one alone is trusted.

    Args:
        own: our key and certificate, as :func:`make_certificate` writes them.
        peer: where we are called, the only certificate that may be shown, DER. Whoever calls is
            shown one in any case, and holds it against its pin before a word is said.

    Raises:
        InputError: ``worker.certificate_file``: ``own`` cannot be read.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if peer is None else ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # the pin is this very certificate, whatever its name and issuer
    made.verify_mode = ssl.CERT_NONE
    if peer is not None:
        made.verify_mode = ssl.CERT_REQUIRED
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be self-signed
        made.load_verify_locations(cadata=peer)
        made.num_tickets = 0  # every connection shows its certificate
    try:
        made.load_cert_chain(own, password=lambda: b"")
    except OSError as e:
        raise _unread(own, e) from e
    return made


def mismatch(identity: str, observed: str) -> IntegrityError:
    """The other side shows another certificate than the one that is pinned."""
    return IntegrityError(
        "worker.certificate",
        expected=f"the certificate {identity}",
        observed=observed,
        next_step="pin the certificate that the operator gave you, by a way that you trust",
    )


def _unread(path: Path, why: Exception) -> InputError:
    return InputError(
        "worker.certificate_file",
        expected="a PEM file with a certificate, and with its key where it is one's own",
        observed=f"{path}: {why}",
        next_step="make a worker's with `svetovid worker create`; a host's is published as "
        "NAME.link.crt",
    )
