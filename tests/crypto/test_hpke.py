"""Sealing to a receiver: nothing but the right key in the right context opens it (C9, K8)."""

from __future__ import annotations

import hashlib
import hmac
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from svetovid.crypto import ReceivingKey, Secret, b64decode, b64encode, canonical, seal
from svetovid.crypto.hpke import PUBLIC_KEY_BYTES
from svetovid.errors import IntegrityError, ParseError, SvetovidError

CONTEXT = {"purpose": "asset key", "manifest": "sha256:" + "a" * 64}
MLKEM_CIPHERTEXT = 1088
ENC = MLKEM_CIPHERTEXT + 32
LOW_ORDER = [  # RFC 7748 points whose product with any clamped scalar is zero
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.fixture(scope="module")
def key() -> ReceivingKey:
    return ReceivingKey.generate()


@pytest.fixture(scope="module")
def sealed(key: ReceivingKey) -> bytes:
    return b64decode(seal(Secret(b"k" * 32), key.public, CONTEXT))


def refused(key: ReceivingKey, sealed: bytes, context: dict[str, str] | None = None) -> str:
    with pytest.raises(IntegrityError) as e:
        key.open(b64encode(sealed), CONTEXT if context is None else context)
    return e.value.code


def test_what_was_sealed_opens(key: ReceivingKey) -> None:
    for length in (0, 1, 32, 5000):
        secret = Secret.random(length)
        text = seal(secret, key.public, CONTEXT)
        assert key.open(text, CONTEXT) == secret
        assert key.open(text, dict(reversed(CONTEXT.items()))) == secret
    assert len(b64decode(key.public)) == PUBLIC_KEY_BYTES


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"purpose": "release", "manifest": CONTEXT["manifest"]},
        {"purpose": "asset key", "manifest": "sha256:" + "b" * 64},
        {"purpose": "asset key"},
        CONTEXT | {"job": ""},
    ],
)
def test_another_context_does_not_open(
    key: ReceivingKey, sealed: bytes, context: dict[str, str]
) -> None:
    """C9: wrong info. What was sealed for one purpose, asset or job opens for no other."""
    assert refused(key, sealed, context) == "hpke.open"


def test_another_receiver_does_not_open(sealed: bytes) -> None:
    """K8: a key wrapped for one recipient and delivered to another."""
    assert refused(ReceivingKey.generate(), sealed) == "hpke.open"


def test_half_the_receiver_does_not_open(key: ReceivingKey, sealed: bytes) -> None:
    """Both parts of the hybrid count: one stolen seed of the two is not enough."""
    seed, other = key.seed.reveal(), ReceivingKey.generate().seed.reveal()
    assert refused(ReceivingKey(Secret(seed[:64] + other[64:])), sealed) == "hpke.open"
    assert refused(ReceivingKey(Secret(other[:64] + seed[64:])), sealed) == "hpke.open"


def test_swapped_parts_do_not_open(key: ReceivingKey, sealed: bytes) -> None:
    """C9: the encapsulation, or a part of it, of another message to the same receiver."""
    other = b64decode(seal(Secret(b"k" * 32), key.public, CONTEXT))
    assert refused(key, other[:ENC] + sealed[ENC:]) == "hpke.open"
    assert refused(key, other[:MLKEM_CIPHERTEXT] + sealed[MLKEM_CIPHERTEXT:]) == "hpke.open"
    mixed = sealed[:MLKEM_CIPHERTEXT] + other[MLKEM_CIPHERTEXT:ENC] + sealed[ENC:]
    assert refused(key, mixed) == "hpke.open"


def test_truncated_at_every_byte(key: ReceivingKey, sealed: bytes) -> None:
    for n in range(len(sealed)):
        assert refused(key, sealed[:n]) == "hpke.open"
    assert refused(key, sealed + b"\0") == "hpke.open"


@settings(max_examples=120)
@given(st.data())
def test_any_changed_byte_is_noticed(key: ReceivingKey, sealed: bytes, data: st.DataObject) -> None:
    raw = bytearray(sealed)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert refused(key, bytes(raw)) == "hpke.open"


@settings(max_examples=60)
@given(st.text(max_size=40) | st.binary(max_size=1400).map(b64encode))
def test_any_text_gives_our_error(key: ReceivingKey, text: str) -> None:
    with pytest.raises(SvetovidError):
        key.open(text, CONTEXT)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_points_are_refused(key: ReceivingKey, sealed: bytes, point: str) -> None:
    """C9: an all-zero X25519 result (RFC 7748, section 6.1), as receiver and as sender."""
    public = b64decode(key.public)[:1184] + bytes.fromhex(point)
    with pytest.raises(IntegrityError) as e:
        seal(Secret(b"k"), b64encode(public), CONTEXT)
    assert e.value.code == "hpke.seal"
    forged = sealed[:MLKEM_CIPHERTEXT] + bytes.fromhex(point) + sealed[ENC:]
    assert refused(key, forged) == "hpke.open"


@pytest.mark.parametrize("length", [0, 1, 32, 1184, PUBLIC_KEY_BYTES - 1, PUBLIC_KEY_BYTES + 1])
def test_receivers_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(ParseError) as e:
        seal(Secret(b"k"), b64encode(bytes(length)), CONTEXT)
    assert e.value.code == "key.length"


def test_a_receiver_outside_the_ring_is_refused(key: ReceivingKey) -> None:
    """FIPS 203, section 7.2: coefficients of an encapsulation key lie below q."""
    public = b"\xff" * 1184 + b64decode(key.public)[1184:]
    with pytest.raises(ParseError) as e:
        seal(Secret(b"k"), b64encode(public), CONTEXT)
    assert e.value.code == "key.invalid"


@pytest.mark.parametrize("length", [0, 32, 64, 95, 97])
def test_a_private_key_has_one_length(length: int) -> None:
    with pytest.raises(ParseError) as e:
        ReceivingKey(Secret(bytes(length)))
    assert e.value.code == "key.length"


def test_two_seals_never_look_alike(key: ReceivingKey) -> None:
    assert seal(Secret(b"k"), key.public, CONTEXT) != seal(Secret(b"k"), key.public, CONTEXT)


# --- an independent opener, written from the texts --------------------------------------------


def _extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()


def _expand(prk: bytes, info: bytes, length: int) -> bytes:
    out = block = b""
    for n in range(1, 3):
        block = hmac.new(prk, block + info + bytes([n]), hashlib.sha256).digest()
        out += block
    return out[:length]


def _open_by_hand(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    """HPKE base mode (RFC 9180, section 5.1) over X-Wing (draft-connolly-cfrg-xwing-kem)."""
    mlkem = MLKEM768PrivateKey.from_seed_bytes(seed[:64])
    x25519 = X25519PrivateKey.from_private_bytes(seed[64:])
    ct_x = sealed[MLKEM_CIPHERTEXT:ENC]
    shared = hashlib.sha3_256(
        mlkem.decapsulate(sealed[:MLKEM_CIPHERTEXT])
        + x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
        + ct_x
        + x25519.public_key().public_bytes_raw()
        + bytes.fromhex("5c2e2f2f5e5c")  # the label, drawn as a wing
    ).digest()
    suite = b"HPKE" + (0x647A).to_bytes(2, "big") + b"\0\x01" + b"\0\x02"

    def extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return _extract(salt, b"HPKE-v1" + suite + label + ikm)

    def expand(prk: bytes, label: bytes, context: bytes, length: int) -> bytes:
        return _expand(
            prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context, length
        )

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    aead = AESGCM(expand(secret, b"key", context, 32))
    return aead.decrypt(expand(secret, b"base_nonce", context, 12), sealed[ENC:], b"")


def test_an_independent_implementation_opens_it(key: ReceivingKey, sealed: bytes) -> None:
    info = canonical(CONTEXT)
    assert _open_by_hand(key.seed.reveal(), sealed, info) == b"k" * 32


def test_the_x25519_half_agrees_with_openssl(key: ReceivingKey) -> None:
    der = bytes.fromhex("302e020100300506032b656e04220420") + key.seed.reveal()[64:]
    command = ["openssl", "pkey", "-inform", "DER", "-pubout", "-outform", "DER"]
    out = subprocess.run(command, input=der, capture_output=True, check=True).stdout
    assert out[-32:] == b64decode(key.public)[1184:]
