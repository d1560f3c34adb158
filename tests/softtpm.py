"""A software TPM of a few lines, written from the TCG specifications, for tests with many hosts.

It behaves: keys of ``cryptography``, a SHA-256 bank, a measurement log in ``ima-ng`` form, answers
to credential activation (part 1, section 24); :mod:`tpmbytes` packs what it says. The one that lies
is :mod:`evidence.forger`. Like every software TPM it protects nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from evidence.ima_bytes import fields, raw_entry
from tpmbytes import (
    AK_ATTRIBUTES,
    ECDSA,
    SHA256,
    QuoteForm,
    bitmap,
    ecc_public,
    ecdsa_signature,
    ek_public,
    name,
    qualified,
)

SELECTION = tuple(range(15))
"""The PCRs that a host quotes."""
_P256 = ec.SECP256R1()
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")


def _x(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_numbers().x.to_bytes(32, "big")


@dataclass
class SoftCa:
    """A certificate authority for EKs."""

    name: str = "soft TPM maker"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(_P256))

    def __post_init__(self) -> None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        ski = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime(2020, 1, 1))
            .not_valid_after(datetime.datetime(2050, 1, 1))
            .add_extension(x509.BasicConstraints(True, 0), critical=True)
            .add_extension(ski, critical=False)
            .add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False), True
            )
            .sign(self.key, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def issue(self, key: ec.EllipticCurvePublicKey) -> bytes:
        """An EK certificate after the TCG EK credential profile."""
        maker = x509.Name(
            [
                x509.NameAttribute(ObjectIdentifier("2.23.133.2.1"), "id:00001014"),
                x509.NameAttribute(ObjectIdentifier("2.23.133.2.2"), "soft"),
                x509.NameAttribute(ObjectIdentifier("2.23.133.2.3"), "id:00010000"),
            ]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime(2020, 1, 1))
            .not_valid_after(datetime.datetime(2049, 1, 1))
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DirectoryName(maker)]), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ObjectIdentifier("2.23.133.8.1")]), critical=False
            )
            .add_extension(
                x509.KeyUsage(False, False, False, False, True, False, False, False, False), True
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.DER)


class SoftTpm:
    """One device: an EK with its certificate, an AK, a SHA-256 bank, a measurement log."""

    def __init__(self, ca: SoftCa) -> None:
        self._ek = ec.generate_private_key(_P256)
        self._ak = ec.generate_private_key(_P256)
        self.ek_certificate = ca.issue(self._ek.public_key())
        self.pcrs = [bytes(32)] * 24
        self.reset_count = 1
        self.restart_count = 0
        self.clock = 1_000
        self.entries: list[bytes] = []

    @property
    def ek_public(self) -> bytes:
        return ek_public(self._ek, policy=_EK_POLICY)

    @property
    def ak_public(self) -> bytes:
        return ecc_public(self._ak, attributes=AK_ATTRIBUTES)

    def measure(self, path: str, content_digest: str) -> None:
        """Append one ``ima-ng`` entry for ``path`` and extend PCR 10."""
        file_digest = bytes.fromhex(content_digest.removeprefix("sha256:"))
        data = fields(b"sha256:\0" + file_digest, path.encode() + b"\0")
        self.entries.append(raw_entry(body=data))
        self.pcrs[10] = hashlib.sha256(self.pcrs[10] + hashlib.sha256(data).digest()).digest()

    def log(self, offset: int = 0) -> bytes:
        return b"".join(self.entries[offset:])

    def reset(self) -> None:
        """What a reboot does."""
        self.reset_count += 1
        self.restart_count = 0
        self.pcrs = [bytes(32)] * 24
        self.entries = []

    def quote(self, qualifying: bytes, selection: tuple[int, ...]) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and TPMT_SIGNATURE over the PCRs in ``selection``."""
        self.clock += 1
        digest = hashlib.sha256(b"".join(self.pcrs[n] for n in sorted(selection))).digest()
        attest = QuoteForm(
            qualified(self.ak_public, qualified(self.ek_public)),
            qualifying,
            digest,
            (bitmap(selection),),
            clock=self.clock,
            resets=self.reset_count,
            restarts=self.restart_count,
        ).pack()
        head = struct.pack(">HH", ECDSA, SHA256)
        return attest, head + ecdsa_signature(self._ak, attest, hashes.SHA256())

    def activate(self, credential: bytes, secret: bytes) -> bytes:
        """TPM2_ActivateCredential for the AK under the EK (part 1, 24 and C.6.1).

        Args:
            credential: TPM2B_ID_OBJECT.
            secret: TPM2B_ENCRYPTED_SECRET.
        """
        point = secret[2:]
        size = struct.unpack(">H", point[:2])[0]
        x, rest = point[2 : 2 + size], point[2 + size :]
        y = rest[2 : 2 + struct.unpack(">H", rest[:2])[0]]
        numbers = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), _P256
        )
        z = self._ek.exchange(ec.ECDH(), numbers.public_key())
        party = x.rjust(32, b"\x00") + _x(self._ek)
        seed = hashlib.sha256(struct.pack(">I", 1) + z + b"IDENTITY\x00" + party).digest()
        ak_name = name(self.ak_public)
        mac_key = _kdfa(seed, b"INTEGRITY", b"", 256)
        body = credential[2:]
        mac_size = struct.unpack(">H", body[:2])[0]
        mac, encrypted = body[2 : 2 + mac_size], body[2 + mac_size :]
        if not hmac.compare_digest(
            mac, hmac.new(mac_key, encrypted + ak_name, hashlib.sha256).digest()
        ):
            raise ValueError("TPM_RC_INTEGRITY: not for this AK")
        key = _kdfa(seed, b"STORAGE", ak_name, 128)
        opened = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor().update(encrypted)
        return opened[2 : 2 + struct.unpack(">H", opened[:2])[0]]


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    data = struct.pack(">I", 1) + label + b"\x00" + context + struct.pack(">I", bits)
    return hmac.new(key, data, hashlib.sha256).digest()[: bits // 8]
