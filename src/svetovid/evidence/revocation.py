"""Certificate revocation lists (RFC 5280, section 5), from a bundle, at a given time.

A list counts where the issuer's key signed it, with a strong hash, and it may sign lists; where it
speaks of every certificate of its issuer; and where the time lies within it. What an issuer gave
and cannot be used is refused: a list that is passed over would be a revocation that is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from svetovid.errors import EvidenceError, ParseError
from svetovid.evidence.certificates import UNREADABLE

__all__ = ["MAX_CRL_BYTES", "check_revocation", "load_crl"]

MAX_CRL_BYTES = 4 << 20
_HASHES = ("sha256", "sha384", "sha512")
_STEP = "get the issuer's current revocation list"


def load_crl(der: bytes) -> x509.CertificateRevocationList:
    """Read one list, DER.

    Raises:
        ParseError: ``ek.crl``.
    """
    try:
        if len(der) > MAX_CRL_BYTES:
            raise ValueError(f"{len(der)} bytes")
        crl = x509.load_der_x509_crl(der)
        _ = crl.extensions, crl.issuer, crl.signature_hash_algorithm
        _ = crl.last_update_utc, crl.next_update_utc, list(crl)
    except UNREADABLE as e:
        raise ParseError(
            "ek.crl",
            expected=f"a certificate revocation list of at most {MAX_CRL_BYTES} bytes",
            observed=str(e),
            next_step=_STEP,
        ) from e
    return crl


def _signs_lists(issuer: x509.Certificate) -> bool:
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def _holds(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key signed the list, and it is of the kind that lists everything."""
    key, hash_algorithm = issuer.public_key(), crl.signature_hash_algorithm
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return False
    if hash_algorithm is None or hash_algorithm.name not in _HASHES or not _signs_lists(issuer):
        return False
    # Critical here are: a delta, a part of the list, somebody else's certificates.
    if any(extension.critical for extension in crl.extensions):
        return False
    try:
        return crl.is_signature_valid(key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _current(crl: x509.CertificateRevocationList, now: int) -> bool:
    end = crl.next_update_utc
    return crl.last_update_utc.timestamp() <= now and end is not None and now <= end.timestamp()


def _refused(code: str, expected: str, observed: str, step: str) -> EvidenceError:
    return EvidenceError(code, expected=expected, observed=observed, next_step=step)


def check_revocation(
    chain: Sequence[x509.Certificate], crls: Sequence[x509.CertificateRevocationList], now: int
) -> tuple[str, ...]:
    """No certificate of a chain is on a list of its issuer.

    Args:
        chain: each certificate issued by the next; verified already.
        crls: of whichever issuers.
        now: Unix seconds.

    Returns:
        names of issuers without a list: nothing is known of what they revoked.

    Raises:
        EvidenceError: ``ek.crl`` where an issuer's list cannot be relied on, ``ek.crl_expired``
            where none is of this time, ``ek.revoked``. An entry counts whatever its date.
    """
    silent = []
    for child, issuer in pairwise(chain):
        who = issuer.subject.rfc4514_string()
        named = [crl for crl in crls if crl.issuer == issuer.subject]
        if not named:
            silent.append(who)
            continue
        held = [crl for crl in named if _holds(crl, issuer)]
        if not held:
            raise _refused(
                "ek.crl", f"a complete list signed by {who}", f"{len(named)} that is not", _STEP
            )
        if any(crl.get_revoked_certificate_by_serial_number(child.serial_number) for crl in held):
            raise _refused(
                "ek.revoked",
                f"a certificate that {who} has not revoked",
                f"{child.subject.rfc4514_string()}, serial {child.serial_number:x}",
                "use another host; its maker no longer vouches for this one",
            )
        if not any(_current(crl, now) for crl in held):
            raise _refused(
                "ek.crl_expired",
                f"a list of {who} that is valid at {now}",
                ", ".join(f"{c.last_update_utc} to {c.next_update_utc}" for c in held),
                _STEP,
            )
    return tuple(silent)
