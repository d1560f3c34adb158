"""MakeCredential against an independent reading of TPM 2.0 Part 1, section 24: attack id I3."""

from __future__ import annotations

import hashlib
import hmac
import struct

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.forger import RSA_AK, RSA_EK, Forger
from svetovid.errors import SvetovidError
from svetovid.evidence.tpm import RANDOMNESS_BYTES, make_credential
from tpmbytes import ek_public, name

ECC_EK = ec.generate_private_key(ec.SECP256R1())
AK = Forger().ak
SECRET = b"s" * 32
RANDOM = hashlib.sha512(b"randomness").digest()


def kdfa(seed, label, context, bits):
    """KDFa is SP 800-108 in counter mode, with both lengths in 32 bits."""
    return KBKDFHMAC(
        algorithm=hashes.SHA256(),
        mode=Mode.CounterMode,
        length=bits // 8,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    ).derive(seed)


def activate(ek, ak_name, blob, encrypted):
    """What a TPM does with a credential."""
    encrypted = encrypted[2:]
    if isinstance(ek, ec.EllipticCurvePrivateKey):
        x, y = int.from_bytes(encrypted[2:34], "big"), int.from_bytes(encrypted[36:68], "big")
        once = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        mine = ek.public_key().public_numbers().x.to_bytes(32, "big")
        info = b"IDENTITY\0" + x.to_bytes(32, "big") + mine
        seed = ConcatKDFHash(hashes.SHA256(), 32, info).derive(ek.exchange(ec.ECDH(), once))
    else:
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
        seed = ek.decrypt(encrypted, oaep)
    (size,) = struct.unpack_from(">H", blob)
    assert size == len(blob) - 2
    outer, hidden = blob[4:36], blob[36:]
    key = kdfa(seed, b"INTEGRITY", b"", 256)
    if not hmac.compare_digest(outer, hmac.digest(key, hidden + ak_name, "sha256")):
        raise ValueError("integrity")
    storage = kdfa(seed, b"STORAGE", ak_name, 128)
    decryptor = Cipher(AES(storage), CFB(bytes(16))).decryptor()
    plain = decryptor.update(hidden) + decryptor.finalize()
    assert struct.unpack_from(">H", plain)[0] == len(plain) - 2
    return plain[2:]


@pytest.mark.parametrize("ek", [RSA_EK, ECC_EK], ids=["rsa", "ecc"])
def test_only_the_named_key_gets_the_secret(ek):
    made = make_credential(ek_public(ek), AK, SECRET, randomness=RANDOM)
    assert activate(ek, name(AK), *made) == SECRET
    with pytest.raises(ValueError, match="integrity"):
        activate(ek, name(Forger().ak), *made)
    other = make_credential(ek_public(ek), AK, SECRET, randomness=RANDOM[::-1])
    assert other[0] != made[0]
    assert other[1] != made[1]
    assert SECRET not in made[0] + made[1]


def test_pure():
    both = [make_credential(ek_public(RSA_EK), AK, SECRET, randomness=RANDOM) for _ in range(2)]
    assert both[0] == both[1]


@settings(max_examples=15, deadline=None)
@given(st.binary(min_size=1, max_size=32), st.binary(min_size=64, max_size=64))
def test_any_secret(secret, randomness):
    made = make_credential(ek_public(ECC_EK), AK, secret, randomness=randomness)
    assert activate(ECC_EK, name(AK), *made) == secret


def refused(code, *arguments, randomness=RANDOM):
    with pytest.raises(SvetovidError) as e:
        make_credential(*arguments, randomness=randomness)
    assert e.value.code == code
    assert e.value.reason.next_step


def test_sizes():
    assert RANDOMNESS_BYTES == 64
    refused("credential.size", ek_public(RSA_EK), AK, b"")
    refused("credential.size", ek_public(RSA_EK), AK, bytes(33))
    refused("credential.size", ek_public(RSA_EK), AK, SECRET, randomness=bytes(63))


@pytest.mark.parametrize(
    "ek",
    [
        ek_public(ec.generate_private_key(ec.SECP384R1()), curve=4),
        ek_public(RSA_EK, symmetric=struct.pack(">H", 0x0010)),
        ek_public(RSA_EK, symmetric=struct.pack(">HHH", 6, 128, 0x0042)),
        ek_public(RSA_EK, symmetric=struct.pack(">HHH", 6, 192, 0x0043)),
        ek_public(RSA_EK, name_alg=0x000C),
    ],
)
def test_other_endorsement_keys(ek):
    refused("ek.algorithm", ek, AK, SECRET)
    camellia = ek_public(RSA_EK, symmetric=struct.pack(">HHH", 0x0026, 128, 0x0043))
    refused("tpm.malformed", camellia, AK, SECRET)


def test_an_ek_that_is_none():
    refused("ek.attributes", Forger().ak, AK, SECRET)
    refused("tpm.malformed", ek_public(RSA_AK)[:-1], AK, SECRET)
    refused("tpm.malformed", ek_public(RSA_EK), AK + b"\0", SECRET)
