"""MakeCredential without a TPM: a secret that only one TPM, holding one named key, gives back.

TPM 2.0 Library, Part 1, section 24 (credential protection), annex B.10.4 (RSA secret sharing),
annex C.6 (ECC secret sharing) and sections 11.4.10.2, 11.4.10.3 (KDFa, KDFe).
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from svetovid.errors import EvidenceError, LimitError
from svetovid.evidence.tpm.attributes import check_ek
from svetovid.evidence.tpm.constants import Alg, Curve
from svetovid.evidence.tpm.names import name, public_key
from svetovid.evidence.tpm.structures import Public, parse_public
from svetovid.evidence.tpm.wire import tpm2b

__all__ = ["RANDOMNESS_BYTES", "make_credential"]

RANDOMNESS_BYTES = 64
"""Fresh random bytes that one credential uses up."""
_HASH = "sha256"
_HASH_BYTES = 32
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa for at most one hash block of output (all that is asked for here)."""
    data = (1).to_bytes(4, "big") + label + b"\x00" + context + bits.to_bytes(4, "big")
    return hmac.digest(key, data, _HASH)[: bits // 8]


def _mgf1(seed: bytes, length: int) -> bytes:
    blocks = -(-length // _HASH_BYTES)
    out = b"".join(hashlib.sha256(seed + i.to_bytes(4, "big")).digest() for i in range(blocks))
    return out[:length]


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def _rsa_secret(key: rsa.RSAPublicKey, seed: bytes, salt: bytes) -> bytes:
    """RSAES-OAEP (RFC 8017, 7.1.1) with label ``IDENTITY`` and its NUL, with a given salt."""
    numbers = key.public_numbers()
    size = key.key_size // 8
    block = hashlib.sha256(b"IDENTITY\x00").digest()
    block += bytes(size - len(seed) - 2 * _HASH_BYTES - 2) + b"\x01" + seed
    masked = _xor(block, _mgf1(salt, len(block)))
    masked_salt = _xor(salt, _mgf1(masked, len(salt)))
    encoded = int.from_bytes(b"\x00" + masked_salt + masked, "big")
    return pow(encoded, numbers.e, numbers.n).to_bytes(size, "big")


def _ecc_secret(key: ec.EllipticCurvePublicKey, randomness: bytes) -> tuple[bytes, bytes]:
    """(seed, TPMS_ECC_POINT of the one-time key): one-pass ECDH and KDFe."""
    # 256 bits more than the order needs: the bias of the remainder is 2**-256.
    scalar = int.from_bytes(randomness, "big") % (_P256_ORDER - 1) + 1
    once = ec.derive_private_key(scalar, ec.SECP256R1())
    mine, theirs = once.public_key().public_numbers(), key.public_numbers()
    z = once.exchange(ec.ECDH(), key)
    x, y = mine.x.to_bytes(32, "big"), mine.y.to_bytes(32, "big")
    party = x + theirs.x.to_bytes(32, "big")
    seed = hashlib.sha256((1).to_bytes(4, "big") + z + b"IDENTITY\x00" + party).digest()
    return seed, tpm2b(x) + tpm2b(y)


def _aes_bits(ek: Public) -> int:
    """Key bits of the EK's AES-CFB, where its parameters are ones we can serve."""
    shape = (Alg.RSA, 2048, 0) if ek.type == Alg.RSA else (Alg.ECC, 0, Curve.NIST_P256)
    symmetric = ek.symmetric or (0, 0, 0)  # a public area has AES or nothing
    if (
        (ek.type, ek.key_bits, ek.curve) != shape
        or ek.name_alg != Alg.SHA256
        or symmetric[1] not in (128, 256)
        or symmetric[2] != Alg.CFB
    ):
        raise EvidenceError(
            "ek.algorithm",
            expected="RSA-2048 or ECC P-256 with SHA-256 and AES-CFB (templates L-1, L-2)",
            observed=(ek.type, ek.key_bits, ek.curve, ek.name_alg, ek.symmetric),
            next_step="enrol with one of the TPM's low-range endorsement keys",
        )
    return symmetric[1]


def make_credential(
    ek_public: bytes, ak_public: bytes, secret: bytes, *, randomness: bytes
) -> tuple[bytes, bytes]:
    """Protect ``secret`` for the TPM that holds both the EK and an AK of this very name (I3).

    Args:
        ek_public, ak_public: TPMT_PUBLIC bytes.
        secret: 1 to 32 bytes.
        randomness: :data:`RANDOMNESS_BYTES` fresh random bytes, never used again.

    Returns:
        TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, as TPM2_ActivateCredential takes them.

    Raises:
        ParseError: ``tpm.malformed``, ``tpm.algorithm``.
        EvidenceError: ``ek.attributes``, ``ek.size``, ``ek.algorithm``.
        LimitError: ``credential.size``.
    """
    if not 1 <= len(secret) <= _HASH_BYTES or len(randomness) != RANDOMNESS_BYTES:
        raise LimitError(
            "credential.size",
            expected=f"a secret of 1 to {_HASH_BYTES} bytes, {RANDOMNESS_BYTES} random bytes",
            observed=(len(secret), len(randomness)),
            next_step="pass a 32-byte secret and fresh randomness",
        )
    ek = parse_public(ek_public)
    check_ek(ek)
    aes_bits = _aes_bits(ek)
    ak_name = name(parse_public(ak_public))
    key = public_key(ek)
    if isinstance(key, rsa.RSAPublicKey):
        seed = randomness[:_HASH_BYTES]
        shared = _rsa_secret(key, seed, randomness[_HASH_BYTES:])
    else:
        seed, shared = _ecc_secret(key, randomness)
    # CFB with a zero IV is what the TPM specifies; the key is used once.
    storage = _kdfa(seed, b"STORAGE", ak_name, aes_bits)
    encryptor = Cipher(AES(storage), CFB(bytes(16))).encryptor()
    hidden = encryptor.update(tpm2b(secret)) + encryptor.finalize()
    integrity = _kdfa(seed, b"INTEGRITY", b"", _HASH_BYTES * 8)
    outer = hmac.digest(integrity, hidden + ak_name, _HASH)
    return tpm2b(tpm2b(outer) + hidden), tpm2b(shared)
