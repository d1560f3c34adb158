"""IMA signatures, for the profile in which the kernel refuses what nobody signed.

A signature is the extended attribute ``security.ima`` in version 2 of its form: type, version,
hash, key id, length, RSASSA-PKCS1-v1_5 over the file's SHA-256 (``struct signature_v2_hdr`` in
linux/security/integrity/integrity.h). The scheme is deterministic, so one key gives one image.
"""

from __future__ import annotations

import datetime
import os
import struct
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from attested_host.lock import BuildError

__all__ = ["ATTRIBUTE", "ImaSigner", "sign_programs"]

ATTRIBUTE = "security.ima"
_DIGITAL_SIGNATURE, _VERSION, _SHA256 = 3, 2, 4
_ELF = b"\x7fELF"
_LEAST_BITS = 2048
_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "attested host image: programs")])
_FROM, _TO = datetime.datetime(2020, 1, 1), datetime.datetime(2099, 1, 1)


class ImaSigner:
    """Signs programs with one RSA key, and certifies that key for the kernel's keyring."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        self._id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())

    @classmethod
    def read(cls, path: Path) -> ImaSigner:
        """The key in a PEM file.

        Raises:
            BuildError: where there is none that will do.
        """
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise BuildError(f"{path} holds no private key in the clear: {e}") from e
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < _LEAST_BITS:
            raise BuildError(f"{path}: the kernel needs an RSA key of {_LEAST_BITS} bits or more")
        return cls(key)

    def certificate(self) -> bytes:
        """DER, signed by the key itself: the kernel finds a key by the identifier inside."""
        builder = x509.CertificateBuilder(_NAME, _NAME, self._key.public_key(), 1, _FROM, _TO)
        builder = builder.add_extension(self._id, critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.DER)

    def signature(self, content: bytes) -> bytes:
        """The value of ``security.ima`` for a file of this content."""
        signed = self._key.sign(content, padding.PKCS1v15(), hashes.SHA256())
        head = struct.pack(">BBB4sH", _DIGITAL_SIGNATURE, _VERSION, _SHA256, self._id.digest[-4:],
                           len(signed))  # fmt: skip
        return head + signed


def sign_programs(folder: Path, signer: ImaSigner) -> int:
    """Sign every file with machine code below ``folder``; how many there are.

    Raises:
        BuildError: where the attribute cannot be set, which takes root.
    """
    count = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        with path.open("rb") as f:
            if f.read(len(_ELF)) != _ELF:
                continue
        try:
            os.setxattr(path, ATTRIBUTE, signer.signature(path.read_bytes()))
        except OSError as e:
            raise BuildError(f"signing programs takes root: {ATTRIBUTE} of {path}: {e}") from e
        count += 1
    return count
