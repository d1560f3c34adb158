"""A SIMULATED trusted execution environment. It protects nothing: its key lies in a file.

It stands where SGX, TDX and SNP will, behind the same seam, with a key chain of its own whose
subjects say SIMULATED; an owner's policy refuses it unless it names it (T4).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from svetovid.errors import HostError
from svetovid.evidence.tee import SimulatedReport
from svetovid.host.tpm.simulated_ca import (
    builder,
    common_name,
    create_ca,
    load_certificate,
    load_or_make_certificate,
    load_or_make_key,
    usage,
)

__all__ = ["SVN", "SimulatedTee"]

SVN = 1
_NAME = "Svetovid SIMULATED TEE, protects nothing"


class SimulatedTee:
    """The simulated device kept in ``folder`` (``tee.key``, ``tee.pem``).

    Raises:
        HostError: ``simulated.key`` where :meth:`create` has not made it, or its files are bad.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "tee.key").exists():
            raise HostError(
                "simulated.key",
                expected=f"a simulated TEE in {folder}",
                observed="none",
                next_step="make one: SimulatedTee.create(folder, ca_folder)",
            )
        self._key = load_or_make_key(folder / "tee.key")
        self._certificate = load_certificate(folder / "tee.pem", self._key.public_key())

    @classmethod
    def create(cls, folder: Path, ca_folder: Path) -> Self:
        """Make a device, certified by the simulated TEE authority in ``ca_folder``.

        What is there already stays.

        Raises:
            HostError: ``simulated.key``.
        """
        ca = create_ca(ca_folder, "tee")
        key = load_or_make_key(folder / "tee.key")
        made = (
            builder(common_name(_NAME), ca.certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(sign=True), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()),
                critical=False,
            )
            .sign(ca.key, hashes.SHA256())
        )
        load_or_make_certificate(folder / "tee.pem", made)
        return cls(folder)

    @property
    def device(self) -> str:
        """What an operator's statement names it by: digest of its SubjectPublicKeyInfo."""
        spki = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return "sha256:" + hashlib.sha256(spki).hexdigest()

    def certificates(self) -> tuple[bytes, ...]:
        """DER, leaf first, without the authority's own: that is for an owner's anchors to bring."""
        return (self._certificate.public_bytes(Encoding.DER),)

    def report(self, report_data: bytes, measurement: str) -> tuple[bytes, bytes]:
        """A report and its signature (ECDSA P-256, SHA-256, DER).

        Args:
            report_data: 32 bytes; :func:`svetovid.evidence.documents.binding` (T6).
            measurement: digest of what runs inside; a real TEE would measure it by itself.

        Raises:
            ParseError: ``document.invalid`` for values of another form.
        """
        said = SimulatedReport.from_json(
            {
                "measurement": measurement,
                "report_data": report_data.hex(),
                "debug": False,
                "svn": SVN,
            }
        )
        report = said.canonical()
        return report, self._key.sign(report, ec.ECDSA(hashes.SHA256()))
