"""The simulated TEE: it passes verification, and says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from svetovid.crypto import b64encode
from svetovid.errors import EvidenceError, HostError, ParseError
from svetovid.evidence.certificates import find_path
from svetovid.evidence.documents import TrustAnchor
from svetovid.evidence.tee import verify_report
from svetovid.host.tee import SVN, SimulatedTee
from svetovid.host.tpm import create_ca

MEASUREMENT = "sha256:" + "ab" * 32


def test_a_report_verifies(tmp_path: Path) -> None:
    tee = SimulatedTee.create(tmp_path / "tee", tmp_path / "ca")
    report, signature = tee.report(b"\x01" * 32, MEASUREMENT)
    (leaf,) = tee.certificates()
    said = verify_report(report, signature, certificate=leaf, report_data=b"\x01" * 32)
    assert (said.measurement, said.debug, said.svn) == (MEASUREMENT, False, SVN)
    with pytest.raises(EvidenceError):
        verify_report(report, signature, certificate=leaf, report_data=b"\x02" * 32)


def test_the_chain_says_simulated_whatever_the_anchor_says(tmp_path: Path) -> None:
    """T4."""
    (leaf,) = SimulatedTee.create(tmp_path / "tee", tmp_path / "ca").certificates()
    certificate = x509.load_der_x509_certificate(leaf)
    ca = create_ca(tmp_path / "ca", "tee")
    for subject in (certificate.subject, certificate.issuer):
        assert "SIMULATED" in subject.rfc4514_string()
    anchor = TrustAnchor(kind="tee", name="x", certificate=b64encode(ca.der), simulated=False)
    now = int(certificate.not_valid_before_utc.timestamp()) + 1
    assert find_path([leaf], [anchor], prefix="tee", now=now).simulated


def test_the_device_stays_the_same(tmp_path: Path) -> None:
    first = SimulatedTee.create(tmp_path / "tee", tmp_path / "ca").certificates()
    assert SimulatedTee.create(tmp_path / "tee", tmp_path / "ca").certificates() == first
    assert SimulatedTee(tmp_path / "tee").certificates() == first
    assert (tmp_path / "tee" / "tee.key").stat().st_mode & 0o777 == 0o600


def test_no_device(tmp_path: Path) -> None:
    with pytest.raises(HostError) as e:
        SimulatedTee(tmp_path)
    assert e.value.code == "simulated.key"


@pytest.mark.parametrize("measurement", ["", "sha256:xyz", "md5:" + "0" * 32])
def test_a_measurement_is_a_digest(tmp_path: Path, measurement: str) -> None:
    tee = SimulatedTee.create(tmp_path / "tee", tmp_path / "ca")
    with pytest.raises(ParseError) as e:
        tee.report(bytes(32), measurement)
    assert e.value.code == "document.invalid"
