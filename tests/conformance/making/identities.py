"""I and D: whose key, whose TPM, who says so; and documents made to cost."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from conformance.making.forged import EK, MAKER, Forged
from conformance.making.keys import Maker, derived, moment
from conformance.making.suite import CUT, GOOD, LIE, UNPROVEN, Case, Files, refused
from conformance.making.worlds import edited, kept, lacking, lied
from tpmbytes import AK_ATTRIBUTES, b2, ek_public, name, qualified

_OTHER = derived("another tpm's ek")
_RESTRICTED, _FIXED_TPM, _FIXED_PARENT = 1 << 16, 1 << 1, 1 << 4
_DECRYPT, _ORIGIN = 1 << 17, 1 << 5

KEYS = (
    *(
        Case(
            f"i1-{what.replace(' ', '-')}",
            f"The attestation key is {what}.",
            lied(by=Forged(attributes=AK_ATTRIBUTES ^ bit)),
            ("I1",),
            **LIE,
            reasons=("ak.attributes",),
        )
        for what, bit in (
            ("not restricted", _RESTRICTED),
            ("not fixed to a tpm", _FIXED_TPM),
            ("not fixed to its parent", _FIXED_PARENT),
            ("one that decrypts", _DECRYPT),
            ("one that came from outside", _ORIGIN),
        )
    ),
    Case(
        "i1-without-scheme",
        "The attestation key signs under any scheme.",
        lied(by=Forged(scheme=struct.pack(">H", 0x10))),
        ("I1",),
        **LIE,
        reasons=("sig.scheme", "ak.scheme", UNPROVEN),
    ),
    Case(
        "i2-signed-by-software",
        "A key in a file signed the TPM's quote anew.",
        lambda world: {**world, "quote.sig": Forged().sign(world["quote.msg"])},
        ("I2",),
        **refused("sig.invalid"),
    ),
    Case(
        "i2-key-swapped",
        "The attestation key's public area is a key's in a file, which signed as well.",
        lambda world: {
            **world,
            "ak.pub": b2(Forged().ak),
            "ak.name": name(Forged().ak),
            "quote.sig": Forged().sign(world["quote.msg"]),
        },
        ("I2",),
        **refused("attest.signer"),
    ),
    Case(
        "i2-not-the-enrolled-key",
        "The reader enrolled another attestation key.",
        dict,
        ("I2", "I9"),
        ak=name(Forged().ak).hex(),
        reasons=("ak.name",),
    ),
    Case(
        "i3-key-of-another-tpm",
        "The endorsement key and its certificate are another TPM's than the attestation key's.",
        lambda world: {
            **world,
            "ek.pub": b2(ek_public(_OTHER)),
            "ekcert.der": MAKER.device(_OTHER.public_key()),
        },
        ("I3",),
        **LIE,
        **refused("attest.signer"),
    ),
    Case(
        "i3-recorded-name",
        "The name recorded with the attestation key is another key's.",
        edited(ak_name=lambda _: name(b"another key")),
        ("I3",),
        reasons=("ak.name",),
    ),
    Case(
        "i6-certificate-of-another-key",
        "The certificate is of another endorsement key.",
        edited(ekcert_der=lambda _: MAKER.device(_OTHER.public_key())),
        ("I6",),
        **LIE,
        reasons=("ek.key_mismatch",),
    ),
    Case(
        "i6-no-certificate",
        "There is no certificate of the endorsement key.",
        lacking("ekcert.der"),
        ("I6",),
        reasons=("ek.missing",),
    ),
    Case(
        "i6-no-endorsement-key",
        "There is no endorsement key.",
        lacking("ek.pub"),
        ("I6",),
        reasons=("ek.missing",),
    ),
)


def _device(what: str, title: str, code: str, certificate: bytes) -> Case:
    """Another certificate of the same endorsement key."""
    return Case(
        f"i5-{title}",
        what,
        edited(ekcert_der=lambda _: certificate),
        ("I5",),
        **LIE,
        reasons=(code,),
    )


def _chain(what: str, title: str, code: str, by: Maker, *also: bytes, **more: Any) -> Case:
    """The same endorsement key, certified by another authority that the reader believes."""
    expected = {"reasons": (code,)} if code else GOOD
    return Case(
        f"i5-{title}",
        what,
        lambda world: {
            **world,
            "ekcert.der": by.device(EK.public_key()),
            "authorities.pem": b"".join([by.pem, *also]),
        },
        ("I5",),
        **LIE,
        **expected,
        **more,
    )


def _roca() -> rsa.RSAPublicKey:
    """A modulus of the form k*M + (65537**a mod M): CVE-2017-15361."""
    product = 1
    for p in range(3, 168):
        if all(p % q for q in range(2, p)):
            product *= p
    bits = 1 << 2047
    n = bits - bits % product + product + pow(65537, 123456789, product)
    return rsa.RSAPublicNumbers(65537, n + product * (1 - n % 2)).public_key()


def _modulus(key: rsa.RSAPublicKey) -> bytes:
    """TPMT_PUBLIC of an RSA endorsement key."""
    n = key.public_numbers().n
    head = ek_public(EK)[:42]  # type, name algorithm, attributes, policy
    form = struct.pack(">HHHHHI", 6, 128, 0x43, 0x10, key.key_size, 0)
    return struct.pack(">H", 1) + head[2:] + form + b2(n.to_bytes(key.key_size // 8))


def _rsa(title: str, what: str, code: str, key: rsa.RSAPublicKey) -> Case:
    return Case(
        f"i5-{title}",
        what,
        lambda world: {
            **lied(signer=qualified(Forged().ak, qualified(_modulus(key))))(world),
            "ek.pub": b2(_modulus(key)),
            "ekcert.der": MAKER.device(key),
        },
        ("I5",),
        **LIE,
        reasons=(code,),
    )


ROOT = Maker("Conformance root")
ISSUER = Maker("Conformance issuer", ROOT)
_LEAF = x509.load_der_x509_certificate(ISSUER.device(EK.public_key()))
_SERIAL = _LEAF.serial_number
_ODD = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
_EK = EK.public_key()
_OWN = derived("self signed")
_SHORT = rsa.RSAPublicNumbers(65537, (1 << 1023) + 1155).public_key()

CERTIFICATES = (
    Case(
        "i5-expired",
        "The reader's time is after the certificate's end.",
        edited(ekcert_der=lambda _: MAKER.device(_EK, end=moment(-1))),
        ("I5",),
        **LIE,
        reasons=("ek.expired",),
    ),
    _device(
        *("The certificate is not valid yet.", "not-yet", "ek.expired"),
        MAKER.device(_EK, start=moment(1)),
    ),
    _device(
        *("Its key may be used for TLS servers alone.", "use", "ek.eku"),
        MAKER.device(_EK, uses=[x509.ExtendedKeyUsageOID.SERVER_AUTH]),
    ),
    _device(
        *("It says that the endorsement key is an authority.", "ca-leaf", "ek.ca_leaf"),
        MAKER.device(_EK, authority=True),
    ),
    _device(
        *("It has a critical extension that nobody knows.", "extension", "ek.extension"),
        MAKER.device(_EK, more=[(_ODD, True)]),
    ),
    _device(
        *("A maker of whom the reader never heard issued it.", "unknown-maker", "ek.untrusted"),
        Maker("Unknown maker").device(_EK),
    ),
    _device(
        *("A look-alike issued it: the maker's name, another key.", "look-alike", "ek.untrusted"),
        Maker(MAKER.name, label="look-alike").device(_EK),
    ),
    _device(
        *("It is signed with SHA-224.", "weak-hash", "ek.untrusted"),
        MAKER.device(_EK, hash_algorithm=hashes.SHA224()),
    ),
    _device(
        *("It names itself as its issuer.", "self-signed", "ek.self_signed"),
        MAKER.device(_EK, name="own", issuer="own", signer=_OWN),
    ),
    _device(
        *("What should be a certificate is none.", "no-certificate", "ek.certificate"), b"\x30\x03"
    ),
    _rsa("rsa-1024", "An RSA key of 1024 bits.", "ek.size", _SHORT),
    _rsa("roca", "An RSA key that a broken generator made.", "ek.roca", _roca()),
    _chain(
        *("Its issuer is no authority.", "issuer-is-none", "ek.not_ca"),
        Maker("Conformance no authority", ROOT, ca=False),
    ),
    _chain(
        *("Its issuer may not sign certificates.", "issuer-may-not", "ek.not_ca"),
        Maker("Conformance may not", ROOT, may_sign=False),
    ),
    _chain(
        *("Its issuer's certificate is over.", "issuer-expired", "ek.expired"),
        Maker("Conformance old", ROOT, end=moment(-1)),
    ),
    _chain(
        *("It stands on its issuer's revocation list.", "revoked", "ek.revoked", ISSUER),
        *(ROOT.pem, ISSUER.revoked(_SERIAL)),
    ),
    _chain(
        *("Its issuer stands on the root's revocation list.", "issuer-revoked", "ek.revoked"),
        *(ISSUER, ROOT.pem, ISSUER.revoked(), ROOT.revoked(ISSUER.certificate.serial_number)),
    ),
    _chain(
        *("Its issuer's revocation list is out of date.", "old-list", "ek.crl_expired", ISSUER),
        *(ROOT.pem, ISSUER.revoked(start=-2000, end=-1000)),
    ),
    _chain(
        *("It stands on no list of its issuer or the root.", "not-revoked", "", ISSUER),
        *(ROOT.pem, ISSUER.revoked(_SERIAL + 2), ROOT.revoked()),
        claims={"ek.revocation": True},
    ),
    Case(
        "i5-no-authorities",
        "The reader believes no maker.",
        dict,
        ("I5",),
        authorities=None,
        reasons=("ek.unanchored",),
    ),
    Case(
        "i8-simulators-authority",
        "A software TPM's authority that the reader lists as if it were a maker: named simulated.",
        lambda world: {
            **world,
            "ekcert.der": Maker("swtpm-localca").device(_EK),
            "authorities.pem": Maker("swtpm-localca").pem,
        },
        ("I8",),
        **{**LIE, "simulated": True},
        **GOOD,
    ),
)


def _document(change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    """The evidence as one JSON document, changed."""
    text = b'{"quote": "", "sig": "", "ak": ""}'
    return lambda world: {"evidence.json": change(text), **kept(world, {})}


DOCUMENTS = tuple(
    Case(f"d1-{title}", what, make, ("D1",), reasons=(code,), **CUT)
    for title, what, code, make in (
        (
            *("depth", "Brackets, 20,000 levels deep.", "json.depth"),
            _document(lambda _: b"[" * 20_000),
        ),
        (
            *("twice", "A member twice.", "json.duplicate_key"),
            _document(lambda d: d.replace(b'"sig"', b'"quote"')),
        ),
        (
            *("base64", "A key that is no base64.", "json.base64"),
            _document(lambda d: d.replace(b'"ak": ""', b'"ak": "*"')),
        ),
        (
            *("unknown-member", "A member that is none.", "document.invalid"),
            _document(lambda d: d.replace(b"}", b', "trusted": true}')),
        ),
        (
            *("certificates", "More certificates than anybody needs.", "ek.authorities"),
            edited(
                authorities_pem=lambda _: (
                    b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n" * 300
                )
            ),
        ),
    )
)
CASES = (*KEYS, *CERTIFICATES, *DOCUMENTS)
