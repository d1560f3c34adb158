"""Strict readers of the TPM 2.0 structures that evidence is made of (Part 2, structures).

Each takes exactly one structure and nothing after it; sizes are bounded before anything is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from svetovid.errors import EvidenceError
from svetovid.evidence.tpm.constants import GENERATED_MAGIC, PCR_COUNT, Alg, Curve, ObjectAttr, St
from svetovid.evidence.tpm.wire import Reader

__all__ = [
    "Attest",
    "ClockInfo",
    "PcrSelection",
    "Public",
    "Signature",
    "parse_attest",
    "parse_public",
    "parse_signature",
]

_MAX_DIGEST = 64
_MAX_NAME = 2 + _MAX_DIGEST
_MAX_RSA = 512
_MAX_COORDINATE = 66
_MAX_SELECTIONS = 16
_SELECT_BYTES = PCR_COUNT // 8
_KNOWN_ATTRIBUTES = sum(ObjectAttr)
_SIGNATURE_HASHES = frozenset({Alg.SHA256, Alg.SHA384, Alg.SHA512})


@dataclass(frozen=True, slots=True)
class ClockInfo:
    """TPMS_CLOCK_INFO: milliseconds of ``clock``, and how often the TPM was reset or restarted.

    ``safe`` is false after an unorderly shutdown: ``clock`` may then repeat values.
    """

    clock: int
    reset_count: int
    restart_count: int
    safe: bool


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """TPMS_PCR_SELECTION: a bank's hash algorithm and its PCR numbers, ascending."""

    bank: int
    pcrs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attest:
    """TPMS_ATTEST of type quote."""

    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class Public:
    """TPMT_PUBLIC of an RSA or ECC key.

    Attributes:
        symmetric: (algorithm, key bits, mode) or None where null.
        scheme: (algorithm, hash; 0 where it has none) or None where null.
        key_bits, exponent: RSA; exponent 0 on the wire reads as 65537.
        curve: ECC.
        unique: (modulus,) or (x, y), big endian.
        raw: the bytes that were read: names are computed over them.
    """

    type: int
    name_alg: int
    attributes: int
    auth_policy: bytes
    symmetric: tuple[int, int, int] | None
    scheme: tuple[int, int] | None
    key_bits: int
    exponent: int
    curve: int
    unique: tuple[bytes, ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """TPMT_SIGNATURE: ``parts`` is (signature,) for RSA and (r, s) for ECDSA."""

    scheme: int
    hash: int
    parts: tuple[bytes, ...]


def _selections(r: Reader) -> tuple[PcrSelection, ...]:
    count = r.uint(4)
    if count > _MAX_SELECTIONS:
        raise r.fail(f"at most {_MAX_SELECTIONS} PCR selections", count)
    out = []
    for _ in range(count):
        bank = r.uint(2)
        size = r.uint(1)
        if size != _SELECT_BYTES:
            raise r.fail(f"a PCR bitmap of {_SELECT_BYTES} bytes", size)
        bits = int.from_bytes(r.take(size), "little")
        out.append(PcrSelection(bank, tuple(i for i in range(PCR_COUNT) if bits >> i & 1)))
    return tuple(out)


def parse_attest(data: bytes) -> Attest:
    """Read a TPMS_ATTEST and accept a quote only.

    Raises:
        ParseError: ``attest.malformed``.
        EvidenceError: ``attest.magic`` where a TPM did not make it, ``attest.type`` where it is
            an attestation of something else.
    """
    r = Reader(data, "attest.malformed")
    magic = r.uint(4)
    if magic != GENERATED_MAGIC:
        raise EvidenceError(
            "attest.magic",
            expected=f"{GENERATED_MAGIC:#010x}",
            observed=f"{magic:#010x}",
            next_step="quote with the restricted attestation key that was enrolled",
        )
    kind = r.uint(2)
    if kind != St.ATTEST_QUOTE:
        raise EvidenceError(
            "attest.type",
            expected=f"a quote ({int(St.ATTEST_QUOTE):#06x})",
            observed=f"{kind:#06x}",
            next_step="answer a challenge with TPM2_Quote",
        )
    signer = r.sized(_MAX_NAME)
    extra = r.sized(_MAX_DIGEST)
    clock, resets, restarts, safe = r.uint(8), r.uint(4), r.uint(4), r.uint(1)
    if safe > 1:
        raise r.fail("safe to be 0 or 1", safe)
    firmware = r.uint(8)
    selections = _selections(r)
    pcr_digest = r.sized(_MAX_DIGEST)
    r.done()
    info = ClockInfo(clock, resets, restarts, bool(safe))
    return Attest(signer, extra, info, firmware, selections, pcr_digest)


def _symmetric(r: Reader) -> tuple[int, int, int] | None:
    alg = r.uint(2)
    if alg == Alg.NULL:
        return None
    if alg != Alg.AES:
        raise r.fail("AES or no symmetric algorithm", f"{alg:#06x}")
    return alg, r.uint(2), r.uint(2)


def _scheme(r: Reader, with_hash: frozenset[Alg]) -> tuple[int, int] | None:
    alg = r.uint(2)
    if alg == Alg.NULL:
        return None
    if alg == Alg.RSAES and Alg.RSASSA in with_hash:
        return alg, 0
    if alg not in with_hash:
        raise r.fail("a known scheme", f"{alg:#06x}")
    return alg, r.uint(2)


_RSA_SCHEMES = frozenset({Alg.RSASSA, Alg.RSAPSS, Alg.OAEP})
_ECC_SCHEMES = frozenset({Alg.ECDSA, Alg.ECDH, Alg.ECSCHNORR})
_KDF_SCHEMES = frozenset({Alg.KDF1_SP800_56A, Alg.KDF1_SP800_108})
_COORDINATE = {Curve.NIST_P256: 32, Curve.NIST_P384: 48, Curve.NIST_P521: 66}


def parse_public(data: bytes) -> Public:
    """Read a TPMT_PUBLIC of an RSA or ECC key.

    Raises:
        ParseError: ``tpm.malformed``.
    """
    r = Reader(data, "tpm.malformed")
    kind = r.uint(2)
    if kind not in (Alg.RSA, Alg.ECC):
        raise r.fail("an RSA or ECC key", f"{kind:#06x}")
    name_alg = r.uint(2)
    attributes = r.uint(4)
    if attributes & ~_KNOWN_ATTRIBUTES:
        raise r.fail("no reserved attribute", f"{attributes:#010x}")
    auth_policy = r.sized(_MAX_DIGEST)
    symmetric = _symmetric(r)
    key_bits = exponent = curve = 0
    unique: tuple[bytes, ...]
    if kind == Alg.RSA:
        scheme = _scheme(r, _RSA_SCHEMES)
        key_bits = r.uint(2)
        exponent = r.uint(4) or 65537
        unique = (r.sized(_MAX_RSA),)
        if len(unique[0]) * 8 != key_bits:
            raise r.fail(f"a modulus of {key_bits} bits", len(unique[0]) * 8)
    else:
        scheme = _scheme(r, _ECC_SCHEMES)
        curve = r.uint(2)
        size = _COORDINATE.get(Curve(curve)) if curve in Curve._value2member_map_ else None
        if size is None:
            raise r.fail("NIST P-256, P-384 or P-521", f"{curve:#06x}")
        _scheme(r, _KDF_SCHEMES)
        unique = (r.sized(size), r.sized(size))
    r.done()
    return Public(
        type=kind,
        name_alg=name_alg,
        attributes=attributes,
        auth_policy=auth_policy,
        symmetric=symmetric,
        scheme=scheme,
        key_bits=key_bits,
        exponent=exponent,
        curve=curve,
        unique=unique,
        raw=bytes(data),
    )


def parse_signature(data: bytes) -> Signature:
    """Read a TPMT_SIGNATURE: RSASSA, RSAPSS or ECDSA with SHA-256, SHA-384 or SHA-512.

    Raises:
        ParseError: ``tpm.malformed``.
        EvidenceError: ``sig.alg`` for any other scheme or hash.
    """
    r = Reader(data, "tpm.malformed")
    scheme, hash_alg = r.uint(2), r.uint(2)
    if scheme not in (Alg.RSASSA, Alg.RSAPSS, Alg.ECDSA) or hash_alg not in _SIGNATURE_HASHES:
        raise EvidenceError(
            "sig.alg",
            expected="RSASSA, RSAPSS or ECDSA with SHA-256, SHA-384 or SHA-512",
            observed=f"scheme {scheme:#06x}, hash {hash_alg:#06x}",
            next_step="enrol an attestation key with one of these schemes",
        )
    if scheme == Alg.ECDSA:
        parts: tuple[bytes, ...] = (r.sized(_MAX_COORDINATE), r.sized(_MAX_COORDINATE))
    else:
        parts = (r.sized(_MAX_RSA),)
    r.done()
    return Signature(scheme, hash_alg, parts)
