"""Whose TPM signed: the endorsement key's certificate, held against a reader's authorities."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from svetovid.crypto.canonical import b64decode, b64encode
from svetovid.errors import EvidenceError, InputError, LimitError, ParseError, Reason, SvetovidError
from svetovid.evidence.certificates import Path, find_path, issued, load_certificate
from svetovid.evidence.documents import TrustAnchor
from svetovid.evidence.enrolment import check_ek_certificate
from svetovid.evidence.recorded.tree import Node, over, refused
from svetovid.evidence.revocation import check_revocation, load_crl
from svetovid.evidence.tpm import EK_CERTIFICATE_OID, check_ek, parse_public

__all__ = ["MAX_AUTHORITIES_BYTES", "Authorities", "ek_node", "read_authorities"]

MAX_AUTHORITIES_BYTES = 8 << 20
_MAX_BLOCKS = 256
_PEM = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{1,32})-----([A-Za-z0-9+/=\s]*)-----END ([A-Z0-9 ]{1,32})-----"
)
_MAKER = "2.23.133.2.1"
_MAKERS = {
    "414D4400": "AMD",
    "41544D4C": "Microchip (Atmel)",
    "474F4F47": "Google",
    "48504500": "HPE",
    "49424D00": "IBM",
    "49465800": "Infineon",
    "494E5443": "Intel",
    "4C454E00": "Lenovo",
    "4D534654": "Microsoft",
    "4E545A00": "Nationz",
    "4E544300": "Nuvoton",
    "51434F4D": "Qualcomm",
    "524F4343": "Fuzhou Rockchip",
    "534D534E": "Samsung",
    "53544D20": "STMicroelectronics",
    "564D5700": "VMware",
}
"""TCG Vendor ID Registry: whom ``id:`` and hex in an EK certificate's alternative name names."""


@dataclass(frozen=True, slots=True)
class Authorities:
    """Certificates that a reader believes, and the revocation lists beside them."""

    anchors: tuple[TrustAnchor, ...]
    crls: tuple[x509.CertificateRevocationList, ...] = ()


def _refused(expected: str, observed: object) -> ParseError:
    return ParseError(
        "ek.authorities",
        expected=expected,
        observed=observed,
        next_step="give the makers' CA certificates, and their revocation lists, as PEM",
    )


def _blocks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(label, DER) of each PEM block; a file that is none counts as one DER certificate."""
    if b"-----BEGIN" not in data:
        return [(b"CERTIFICATE", data)]
    found = _PEM.findall(data)
    if len(found) != data.count(b"-----BEGIN") or any(a != b for a, _, b in found):
        raise _refused("whole PEM blocks", f"{len(found)} that can be read")
    if len(found) > _MAX_BLOCKS:
        raise LimitError(
            "ek.authorities",
            expected=f"at most {_MAX_BLOCKS} certificates and lists",
            observed=len(found),
            next_step="give the authorities of the hosts that you expect",
        )
    try:
        return [
            (a, base64.b64decode(b"".join(body.split()), validate=True)) for a, body, _ in found
        ]
    except ValueError as e:
        raise _refused("base64 in every PEM block", e) from e


def read_authorities(data: bytes) -> Authorities:
    """CA certificates and revocation lists of one PEM file, or one DER certificate.

    Raises:
        InputError: ``ek.authorities``, ``ek.certificate``, ``ek.crl``.
    """
    anchors, crls = [], []
    for label, der in _blocks(data):
        if label == b"X509 CRL":
            crls.append(load_crl(der))
        elif label == b"CERTIFICATE":
            certificate = load_certificate(der, "ek")
            name = certificate.subject.rfc4514_string()
            anchors.append(
                TrustAnchor(
                    kind="tpm-ek",
                    name="".join(c for c in name if c.isprintable())[:200],
                    certificate=b64encode(der),
                    simulated=False,
                )
            )
        else:
            raise _refused("CERTIFICATE and X509 CRL blocks", label)
    if not anchors:
        raise _refused("at least one CA certificate", "none")
    return Authorities(tuple(anchors), tuple(crls))


def _maker(der: bytes) -> str:
    """The TPM's maker, by the certificate's own word; empty where it does not say."""
    try:
        certificate = load_certificate(der, "ek")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ParseError, x509.ExtensionNotFound):
        return ""
    said = [
        str(attribute.value)
        for name in names.get_values_for_type(x509.DirectoryName)
        for attribute in name
        if attribute.oid.dotted_string == _MAKER
    ]
    number = said[0].removeprefix("id:").upper() if said else ""
    return f", a TPM of {_MAKERS.get(number, f'maker {number}')}" if number else ""


def _upwards(path: Path, authorities: Authorities) -> list[x509.Certificate]:
    """The chain, and beyond its anchor whichever given authorities issued that one."""
    chain = list(path.certificates)
    given = [load_certificate(b64decode(a.certificate), "ek") for a in authorities.anchors]
    while len(chain) < _MAX_BLOCKS and chain[-1].issuer != chain[-1].subject:
        above = next((c for c in given if issued(chain[-1], c)), None)
        if above is None:
            break
        chain.append(above)
    return chain


def _key(ek: bytes | None, certificates: Sequence[bytes]) -> Node:
    """EK and certificate are there, of one key, and the key is an endorsement key."""
    if ek is None or not certificates:
        what = "public area" if ek is None else "certificate"
        return Node(
            "ek.key",
            False,
            f"not given: the endorsement key's {what}",
            "the endorsement key and its certificate",
            "the recording",
            "ek.missing",
            "record the TPM's endorsement key, and its certificate from NV or the maker",
        )
    try:
        check_ek(parse_public(ek))
        check_ek_certificate(ek, certificates[0])
    except (InputError, EvidenceError) as e:
        return refused("ek.key", e, "TCG EK Credential Profile")
    return Node("ek.key", True, "an endorsement key with its certificate", source="the recording")


def _chain(
    certificates: Sequence[bytes], authorities: Authorities | None, now: int
) -> tuple[list[Node], bool]:
    """Claims on the chain and on revocation, and whether the device is, or may be, simulated."""
    maker = _maker(certificates[0])
    if authorities is None:
        return [
            refused(
                "ek.chain",
                Reason(
                    code="ek.unanchored",
                    expected="a certificate authority to hold the chain against",
                    observed=f"not given{maker}",
                    next_step="name with --ca the authorities of TPM makers that you believe",
                ),
                "--ca",
            )
        ], True
    try:
        path = find_path(certificates, authorities.anchors, "ek", now, EK_CERTIFICATE_OID)
    except SvetovidError as e:
        r = e.reason
        why = Reason(r.code, r.expected, f"{r.observed}{maker}", r.next_step)
        return [refused("ek.chain", why, "--ca")], True
    chain = Node(
        "ek.chain", True, f"to {path.anchor.name}{maker}", "a chain to an authority", "--ca"
    )
    try:
        silent = check_revocation(_upwards(path, authorities), authorities.crls, now)
    except SvetovidError as e:
        return [chain, refused("ek.revocation", e, "--ca")], path.simulated
    return [
        chain,
        Node(
            "ek.revocation",
            None if silent else True,
            "no list given of: " + ", ".join(silent) if silent else "not revoked",
            "on no revocation list",
            "--ca",
        ),
    ], path.simulated


def ek_node(
    ek: bytes | None, certificates: Sequence[bytes], authorities: Authorities | None, now: int
) -> tuple[Node, bool]:
    """``tpm.ek``, and whether the TPM is simulated, or may be for all that is known (T4)."""
    claims, simulated = [_key(ek, certificates)], True
    if certificates:
        more, simulated = _chain(certificates, authorities, now)
        claims += more
    top = Node(
        "tpm.ek",
        True,
        "; ".join(c.observed for c in claims),
        "an endorsement key certified by an authority of --ca",
        "--ca",
    )
    return over(top, claims), simulated
