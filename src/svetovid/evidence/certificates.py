"""From a device's certificate to one of an owner's trust anchors, at a given time (RFC 5280).

Only what device certificates need: no name constraints, no policies; revocation lists are read in
:mod:`.revocation`. What is critical and not understood is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID

from svetovid.crypto.canonical import b64decode
from svetovid.errors import EvidenceError, ParseError
from svetovid.evidence.documents import TrustAnchor

__all__ = [
    "MAX_CHAIN",
    "UNREADABLE",
    "Path",
    "check_leaf",
    "find_path",
    "issued",
    "load_certificate",
    "spki",
]

MAX_CHAIN = 4
"""Certificates between the device's own, included, and the anchor."""
_MAX_DER = 16 << 10
_MIN_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_HASHES = ("sha256", "sha384", "sha512")
_SIMULATORS = ("swtpm", "simulat")
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for bytes that are no certificate or list, or an odd one."""
_PRIMES = [p for p in range(3, 168) if all(p % q for q in range(2, 13) if q < p)]


def _powers(prime: int) -> frozenset[int]:
    """The subgroup that 65537 generates modulo ``prime``."""
    out, value = {1}, 65537 % prime
    while value not in out:
        out.add(value)
        value = value * 65537 % prime
    return frozenset(out)


_ROCA = tuple((p, _powers(p)) for p in _PRIMES)
"""Nemec et al., CCS 2017: the moduli of a broken generator lie in these subgroups."""


@dataclass(frozen=True, slots=True)
class Path:
    """Where a chain ended: the anchor, and whether any name along the way says simulator.

    ``certificates`` are those of the way, the device's own first and the anchor's last.
    """

    anchor: TrustAnchor
    simulated: bool
    certificates: tuple[x509.Certificate, ...] = ()


@lru_cache(maxsize=2048)
def load_certificate(der: bytes, prefix: str) -> x509.Certificate:
    """Read one DER certificate and make sure that all of it can be read.

    Raises:
        ParseError: ``<prefix>.certificate``.
    """
    try:
        if len(der) > _MAX_DER:
            raise ValueError(f"{len(der)} bytes")
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.subject, certificate.issuer
        certificate.public_key()
        _ = certificate.signature_hash_algorithm
    except UNREADABLE as e:
        raise ParseError(
            f"{prefix}.certificate",
            expected=f"an X.509 certificate of at most {_MAX_DER} bytes",
            observed=str(e),
            next_step="enrol with the certificate exactly as the device holds it",
        ) from e
    return certificate


def spki(certificate: x509.Certificate) -> bytes:
    """DER of the SubjectPublicKeyInfo."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _refuse(code: str, expected: str, observed: object, step: str) -> EvidenceError:
    return EvidenceError(code, expected=expected, observed=observed, next_step=step)


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _text(name: x509.Name) -> str:
    return name.rfc4514_string()


def _check_any(certificate: x509.Certificate, prefix: str, now: int) -> None:
    """What holds for every certificate of a chain."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start.timestamp() <= now <= end.timestamp():
        raise _refuse(
            f"{prefix}.expired",
            f"a certificate valid at {now}",
            f"{_text(certificate.subject)}: {_day(start)} to {_day(end)}",
            "renew the certificate, or check the manager's clock",
        )
    _check_form(certificate, prefix)


@lru_cache(maxsize=2048)
def _check_form(certificate: x509.Certificate, prefix: str) -> None:
    """What holds at any time; a certificate that passed once need not be looked at again."""
    who = _text(certificate.subject)
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        modulus = key.public_numbers().n
        if key.key_size < _MIN_RSA_BITS:
            raise _refuse(
                f"{prefix}.size", "RSA of 2048 bits or more", key.key_size, "use a newer device"
            )
        if all(modulus % p in powers for p, powers in _ROCA):
            raise _refuse(
                f"{prefix}.roca",
                "a modulus that cannot be factored",
                f"{who}: ROCA fingerprint (CVE-2017-15361)",
                "update the TPM's firmware and make its keys anew",
            )
    elif not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise _refuse(
            f"{prefix}.algorithm", "RSA or a NIST curve", type(key).__name__, "use another device"
        )
    unknown = [
        e.oid.dotted_string
        for e in certificate.extensions
        if e.critical and e.oid not in _UNDERSTOOD
    ]
    if unknown:
        raise _refuse(
            f"{prefix}.extension",
            "no critical extension beyond constraints, usage and name",
            f"{who}: {unknown}",
            "ask the vendor for a certificate of the usual profile",
        )


def _day(moment: datetime) -> str:
    return moment.date().isoformat()


def check_leaf(leaf: x509.Certificate, prefix: str, now: int, eku: str | None = None) -> None:
    """What can be said of a device's own certificate without any anchor.

    Args:
        eku: extended key usage that it must list, where it lists any.

    Raises:
        EvidenceError: ``<prefix>.`` and ``expired``, ``size``, ``roca``, ``algorithm``,
            ``extension``, ``ca_leaf``, ``self_signed``, ``eku``.
    """
    _check_any(leaf, prefix, now)
    step = "enrol with the device's own certificate, issued by its vendor"
    constraints = _constraints(leaf)
    if constraints is not None and constraints.ca:
        raise _refuse(f"{prefix}.ca_leaf", "a device's certificate", "one of an authority", step)
    if leaf.subject == leaf.issuer:
        raise _refuse(f"{prefix}.self_signed", "a vendor's signature", "a self-signed one", step)
    if eku is None:
        return
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if eku not in [oid.dotted_string for oid in usage]:
        raise _refuse(f"{prefix}.eku", eku, [oid.dotted_string for oid in usage], step)


@lru_cache(maxsize=2048)
def issued(child: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether ``issuer``'s key signed ``child``, with a hash that is still strong."""
    hash_algorithm = child.signature_hash_algorithm
    if hash_algorithm is None or hash_algorithm.name not in _HASHES:
        return False
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _check_authority(ca: x509.Certificate, prefix: str, now: int, below: int) -> None:
    """``below``: authorities between this one and the device."""
    _check_any(ca, prefix, now)
    constraints = _constraints(ca)
    signs = True
    with contextlib.suppress(x509.ExtensionNotFound):
        signs = ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    length = constraints.path_length if constraints else None
    if constraints is None or not constraints.ca or not signs:
        raise _refuse(
            f"{prefix}.not_ca",
            "an issuer that may sign certificates",
            _text(ca.subject),
            "use the vendor's authorities",
        )
    if length is not None and below > length:
        raise _refuse(
            f"{prefix}.path_length",
            f"at most {length} authorities below {_text(ca.subject)}",
            below,
            "use the vendor's authorities",
        )


def _names(certificate: x509.Certificate) -> Iterator[str]:
    yield _text(certificate.subject)
    yield _text(certificate.issuer)
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            # The TPM's maker, model and version stand here (EK Credential Profile, 3.2.9).
            yield from (_text(n.value) for n in extension.value if isinstance(n.value, x509.Name))


@lru_cache(maxsize=2048)
def _says_simulator(certificate: x509.Certificate) -> bool:
    names = " ".join(_names(certificate)).lower()
    return any(word in names for word in _SIMULATORS)


def find_path(
    certificates: Sequence[bytes],
    anchors: Sequence[TrustAnchor],
    prefix: str,
    now: int,
    eku: str | None = None,
) -> Path:
    """Follow a chain, leaf first, to the first anchor that issued one of its certificates.

    A path counts as simulated where its anchor says so, or where any certificate on it names a
    known simulator, whatever the anchor document says (T4).

    Args:
        certificates: DER, leaf first, each issued by the next; an anchor's own may follow.
        anchors: of the kind that fits; those of other kinds must not be passed.
        prefix: first part of the reason codes: ``ek`` or ``tee``.
        now: Unix seconds.
        eku: as in :func:`check_leaf`.

    Raises:
        ParseError: ``<prefix>.certificate``.
        EvidenceError: those of :func:`check_leaf`; ``<prefix>.not_ca``, ``<prefix>.path_length``,
            ``<prefix>.chain_length``, ``<prefix>.untrusted`` where no anchor is reached.
    """
    if not 1 <= len(certificates) <= MAX_CHAIN:
        raise _refuse(
            f"{prefix}.chain_length",
            f"1 to {MAX_CHAIN} certificates",
            len(certificates),
            "send the device's certificate and its authorities only",
        )
    roots = [(a, load_certificate(b64decode(a.certificate), prefix)) for a in anchors]
    chain = [load_certificate(certificates[0], prefix)]
    check_leaf(chain[0], prefix, now, eku)
    for following in (*certificates[1:], None):
        for anchor, root in roots:
            if chain[-1].issuer == root.subject and issued(chain[-1], root):
                _check_authority(root, prefix, now, len(chain) - 1)
                way = (*chain, root)
                simulated = anchor.simulated or any(map(_says_simulator, way))
                return Path(anchor, simulated, way)
        if following is None:
            break
        issuer = load_certificate(following, prefix)
        if not issued(chain[-1], issuer):
            break
        _check_authority(issuer, prefix, now, len(chain) - 1)
        chain.append(issuer)
    raise _refuse(
        f"{prefix}.untrusted",
        "a chain to one of " + (", ".join(a.name for a in anchors) or "no anchors of this kind"),
        f"issued by {_text(chain[-1].issuer)}",
        "add the vendor's authority to your anchors, or use another host",
    )
