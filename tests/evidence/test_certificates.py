"""Chains to an owner's anchors: attack ids I5, I8; T2, T4."""

from __future__ import annotations

import datetime as dt
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence import vectors
from evidence.authorities import EK_EKU, NOW, Authority, der, dn
from svetovid.crypto.canonical import b64encode
from svetovid.errors import SvetovidError
from svetovid.evidence.certificates import check_leaf, find_path, load_certificate
from svetovid.evidence.documents import TrustAnchor

EKU = "2.23.133.8.1"
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
ROOT = Authority()
SUB = Authority("Sub", ROOT)
LEAF = ROOT.leaf(KEY)


def path(chain, anchors=None, now=NOW, prefix="ek"):
    return find_path(chain, anchors or [ROOT.anchor()], prefix, now, EKU)


def refused(code, *arguments, **named):
    with pytest.raises(SvetovidError) as e:
        path(*arguments, **named)
    assert e.value.code == code
    assert e.value.reason.next_step


def test_good_chains():
    assert path([LEAF]).anchor.name == "Vendor root"
    assert path([LEAF, ROOT.der]).simulated is False
    assert path([SUB.leaf(KEY), SUB.der])
    assert path([SUB.leaf(KEY), SUB.der, ROOT.der])
    assert path([SUB.leaf(KEY)], [SUB.anchor()])
    assert path([ROOT.leaf(KEY, eku=None)])
    third = Authority("Third", SUB)
    assert path([third.leaf(KEY), third.der, SUB.der])


def test_each_owner_has_its_own_anchors():
    """T2: one chain, two owners, two answers."""
    chain = [SUB.leaf(KEY), SUB.der]
    assert path(chain, [SUB.anchor()]).anchor.name == "Sub"
    assert path(chain, [ROOT.anchor()]).anchor.name == "Vendor root"
    refused("ek.untrusted", chain, [Authority("Another").anchor()])


def test_unknown_vendor_and_look_alike_root():
    """I5, T2."""
    refused("ek.untrusted", [LEAF], [Authority().anchor()])
    with pytest.raises(SvetovidError) as e:
        find_path([LEAF], [], "ek", NOW)
    assert e.value.code == "ek.untrusted"
    refused("ek.untrusted", [LEAF, SUB.der], [Authority("Another").anchor()])


@pytest.mark.parametrize("now", [NOW - 1001, NOW + 1001, 0, 2**60])
def test_expired(now):
    refused("ek.expired", [LEAF], now=now)


def test_expired_authorities():
    end = dt.datetime.fromtimestamp(NOW - 1, dt.UTC)
    old = Authority("Old", ROOT, end=end)
    refused("ek.expired", [old.leaf(KEY), old.der])
    refused("ek.expired", [old.leaf(KEY)], [old.anchor()])


def test_self_signed_leaf():
    own = Authority("Own", ca=None)
    key = own.key.public_key()
    refused("ek.self_signed", [der(own.issue(key, subject=dn("Own")))], [ROOT.anchor()])
    # by its own key under another name, while an owner listed that key by mistake
    refused("ek.not_ca", [own.leaf(key)], [own.anchor()])


def test_leaf_that_is_an_authority():
    refused("ek.ca_leaf", [SUB.der])
    # even if the owner listed the very certificate
    refused("ek.ca_leaf", [SUB.der], [SUB.anchor()])


@pytest.mark.parametrize("changes", [{"ca": False}, {"ca": None}, {"cert_sign": False}])
def test_issuers_that_may_not_issue(changes):
    bad = Authority("Bad", ROOT, **changes)
    refused("ek.not_ca", [bad.leaf(KEY), bad.der])
    refused("ek.not_ca", [bad.leaf(KEY)], [bad.anchor()])


def test_an_authority_without_key_usage():
    plain = Authority("Plain", ROOT, cert_sign=None)
    assert path([plain.leaf(KEY), plain.der])


def test_path_length():
    root = Authority("Short", path_length=0)
    sub = Authority("Below", root)
    assert path([root.leaf(KEY)], [root.anchor()])
    refused("ek.path_length", [sub.leaf(KEY), sub.der], [root.anchor()])
    refused("ek.path_length", [sub.leaf(KEY), sub.der, root.der], [root.anchor()])


def test_chain_length():
    refused("ek.chain_length", [])
    refused("ek.chain_length", [LEAF] * 5)


def test_eku():
    refused("ek.eku", [ROOT.leaf(KEY, eku=(x509.ExtendedKeyUsageOID.SERVER_AUTH,))])
    assert path([ROOT.leaf(KEY, eku=(x509.ExtendedKeyUsageOID.SERVER_AUTH, EK_EKU))])


def test_unknown_critical_extension():
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    refused("ek.extension", [ROOT.leaf(KEY, extensions=[(odd, True)])])
    assert path([ROOT.leaf(KEY, extensions=[(odd, False)])])


class WeakAuthority(Authority):
    def issue(self, key, **named):
        return super().issue(key, **{**named, "hash_algorithm": hashes.SHA224()})


def test_weak_signature_hash():
    weak = WeakAuthority("Weak")
    refused("ek.untrusted", [weak.leaf(KEY)], [weak.anchor()])


def test_issuer_without_a_hash():
    """Ed25519 authorities are not among what device vendors use: refused, not a crash."""
    key = ed25519.Ed25519PrivateKey.generate()
    builder = (
        x509.CertificateBuilder()
        .issuer_name(dn("Ed"))
        .serial_number(1)
        .not_valid_before(dt.datetime.fromtimestamp(NOW - 9, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(NOW + 9, dt.UTC))
    )
    root = builder.subject_name(dn("Ed")).public_key(key.public_key()).sign(key, None)
    leaf = builder.subject_name(dn("device")).public_key(KEY).sign(key, None)
    certificate = b64encode(der(root))
    anchor = TrustAnchor(kind="tpm-ek", name="Ed", certificate=certificate, simulated=False)
    refused("ek.untrusted", [der(leaf)], [anchor])


def test_keys():
    small = rsa.generate_private_key(65537, 1024).public_key()
    refused("ek.size", [ROOT.leaf(small)])
    refused("ek.algorithm", [ROOT.leaf(ed25519.Ed25519PrivateKey.generate().public_key())])
    refused("ek.algorithm", [ROOT.leaf(ec.generate_private_key(ec.SECP256K1()).public_key())])


def test_roca_modulus():
    """I5: a modulus of the form k*M + (65537**a mod M), CVE-2017-15361."""
    product = 1
    for p in range(3, 168):
        if all(p % q for q in range(2, p)):
            product *= p
    bits = 1 << 2047
    n = bits - bits % product + product + pow(65537, 123456789, product)
    n += product * (1 - n % 2)
    key = rsa.RSAPublicNumbers(65537, n).public_key()
    assert key.key_size == 2048
    refused("ek.roca", [ROOT.leaf(key)])


@pytest.mark.parametrize(
    ("root", "leaf_changes"),
    [
        (Authority("SIMULATED TPM root"), {}),
        (Authority("swtpm-localca-rootca"), {}),
        (Authority("A simulator's root"), {}),
        (Authority("Honest"), {"subject": dn("swTPM 0.7")}),
        (
            Authority("Honest"),
            {
                "extensions": [
                    (x509.SubjectAlternativeName([x509.DirectoryName(dn("swtpm"))]), True)
                ]
            },
        ),
    ],
)
def test_i8_simulators_are_named_whatever_the_document_says(root, leaf_changes):
    """T4: simulated follows from the certificates, never from a flag alone."""
    assert path([root.leaf(KEY, **leaf_changes)], [root.anchor(simulated=False)]).simulated


def test_the_anchors_flag_counts_too():
    assert path([LEAF], [ROOT.anchor(simulated=True)]).simulated


def _pem(name):
    return x509.load_pem_x509_certificate((vectors.ROOT / name).read_bytes())


def test_genuine_software_tpm_certificates():
    root = _pem("swtpm-localca-rootca-cert.pem").public_bytes(Encoding.DER)
    issuer = _pem("issuercert.pem").public_bytes(Encoding.DER)
    anchor = TrustAnchor(kind="tpm-ek", name="any", certificate=b64encode(root), simulated=False)
    for boot in vectors.BOOTS:
        leaf = vectors.boot(boot).ek_certificate
        found = path([leaf, issuer], [anchor], now=1_797_000_000)
        assert found.simulated
        refused("ek.expired", [leaf, issuer], [anchor], now=1_700_000_000)


def test_unreadable_certificates():
    for i in (0, 1, 10, len(LEAF) - 1):
        refused("ek.certificate", [LEAF[:i]])
    refused("ek.certificate", [LEAF + b"\0"])
    refused("ek.certificate", [LEAF, b"junk"], [Authority("Another").anchor()])
    refused("tee.certificate", [bytes(1 << 15)], prefix="tee")
    big = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(1 << 15))
    refused("ek.certificate", [ROOT.leaf(KEY, extensions=[(big, False)])])


@settings(max_examples=120, deadline=None)
@given(st.integers(0, len(LEAF) - 1), st.integers(0, 255), st.binary(max_size=3))
def test_fuzz(at, value, more):
    bad = LEAF[:at] + bytes([value]) + more + LEAF[at + 1 :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check_leaf(load_certificate(bad, "ek"), "ek", NOW, EKU)
            path([bad])
        except SvetovidError as e:
            assert e.code.startswith("ek.")  # noqa: PT017
            return
    assert bad == LEAF
