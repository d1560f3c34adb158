"""A certificate authority for devices that are software, named so that nobody can mistake it.

Whoever runs the host reads the keys of a software TPM or a simulated TEE, and this authority's as
well. It exists so that tests and the embedded default go through the same checks as hardware does;
an owner's trust anchors mark it ``simulated``, and the verdict repeats that (T4).
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID, ObjectIdentifier

from svetovid.crypto.private import write_private
from svetovid.errors import HostError
from svetovid.evidence.tpm import EK_CERTIFICATE_OID
from svetovid.evidence.tpm.names import public_key
from svetovid.evidence.tpm.structures import parse_public

__all__ = ["CA_NAMES", "CaKind", "SimulatedCa", "create_ca", "issue_ek_certificate"]

CaKind = Literal["tpm", "tee"]
CA_NAMES: dict[CaKind, str] = {
    "tpm": "Svetovid SIMULATED TPM CA, protects nothing",
    "tee": "Svetovid SIMULATED TEE CA, protects nothing",
}
_EK_NAME = "Svetovid SIMULATED TPM, protects nothing"
_YEARS = datetime.timedelta(days=20 * 365)
_BACKDATE = datetime.timedelta(days=1)
"""So that a verifier whose clock is somewhat behind still accepts a fresh certificate."""
_TPM_MANUFACTURER = ObjectIdentifier("2.23.133.2.1")
_TPM_MODEL = ObjectIdentifier("2.23.133.2.2")
_TPM_VERSION = ObjectIdentifier("2.23.133.2.3")

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class SimulatedCa:
    """The authority's key and its self-signed certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """The authority's own certificate."""
        return self.certificate.public_bytes(Encoding.DER)


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def builder(subject: x509.Name, issuer: x509.Name, key: PublicKey) -> x509.CertificateBuilder:
    """What every certificate made here has in common."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _YEARS)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def usage(
    *, sign: bool = False, agree: bool = False, encrypt: bool = False, ca: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=encrypt,
        data_encipherment=False,
        key_agreement=agree,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def load_or_make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key at ``path``; made, mode 0600, where there is none.

    Raises:
        HostError: ``simulated.key`` where the file holds something else.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_private(path, pem)
            return key
        loaded = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise _bad_file(path, e) from e
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise _bad_file(path, "another kind of key")
    return loaded


def load_certificate(path: Path, key: PublicKey) -> x509.Certificate:
    """The certificate of ``key`` at ``path``.

    Raises:
        HostError: ``simulated.key`` where the file holds none.
    """
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        same = certificate.public_key() == key
    except (OSError, ValueError, UnsupportedAlgorithm) as e:
        raise _bad_file(path, e) from e
    if not same:
        raise _bad_file(path, "the certificate of another key")
    return certificate


def load_or_make_certificate(path: Path, made: x509.Certificate) -> x509.Certificate:
    """The certificate at ``path``, or ``made``, now stored there.

    Raises:
        HostError: ``simulated.key`` where the file holds no certificate of this key.
    """
    if path.exists():
        key = made.public_key()
        assert isinstance(key, PublicKey)
        return load_certificate(path, key)
    try:
        write_private(path, made.public_bytes(Encoding.PEM))
    except OSError as e:
        raise _bad_file(path, e) from e
    return made


def _bad_file(path: Path, observed: object) -> HostError:
    return HostError(
        "simulated.key",
        expected=f"a key or certificate of the simulator at {path}",
        observed=observed,
        next_step="remove the folder; the simulated host must then be enrolled again",
    )


def create_ca(folder: Path, kind: CaKind = "tpm") -> SimulatedCa:
    """The simulated authority in ``folder`` (``tpm-ca.key``, ``tpm-ca.pem``); made at first use.

    Raises:
        HostError: ``simulated.key``.
    """
    key = load_or_make_key(folder / f"{kind}-ca.key")
    subject = common_name(CA_NAMES[kind])
    made = (
        builder(subject, subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return SimulatedCa(key, load_or_make_certificate(folder / f"{kind}-ca.pem", made))


def issue_ek_certificate(ca: SimulatedCa | Path, ek_public: bytes) -> bytes:
    """DER of an EK certificate (TCG EK Credential Profile 2.5, section 3.2) for a software TPM.

    Args:
        ca: the authority, or the folder it is kept in.
        ek_public: TPMT_PUBLIC of the EK.

    Raises:
        ParseError: ``tpm.malformed``, ``tpm.algorithm`` for what is no public key of a TPM.
    """
    if isinstance(ca, Path):
        ca = create_ca(ca)
    key = public_key(parse_public(ek_public))
    device = x509.Name(
        [
            x509.NameAttribute(_TPM_MANUFACTURER, "id:00000000"),
            x509.NameAttribute(_TPM_MODEL, "SIMULATED"),
            x509.NameAttribute(_TPM_VERSION, "id:00000000"),
        ]
    )
    ecc = isinstance(key, ec.EllipticCurvePublicKey)
    return (
        builder(common_name(_EK_NAME), ca.certificate.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(agree=ecc, encrypt=not ecc), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ObjectIdentifier(EK_CERTIFICATE_OID)]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DirectoryName(device)]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()),
            critical=False,
        )
        .sign(ca.key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
