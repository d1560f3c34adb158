"""What operators and publishers sign, and what names stand for."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from svetovid import stakeholder
from svetovid.crypto import Identity, b64decode, sign
from svetovid.errors import InputError, IntegrityError, LimitError
from svetovid.evidence.documents import HostStatement, ReferenceValues
from svetovid.stakeholder import Stakeholder, read_document, read_names, write_public
from svetovid.stakeholder import names as names_module
from svetovid.stakeholder.sealing import deposit_key, seal_asset


def _certificate() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A CA")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def test_anchors_from_pem_and_der(tmp_path: Path) -> None:
    certificate = _certificate()
    (tmp_path / "a.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (tmp_path / "a.der").write_bytes(certificate.public_bytes(Encoding.DER))
    made = stakeholder.make_anchors(
        [tmp_path / "a.pem", tmp_path / "a.der"],
        kind="tee",
        product="vendors",
        version=2,
        simulated=True,
    )
    der = certificate.public_bytes(Encoding.DER)
    assert [b64decode(a.certificate) for a in made.anchors] == [der, der]
    assert {(a.kind, a.simulated, a.name) for a in made.anchors} == {("tee", True, "CN=A CA")}
    (tmp_path / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n")
    with pytest.raises(InputError, match=r"anchors\.certificate"):
        stakeholder.make_anchors(
            [tmp_path / "bad.pem"], kind="tee", product="x", version=1, simulated=False
        )


def test_only_the_named_operator_signs_for_a_host(
    ann: Stakeholder, home: Callable[[str], Stakeholder]
) -> None:
    """T3."""
    request = HostStatement(
        host="lab",
        operator=ann.key_id,
        machine_owner="ann",
        kind="tpm",
        device="sha256:" + "0" * 64,
        agent=Identity.generate("agent").key_id,
        issued_at=1,
    )
    signed = stakeholder.sign_host_statement(ann, request)
    assert signed.open(HostStatement, by=ann.key_id) == request
    with pytest.raises(InputError, match=r"host\.operator"):
        stakeholder.sign_host_statement(home("bob"), request)


def test_a_key_goes_only_to_the_manager_in_the_manifest(
    ann: Stakeholder, data: Path, tmp_path: Path
) -> None:
    """T1."""
    manifest = seal_asset(ann, data)
    other = manifest.model_copy(update={"manager": Identity.generate("other").key_id})
    with pytest.raises(InputError, match=r"asset\.manager"):
        deposit_key(ann, other)
    with pytest.raises(InputError, match=r"name\.invalid"):
        seal_asset(ann, data, name="Ünsound")


def test_a_name_with_two_meanings(ann: Stakeholder, public: Path) -> None:
    for version in (1, 2):
        values = ReferenceValues(product="ann" if version == 2 else "rt", version=version)
        write_public(public / f"v{version}.references.json", values)
    with pytest.raises(InputError, match=r"names\.ambiguous"):
        read_names(public)


def test_names_are_bounded_and_other_files_left_alone(
    ann: Stakeholder, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (public / "notes.txt").write_text("x")
    (public / "a.statement.json").write_text("not read")
    (public / "old.v1.sealed.manifest.json").write_text("not read either")
    assert read_names(public).digests == {"ann": ann.key_id}
    assert read_names(public / "none").digests == {}
    monkeypatch.setattr(names_module, "MAX_PUBLIC_FILES", 1)
    with pytest.raises(LimitError, match=r"names\.files"):
        read_names(public)


def test_signed_documents_must_hold(tmp_path: Path, ann: Stakeholder) -> None:
    values = ReferenceValues(product="rt", version=1)
    signed = sign(values, ann.identity)
    (tmp_path / "good.json").write_bytes(signed.canonical())
    assert read_document(tmp_path / "good.json", ReferenceValues) == values
    other = sign(ReferenceValues(product="rt", version=2), ann.identity)
    forged = signed.model_copy(update={"payload": other.payload})
    (tmp_path / "forged.json").write_bytes(forged.canonical())
    with pytest.raises(IntegrityError, match=r"signature\.invalid"):
        read_document(tmp_path / "forged.json", ReferenceValues)


def test_all_is_complete_and_sorted() -> None:
    assert stakeholder.__all__ == sorted(stakeholder.__all__)
    for name in stakeholder.__all__:
        assert getattr(stakeholder, name).__doc__, name


@pytest.mark.parametrize("kind", ["card", "manifest", "anchors", "references"])
def test_a_bad_file_in_the_public_folder_is_named(public: Path, kind: str) -> None:
    public.mkdir()
    (public / f"bad.{kind}.json").write_text("{}")
    with pytest.raises(InputError) as e:
        read_names(public)
    assert e.value.reason.clause == str(public / f"bad.{kind}.json")
