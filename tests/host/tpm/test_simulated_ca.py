"""The simulated authority: it passes the checks that a vendor's does, and says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from svetovid.crypto import b64encode
from svetovid.errors import HostError, ParseError
from svetovid.evidence.certificates import check_leaf, find_path, load_certificate
from svetovid.evidence.documents import TrustAnchor
from svetovid.evidence.enrolment import check_ek_certificate
from svetovid.evidence.tpm import EK_CERTIFICATE_OID
from svetovid.host.tpm import Tpm, create_ca, issue_ek_certificate
from svetovid.host.tpm.templates import EkKind


@pytest.mark.parametrize("kind", ["ecc", "rsa"])
def test_a_software_tpm_gets_a_certificate(tpm: Tpm, tmp_path: Path, kind: EkKind) -> None:
    """T3."""
    ca = create_ca(tmp_path / "ca")
    der = issue_ek_certificate(tmp_path / "ca", tpm.ek(kind))
    tpm.store_ek_certificate(der, kind)
    stored = tpm.ek_certificate(kind)
    assert stored == der
    check_ek_certificate(tpm.ek(kind), stored)
    leaf = load_certificate(der, "ek")
    now = int(leaf.not_valid_before_utc.timestamp()) + 86400
    check_leaf(leaf, "ek", now, EK_CERTIFICATE_OID)
    leaf.verify_directly_issued_by(ca.certificate)
    for certificate in (leaf, ca.certificate):
        assert "SIMULATED" in certificate.subject.rfc4514_string()
        assert "protects nothing" in certificate.subject.rfc4514_string()


def test_the_path_reaches_the_anchor_and_says_simulated(tpm: Tpm, tmp_path: Path) -> None:
    """T4."""
    ca = create_ca(tmp_path)
    der = issue_ek_certificate(ca, tpm.ek())
    leaf = load_certificate(der, "ek")
    anchor = TrustAnchor(
        kind="tpm-ek", name="simulated", certificate=b64encode(ca.der), simulated=False
    )
    path = find_path(
        [der],
        [anchor],
        prefix="ek",
        now=int(leaf.not_valid_before_utc.timestamp()) + 1,
        eku=EK_CERTIFICATE_OID,
    )
    assert path.simulated


def test_it_stays_the_same(tmp_path: Path) -> None:
    assert create_ca(tmp_path / "a").der == create_ca(tmp_path / "a").der
    assert create_ca(tmp_path / "a").der != create_ca(tmp_path / "b").der
    assert create_ca(tmp_path / "a").der != create_ca(tmp_path / "a", "tee").der
    assert (tmp_path / "a" / "tpm-ca.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("bad", [b"", b"\x00", b"junk" * 50])
def test_what_is_no_ek_gets_no_certificate(tmp_path: Path, bad: bytes) -> None:
    with pytest.raises(ParseError) as e:
        issue_ek_certificate(create_ca(tmp_path), bad)
    assert e.value.code in {"tpm.malformed", "tpm.algorithm"}


def _other_key() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("name", ["tpm-ca.key", "tpm-ca.pem"])
@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_broken_files_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    create_ca(tmp_path / "ca")
    if content is None:  # something of the right form, and not ours
        other = create_ca(tmp_path / "other").certificate.public_bytes(Encoding.PEM)
        content = other if name.endswith("pem") else _other_key()
    (tmp_path / "ca" / name).write_bytes(content)
    with pytest.raises(HostError) as e:
        create_ca(tmp_path / "ca")
    assert e.value.code == "simulated.key"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError) as e:
        create_ca(tmp_path / "file" / "ca")
    assert e.value.code == "simulated.key"


def test_serial_numbers_differ(tpm: Tpm, tmp_path: Path) -> None:
    ca, ek = create_ca(tmp_path), tpm.ek()
    serials = {
        x509.load_der_x509_certificate(issue_ek_certificate(ca, ek)).serial_number for _ in range(3)
    }
    assert len(serials) == 3
