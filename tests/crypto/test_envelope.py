"""DSSE envelopes: what a signature covers, and what it does not stretch to."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svetovid.crypto import Document, Envelope, Identity, b64decode, b64encode, sign
from svetovid.crypto.envelope import Signature, pae, payload_type, usable_key, verify_raw
from svetovid.errors import IntegrityError, LimitError, ParseError, SvetovidError


class Grant(Document):
    TYPE: ClassVar[str] = "grant"
    runs: int
    to: str = "nobody"


class Vote(Document):
    TYPE: ClassVar[str] = "vote"
    runs: int
    to: str = "nobody"


class Untyped(Document):
    runs: int


def resigned(envelope: Envelope, payload: bytes, kind: str, *signers: Identity) -> Envelope:
    """A validly signed envelope around whatever payload and type the attacker likes."""
    data = pae(kind, payload)
    return Envelope(
        payload=b64encode(payload),
        payloadType=kind,
        signatures=tuple(
            Signature(keyid=s.key_id, sig=b64encode(s.sign_bytes(data))) for s in signers
        ),
    )


def test_what_was_signed_opens(alice: Identity, bob: Identity) -> None:
    envelope = sign(Grant(runs=3), alice, bob)
    assert envelope.open(Grant, by=alice.key_id) == Grant(runs=3)
    assert envelope.open(Grant, by=(alice.key_id, bob.key_id)).runs == 3
    assert envelope.signed_by() == {alice.key_id, bob.key_id}
    assert Envelope.parse(envelope.canonical()) == envelope
    assert envelope.payload_digest() == Grant(runs=3).digest()


def test_pre_authentication_encoding_is_dsse() -> None:
    """The example of the DSSE 1.0 protocol page."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_another_implementation_accepts_the_signature(alice: Identity, tmp_path: Path) -> None:
    """OpenSSL's command line verifies the raw signature over the encoding, and not another."""
    envelope = sign(Grant(runs=3), alice)
    data = tmp_path / "data"
    data.write_bytes(pae(envelope.payloadType, b64decode(envelope.payload)))
    sig = tmp_path / "sig"
    sig.write_bytes(b64decode(envelope.signatures[0].sig))
    # SubjectPublicKeyInfo for Ed25519 (RFC 8410, section 4) is this prefix and the raw key.
    der = bytes.fromhex("302a300506032b6570032100" + alice.key_id.removeprefix("ed25519:"))
    key = tmp_path / "key"
    key.write_bytes(der)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin"]
    command += ["-inkey", str(key), "-sigfile", str(sig), "-in", str(data)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    data.write_bytes(data.read_bytes() + b" ")
    assert subprocess.run(command, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    ("secret", "public", "message", "signature"),
    [  # RFC 8032, section 7.1, tests 1 and 3
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
            "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290"
            "ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_rfc_8032_vectors(secret: str, public: str, message: str, signature: str) -> None:
    from svetovid.crypto import ReceivingKey, Secret

    identity = Identity("x", Secret(bytes.fromhex(secret)), ReceivingKey.generate())
    assert identity.key_id == "ed25519:" + public
    assert identity.sign_bytes(bytes.fromhex(message)).hex() == signature
    assert verify_raw(identity.key_id, bytes.fromhex(signature), bytes.fromhex(message))
    assert not verify_raw(identity.key_id, bytes.fromhex(signature), bytes.fromhex(message) + b"x")


def test_a_signature_on_one_type_is_none_on_another(alice: Identity) -> None:
    """Type confusion: a grant and a vote have the same fields."""
    envelope = sign(Grant(runs=3), alice)
    with pytest.raises(IntegrityError) as e:
        envelope.open(Vote, by=alice.key_id)
    assert e.value.code == "signature.type"
    relabelled = envelope.model_copy(update={"payloadType": payload_type("vote")})
    with pytest.raises(IntegrityError) as e:
        relabelled.open(Vote, by=alice.key_id)
    assert e.value.code == "signature.invalid"
    with pytest.raises(IntegrityError) as e:
        relabelled.open(Grant, by=alice.key_id)
    assert e.value.code == "signature.type", "the cheap check comes first"
    with pytest.raises(IntegrityError) as e:
        envelope.peek(Vote)
    assert e.value.code == "signature.type"


def test_an_altered_payload_is_refused(alice: Identity) -> None:
    envelope = sign(Grant(runs=3), alice)
    altered = envelope.model_copy(update={"payload": b64encode(Grant(runs=4).canonical())})
    with pytest.raises(IntegrityError) as e:
        altered.open(Grant, by=alice.key_id)
    assert e.value.code == "signature.invalid"


def test_every_bit_of_payload_and_signature_counts(alice: Identity) -> None:
    envelope = sign(Grant(runs=3), alice)
    payload = b64decode(envelope.payload)
    sig = b64decode(envelope.signatures[0].sig)
    data = pae(envelope.payloadType, payload)
    for n in range(len(sig) * 8):
        bad = bytearray(sig)
        bad[n // 8] ^= 1 << n % 8
        assert not verify_raw(alice.key_id, bytes(bad), data)
    for n in range(len(data) * 8):
        bad = bytearray(data)
        bad[n // 8] ^= 1 << n % 8
        assert not verify_raw(alice.key_id, sig, bytes(bad))
    for n in range(len(sig)):
        assert not verify_raw(alice.key_id, sig[:n], data)


def test_a_missing_signer_is_named(alice: Identity, bob: Identity) -> None:
    envelope = sign(Grant(runs=3), alice)
    with pytest.raises(IntegrityError) as e:
        envelope.open(Grant, by=(alice.key_id, bob.key_id))
    assert e.value.code == "signature.missing"
    assert bob.key_id in e.value.reason.expected
    with pytest.raises(IntegrityError) as e:
        envelope.open(Grant, by=())
    assert e.value.code == "signature.missing"


def test_one_key_signs_once(alice: Identity) -> None:
    envelope = sign(Grant(runs=3), alice)
    doubled = envelope.model_copy(update={"signatures": envelope.signatures * 2})
    with pytest.raises(IntegrityError) as e:
        doubled.open(Grant, by=alice.key_id)
    assert e.value.code == "signature.invalid"


def test_nothing_unverified_travels_along(alice: Identity, bob: Identity) -> None:
    """A third party's name beside a valid signature is refused, not ignored."""
    envelope = sign(Grant(runs=3), alice)
    forged = Signature(keyid=bob.key_id, sig=envelope.signatures[0].sig)
    crowded = envelope.model_copy(update={"signatures": (*envelope.signatures, forged)})
    with pytest.raises(IntegrityError) as e:
        crowded.open(Grant, by=alice.key_id)
    assert e.value.code == "signature.invalid"
    assert bob.key_id in e.value.reason.observed


@pytest.mark.parametrize(
    "payload",
    [
        b'{"to":"nobody","runs":3}',
        b'{"runs": 3,"to":"nobody"}',
        b'{"runs":3}',
        b'{"runs":3,"to":"\\u006eobody"}',
    ],
)
def test_only_the_canonical_form_is_signed(alice: Identity, payload: bytes) -> None:
    """V2: bytes that parse to the same document have another hash, so they are refused."""
    envelope = resigned(sign(Grant(runs=3), alice), payload, payload_type("grant"), alice)
    with pytest.raises(IntegrityError) as e:
        envelope.open(Grant, by=alice.key_id)
    assert e.value.code == "signature.canonical"


def test_a_whole_number_is_written_without_a_point(alice: Identity) -> None:
    """V2: 3.0 is 3 in canonical form, and no integer here."""
    payload = b'{"runs":3.0,"to":"nobody"}'
    envelope = resigned(sign(Grant(runs=3), alice), payload, payload_type("grant"), alice)
    with pytest.raises(ParseError) as e:
        envelope.open(Grant, by=alice.key_id)
    assert e.value.code == "document.invalid"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "json.syntax"),
        (b'{"runs":3,"runs":3,"to":"x"}', "json.duplicate_key"),
        (b'{"runs":"3","to":"x"}', "document.invalid"),
        (b"[" * 100_000, "json.depth"),
    ],
)
def test_a_signed_payload_is_still_parsed_strictly(
    alice: Identity, payload: bytes, code: str
) -> None:
    envelope = resigned(sign(Grant(runs=3), alice), payload, payload_type("grant"), alice)
    with pytest.raises(SvetovidError) as e:
        envelope.open(Grant, by=alice.key_id)
    assert e.value.code == code


def test_what_nobody_would_read_is_not_signed(alice: Identity) -> None:
    class Short(Grant):
        MAX_BYTES: ClassVar[int] = 10

    with pytest.raises(LimitError) as e:
        sign(Short(runs=3), alice)
    assert e.value.code == "json.size"


def test_only_typed_documents_are_signed(alice: Identity) -> None:
    for args in ((Untyped(runs=1), alice), (Grant(runs=1),)):
        with pytest.raises(ParseError) as e:
            sign(*args)  # type: ignore[arg-type]
        assert e.value.code == "signature.type"


def test_a_type_that_is_not_ascii_is_a_refusal(alice: Identity) -> None:
    envelope = sign(Grant(runs=3), alice).model_copy(update={"payloadType": "gränt"})
    with pytest.raises(IntegrityError) as e:
        envelope.signed_by()
    assert e.value.code == "signature.invalid"


SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    # the same points with y written as y + p: not the one encoding
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_a_key_for_which_anybody_can_sign_is_no_key(public: str) -> None:
    """R = the identity and S = 0 satisfy RFC 8032's equation for points of small order."""
    forged = bytes.fromhex(SMALL_ORDER[0]) + bytes(32)
    assert not usable_key(bytes.fromhex(public))
    assert not verify_raw("ed25519:" + public, forged, b"anything")


def test_the_check_of_weak_keys_is_needed() -> None:
    """The library alone accepts a signature that nobody made."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    forged = bytes.fromhex(SMALL_ORDER[0]) + bytes(32)
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(SMALL_ORDER[0])).verify(forged, b"anything")


@pytest.mark.parametrize("key", ["", "ed25519:", "ed25519:zz", "ed25519:00", "rsa:" + "1" * 64])
def test_malformed_keys_verify_nothing(key: str) -> None:
    assert not verify_raw(key, bytes(64), b"")


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"payload": "AB=="},
        {"payload": None},
        {"payloadType": "x" * 129},
        {"signatures": [{"keyid": "alice", "sig": ""}]},
        {"signatures": [{"keyid": "ed25519:" + "0" * 64, "sig": "", "more": 1}]},
        {"unsigned": "note"},
    ],
)
def test_malformed_envelopes_are_refused(alice: Identity, change: dict[str, object]) -> None:
    with pytest.raises(ParseError) as e:
        Envelope.from_json(sign(Grant(runs=3), alice).to_json() | change)
    assert e.value.code == "document.invalid"


def test_at_most_sixteen_signatures_are_looked_at(alice: Identity) -> None:
    value = sign(Grant(runs=3), alice).to_json()
    with pytest.raises(ParseError):
        Envelope.from_json(value | {"signatures": value["signatures"] * 17})


def test_truncated_at_every_byte(alice: Identity) -> None:
    data = sign(Grant(runs=3), alice).canonical()
    for n in range(len(data)):
        with pytest.raises(ParseError):
            Envelope.parse(data[:n])


@settings(max_examples=60)
@given(st.data())
def test_one_changed_byte_never_opens(data: st.DataObject) -> None:
    signer = Identity.generate("x")
    raw = bytearray(sign(Grant(runs=3), signer).canonical())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SvetovidError):
        Envelope.parse(bytes(raw)).open(Grant, by=signer.key_id)
