"""I5, I6, I8: whose TPM it is, by a reader's authorities and their revocation lists."""

from __future__ import annotations

import contextlib
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.authorities import EK_EKU, NOW, Authority, dn
from evidence.forger import RSA_EK
from evidence.recordings import Recording, claim, codes
from evidence.test_boot_log import public
from svetovid.errors import InputError, SvetovidError
from svetovid.evidence.certificates import load_certificate
from svetovid.evidence.recorded import read_authorities
from svetovid.evidence.revocation import check_revocation, load_crl


def moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(NOW + seconds, dt.UTC)


def pem(*things: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return b"".join(t.public_bytes(Encoding.PEM) for t in things)


def crl(
    by: Authority,
    *serials: int,
    start: int = -10,
    end: int = 10,
    name: x509.Name | None = None,
    hash_algorithm: hashes.HashAlgorithm | None = None,
    extension: x509.ExtensionType | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name or dn(by.name))
        .last_update(moment(start))
        .next_update(moment(end))
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial)
        builder = builder.add_revoked_certificate(revoked.revocation_date(moment(5)).build())
    return builder.sign(key or by.key, hash_algorithm or hashes.SHA256())


class Vendor:
    """A root that signs lists, an authority below it, and a recording of a TPM of theirs."""

    def __init__(self) -> None:
        self.root = Authority("Vendor root", cert_sign=None)
        self.middle = Authority("Vendor issuing", parent=self.root, cert_sign=None)
        self.recording = Recording(root=self.middle)
        self.leaf = load_certificate(self.recording.certificates[0], "ek")

    def judged(self, *given: object, now: int = NOW):
        authorities = read_authorities(pem(*given))  # type: ignore[arg-type]
        return self.recording.judged(wants={"authorities": authorities, "now": now})

    @property
    def both(self) -> tuple[x509.Certificate, x509.Certificate]:
        return self.root.certificate, self.middle.certificate


def test_a_chain_to_the_given_authority():
    v = Vendor()
    assert v.judged(*v.both).affirmed
    assert v.judged(v.middle.certificate).affirmed
    assert codes(v.judged(v.root.certificate)) == {"ek.untrusted"}
    v.recording.certificates.append(v.middle.der)
    assert v.judged(v.root.certificate).affirmed


def test_without_authorities_nothing_is_affirmed():
    verdict = Recording().judged(wants={"authorities": None})
    assert codes(verdict) == {"ek.unanchored"}
    assert verdict.simulated


def test_i5_the_time_is_the_readers():
    v = Vendor()
    assert "ek.expired" in codes(v.judged(*v.both, now=NOW + 2000))
    assert "ek.expired" in codes(v.judged(*v.both, now=NOW - 2000))


def test_a_maker_that_is_not_covered_is_named():
    """A vendor's name is the certificate's own word: it helps to find the authority."""
    root, other = Authority("Known"), Authority("Unknown")
    said = x509.Name([x509.NameAttribute(x509.ObjectIdentifier("2.23.133.2.1"), "id:49465800")])
    names = x509.SubjectAlternativeName([x509.DirectoryName(said)])
    r = Recording(root=other)
    r.certificates = [other.leaf(RSA_EK.public_key(), extensions=[(names, True)])]
    bad = r.judged(wants={"authorities": read_authorities(pem(root.certificate))})
    assert codes(bad) == {"ek.untrusted"}
    assert "Infineon" in claim(bad, "ek.chain").observed
    good = r.judged(wants={"authorities": read_authorities(pem(other.certificate))})
    assert good.affirmed
    assert "Infineon" in claim(good, "ek.chain").observed


def test_i8_a_software_tpms_authority_is_simulated():
    root = Authority("swtpm-localca")
    verdict = Recording(root=root).judged()
    assert verdict.affirmed
    assert verdict.simulated


# -- revocation


def test_i5_a_revoked_certificate():
    """Whatever the date of the entry; a list of nobody revokes nobody."""
    v = Vendor()
    serial = v.leaf.serial_number
    assert codes(v.judged(*v.both, crl(v.middle, serial))) == {"ek.revoked"}
    assert v.judged(*v.both, crl(v.middle, serial + 1)).affirmed
    assert v.judged(*v.both, crl(Authority("Nobody"), serial)).affirmed


def test_i5_a_revoked_authority():
    """Trusting the issuing authority itself does not pass over what its root says of it."""
    v = Vendor()
    lists = (crl(v.root, v.middle.certificate.serial_number), crl(v.middle))
    assert codes(v.judged(*v.both, *lists)) == {"ek.revoked"}


def test_an_issuer_without_a_list_is_named():
    v = Vendor()
    verdict = v.judged(*v.both, crl(v.middle))
    assert verdict.affirmed
    assert claim(verdict, "ek.revocation").ok is None
    assert "Vendor root" in claim(verdict, "ek.revocation").observed
    verdict = v.judged(*v.both, crl(v.middle), crl(v.root))
    assert claim(verdict, "ek.revocation").ok is True


@pytest.mark.parametrize(("start", "end"), [(-10, -1), (1, 10)])
def test_a_list_out_of_its_time(start: int, end: int):
    v = Vendor()
    old = crl(v.middle, start=start, end=end)
    assert codes(v.judged(*v.both, old)) == {"ek.crl_expired"}
    assert v.judged(*v.both, old, crl(v.middle)).affirmed
    late = crl(v.middle, v.leaf.serial_number, start=start, end=end)
    assert codes(v.judged(*v.both, late, crl(v.middle))) == {"ek.revoked"}


def test_a_list_that_cannot_be_relied_on():
    """Another's signature, a weak hash, a part of the list, an issuer that may not sign lists."""
    v = Vendor()
    other = Authority("Other")
    for made in (
        crl(v.middle, key=other.key),
        crl(v.middle, hash_algorithm=hashes.SHA224()),
        crl(v.middle, extension=x509.DeltaCRLIndicator(1)),
    ):
        assert codes(v.judged(*v.both, made)) == {"ek.crl"}
    silent = Authority("Vendor issuing", parent=v.root)
    leaf = load_certificate(silent.leaf(RSA_EK.public_key(), eku=(EK_EKU,)), "ek")
    usage = [e for e in silent.certificate.extensions if isinstance(e.value, x509.KeyUsage)]
    assert not usage[0].value.crl_sign
    with pytest.raises(SvetovidError) as e:
        check_revocation([leaf, silent.certificate], [crl(silent)], NOW)
    assert e.value.code == "ek.crl"


# -- the file of authorities


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "ek.certificate"),
        (b"\x30\x03", "ek.certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", "ek.authorities"),
        (b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----", "ek.authorities"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END X509 CRL-----", "ek.authorities"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "ek.authorities"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----", "ek.crl"),
        (b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n" * 300, "ek.authorities"),
    ],
)
def test_authorities_that_cannot_be_read(data: bytes, code: str):
    with pytest.raises(InputError) as e:
        read_authorities(data)
    assert e.value.code == code


@pytest.mark.parametrize(
    "cut",
    [
        b"-----BEGIN X509 CRL-----\nAAAA",
        b"-----BEGIN X509 CRL-----\nA*AA\n-----END X509 CRL-----\n",
        b"-----BEGIN X509 CRL----\nAAAA\n-----END X509 CRL-----\n",
    ],
)
def test_i5_a_list_that_was_cut_off_is_not_passed_over(cut: bytes):
    """Behind whole certificates as before them: what it revoked would be good again."""
    whole = pem(Authority().certificate)
    assert read_authorities(whole).crls == ()
    for data in (whole + cut, cut + b"\n" + whole):
        with pytest.raises(InputError) as e:
            read_authorities(data)
        assert e.value.code == "ek.authorities"


def test_a_revocation_list_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """D1: each entry of a list takes far more memory than its bytes."""
    der = crl(Authority(), 5).public_bytes(Encoding.DER)
    monkeypatch.setattr("svetovid.evidence.revocation.MAX_CRL_BYTES", len(der))
    assert load_crl(der)
    monkeypatch.setattr("svetovid.evidence.revocation.MAX_CRL_BYTES", len(der) - 1)
    with pytest.raises(InputError) as e:
        load_crl(der)
    assert e.value.code == "ek.crl"
    assert f"{len(der)} bytes" in e.value.reason.observed


def test_lists_alone_are_no_authorities():
    with pytest.raises(InputError) as e:
        read_authorities(pem(crl(Authority())))
    assert e.value.code == "ek.authorities"
    assert len(read_authorities(Authority().der).anchors) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_a_broken_list_is_our_error(at: int, value: int):
    raw = bytearray(crl(Authority(), 5).public_bytes(Encoding.DER))
    raw[at % len(raw)] = value
    with contextlib.suppress(InputError):
        load_crl(bytes(raw)).get_revoked_certificate_by_serial_number(5)


def test_real_authorities_of_a_cloud():
    """Google's: the root issued the authority that issues EK and AK certificates."""
    root = load_certificate(public_der("go-tpm-tools/gcp_ek_ak_ca_root.crt"), "ek")
    below = load_certificate(public_der("go-tpm-tools/gcp_ek_ak_ca_intermediate_v3.crt"), "ek")
    below.verify_directly_issued_by(root)
    given = read_authorities(pem(root, below))
    assert len(given.anchors) == 2
    assert "Google" in given.anchors[0].name


def public_der(name: str) -> bytes:
    data = public(name)
    if data.startswith(b"-----"):
        return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
    return data
