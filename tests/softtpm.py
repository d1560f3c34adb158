"""A software TPM of a few lines, written from the TCG specifications, for tests with many hosts.

It makes TPMT_PUBLIC, TPMS_ATTEST and TPMT_SIGNATURE (TPM 2.0 part 2) with keys of
``cryptography``, keeps a SHA-256 bank, a measurement log in ``ima-ng`` form, and answers credential
activation (part 1, section 24). Like every software TPM it protects nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

_P256 = ec.SECP256R1()
_ENDORSEMENT = bytes.fromhex("4000000B")
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
EK_ATTRIBUTES = 0x000300B2
AK_ATTRIBUTES = 0x00050072


def b2(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _xy(key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    n = key.public_key().public_numbers()
    return n.x.to_bytes(32, "big"), n.y.to_bytes(32, "big")


def name_of(public: bytes) -> bytes:
    return b"\x00\x0b" + hashlib.sha256(public).digest()


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
            .sign(self.key, SHA256())
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
            .sign(self.key, SHA256())
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
        x, y = _xy(self._ek)
        head = struct.pack(">HHI", 0x0023, 0x000B, EK_ATTRIBUTES) + b2(_EK_POLICY)
        parms = struct.pack(">HHH", 0x0006, 128, 0x0043) + struct.pack(">HHH", 0x0010, 3, 0x0010)
        return head + parms + b2(x) + b2(y)

    @property
    def ak_public(self) -> bytes:
        x, y = _xy(self._ak)
        head = struct.pack(">HHI", 0x0023, 0x000B, AK_ATTRIBUTES) + b2(b"")
        parms = struct.pack(">H", 0x0010) + struct.pack(">HHHH", 0x0018, 0x000B, 3, 0x0010)
        return head + parms + b2(x) + b2(y)

    def measure(self, path: str, content_digest: str) -> None:
        """Append one ``ima-ng`` entry for ``path`` and extend PCR 10."""
        file_digest = bytes.fromhex(content_digest.removeprefix("sha256:"))
        d_ng = b"sha256:\x00" + file_digest
        n_ng = path.encode() + b"\x00"
        data = struct.pack("<I", len(d_ng)) + d_ng + struct.pack("<I", len(n_ng)) + n_ng
        self.entries.append(
            struct.pack("<I", 10)
            + hashlib.sha1(data).digest()
            + struct.pack("<I", 6)
            + b"ima-ng"
            + struct.pack("<I", len(data))
            + data
        )
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
        bits = bytearray(3)
        for n in selection:
            bits[n // 8] |= 1 << (n % 8)
        digest = hashlib.sha256(b"".join(self.pcrs[n] for n in sorted(selection))).digest()
        parent = hashlib.sha256(_ENDORSEMENT + name_of(self.ek_public)).digest()
        signer = hashlib.sha256(b"\x00\x0b" + parent + name_of(self.ak_public)).digest()
        attest = (
            struct.pack(">IH", 0xFF544347, 0x8018)
            + b2(b"\x00\x0b" + signer)
            + b2(qualifying)
            + struct.pack(">QIIB", self.clock, self.reset_count, self.restart_count, 1)
            + struct.pack(">Q", 0x20191023)
            + struct.pack(">IHB", 1, 0x000B, 3)
            + bytes(bits)
            + b2(digest)
        )
        r, s = decode_dss_signature(self._ak.sign(attest, ec.ECDSA(SHA256())))
        signature = struct.pack(">HH", 0x0018, 0x000B)
        return attest, signature + b2(r.to_bytes(32, "big")) + b2(s.to_bytes(32, "big"))

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
        ek_x, _ = _xy(self._ek)
        x = x.rjust(32, b"\x00")
        seed = hashlib.sha256(struct.pack(">I", 1) + z + b"IDENTITY\x00" + x + ek_x).digest()
        name = name_of(self.ak_public)
        mac_key = _kdfa(seed, b"INTEGRITY", b"", 256)
        body = credential[2:]
        mac_size = struct.unpack(">H", body[:2])[0]
        mac, encrypted = body[2 : 2 + mac_size], body[2 + mac_size :]
        if not hmac.compare_digest(
            mac, hmac.new(mac_key, encrypted + name, hashlib.sha256).digest()
        ):
            raise ValueError("TPM_RC_INTEGRITY: not for this AK")
        key = _kdfa(seed, b"STORAGE", name, 128)
        opened = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor().update(encrypted)
        return opened[2 : 2 + struct.unpack(">H", opened[:2])[0]]


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    data = struct.pack(">I", 1) + label + b"\x00" + context + struct.pack(">I", bits)
    return hmac.new(key, data, hashlib.sha256).digest()[: bits // 8]
