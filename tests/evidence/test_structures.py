"""Strict readers of TPM structures: attack ids TS1-TS4, TS8, I1."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence import vectors
from evidence.forger import RSA_AK, Forger
from svetovid.errors import EvidenceError, ParseError, SvetovidError
from svetovid.evidence.tpm import (
    Alg,
    endorsement_signers,
    name,
    parse_attest,
    parse_public,
    parse_signature,
    public_key,
)
from svetovid.evidence.tpm.attributes import check_ak, check_ek
from svetovid.evidence.tpm.wire import tpm2b
from tpmbytes import bitmap, ecc_public, ek_public, rsa_public

TPM = Forger()
QUOTE, SIGNATURE = TPM.quote(b"x" * 32)
PARSERS = [
    (parse_attest, QUOTE, "attest.malformed"),
    (parse_public, TPM.ak, "tpm.malformed"),
    (parse_public, rsa_public(RSA_AK), "tpm.malformed"),
    (parse_public, ek_public(RSA_AK), "tpm.malformed"),
    (parse_signature, SIGNATURE, "tpm.malformed"),
    (parse_signature, Forger(0x0014).quote(b"")[1], "tpm.malformed"),
]


@pytest.mark.parametrize(("parse", "good", "code"), PARSERS)
def test_ts3_every_truncation_and_trailing_byte(parse, good, code):
    parse(good)
    for bad in [*(good[:i] for i in range(len(good))), good + b"\0"]:
        with pytest.raises(ParseError) as e:
            parse(bad)
        assert e.value.code == code
        assert e.value.reason.next_step


@pytest.mark.parametrize(("parse", "good", "code"), PARSERS)
def test_any_changed_byte_gives_only_our_errors(parse, good, code):
    for i in range(len(good)):
        for value in (0, 1, 0x7F, 0xFF):
            bad = good[:i] + bytes([value]) + good[i + 1 :]
            try:
                parse(bad)
            except SvetovidError as e:
                assert e.code in {code, "attest.magic", "attest.type", "sig.alg"}  # noqa: PT017


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_fuzz(data):
    for parse, good, _ in PARSERS:
        for candidate in (data, good[:6] + data):
            try:
                parse(candidate)
            except SvetovidError as e:
                assert e.reason.expected  # noqa: PT017


def refused(code, call, *arguments):
    with pytest.raises(SvetovidError) as e:
        call(*arguments)
    assert e.value.code == code
    assert e.value.reason.next_step


def test_ts1_magic():
    refused("attest.magic", parse_attest, TPM.form(b"", magic=0xFF544346).pack())


@pytest.mark.parametrize("tag", [0x8014, 0x8017, 0x8019, 0x801A, 0])
def test_ts2_ts8_type(tag):
    refused("attest.type", parse_attest, TPM.form(b"x" * 32, tag=tag).pack())


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 17},
        {"count": 0xFFFFFFFF},
        {"selections": tuple(bitmap((), bank) for bank in range(17))},
        {"safe": 2},
        {"signer": bytes(67)},
        {"extra": bytes(65)},
        {"digest": bytes(65)},
        {"selections": (bitmap(range(11), size=4),)},
        {"selections": (bitmap((), size=0),)},
        {"trailing": b"\0"},
    ],
)
def test_ts3_sizes(changes):
    bad = replace(TPM.form(b""), **changes).pack()
    refused("attest.malformed", parse_attest, bad)


@pytest.mark.parametrize(
    ("scheme", "hash_alg"),
    [(0x0014, 0x0004), (0x0018, 0x0004), (0x0005, 0x000B), (0x0010, 0x000B), (0x001A, 0x000B)],
)
def test_ts4_signature_algorithms(scheme, hash_alg):
    refused("sig.alg", parse_signature, struct.pack(">HH", scheme, hash_alg) + SIGNATURE[4:])


P384 = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack(">H", 0x0008) + TPM.ak[2:],
        ecc_public(TPM.key, attributes=0x80050072),
        ecc_public(TPM.key, symmetric=struct.pack(">H", 0x000A)),
        ecc_public(TPM.key, symmetric=struct.pack(">HHH", 0x0026, 128, 0x0043)),
        ecc_public(TPM.key, scheme=struct.pack(">HH", 0x0014, 0x000B)),
        ecc_public(TPM.key, scheme=struct.pack(">H", 0x0015)),
        ecc_public(TPM.key, curve=0x0010),
        ecc_public(TPM.key, curve=0x00FF),
        rsa_public(RSA_AK, scheme=struct.pack(">HH", 0x0018, 0x000B)),
        rsa_public(RSA_AK)[:-1],
        rsa_public(RSA_AK)[:-258] + tpm2b(bytes([0x80]) + bytes(127)),
    ],
)
def test_public_malformed(bad):
    refused("tpm.malformed", parse_public, bad)


def test_other_good_publics():
    big = parse_public(ecc_public(P384, curve=4))
    assert public_key(big).key_size == 384
    encrypting = parse_public(rsa_public(RSA_AK, scheme=struct.pack(">H", 0x0015)))
    assert encrypting.scheme == (Alg.RSAES, 0)
    assert parse_public(ek_public(RSA_AK)).symmetric == (Alg.AES, 128, Alg.CFB)


def test_point_off_the_curve():
    bad = parse_public(TPM.ak[:-1] + bytes([TPM.ak[-1] ^ 1]))
    refused("tpm.malformed", public_key, bad)


def test_name_algorithm():
    refused("tpm.algorithm", name, parse_public(rsa_public(RSA_AK, name_alg=0x0004)))


@pytest.mark.parametrize("boot", vectors.BOOTS)
def test_genuine_names(boot):
    v = vectors.boot(boot)
    ak, ek = parse_public(v.ak), parse_public(v.ek)
    check_ak(ak)
    check_ek(ek)
    assert name(ak) == v.ak_name
    assert parse_attest(v.quote).qualified_signer in endorsement_signers(ek, ak)
    assert parse_attest(v.quote).extra_data == v.nonce


@pytest.mark.parametrize("bit", [1, 4, 5, 16, 18])
def test_i1_ak_lacks_an_attribute(bit):
    bad = parse_public(ecc_public(TPM.key, attributes=0x00050072 & ~(1 << bit)))
    refused("ak.attributes", check_ak, bad)


def test_i1_ak_that_decrypts():
    bad = parse_public(ecc_public(TPM.key, attributes=0x00050072 | 1 << 17))
    refused("ak.attributes", check_ak, bad)


@pytest.mark.parametrize(
    "scheme",
    [
        struct.pack(">H", 0x0010),
        struct.pack(">HH", 0x0018, 0x0004),
        struct.pack(">HH", 0x0019, 0x000B),
    ],
)
def test_i1_ak_scheme(scheme):
    refused("ak.scheme", check_ak, parse_public(ecc_public(TPM.key, scheme=scheme)))


@pytest.mark.parametrize("attributes", [0x000300B2 & ~(1 << 17), 0x000300B2 | 1 << 18, 0x000200B2])
def test_ek_attributes(attributes):
    refused("ek.attributes", check_ek, parse_public(ek_public(RSA_AK, attributes=attributes)))


def _small(public):
    """RSA-1024: bits and modulus cut to half, in the same form."""
    return public[: -2 - 256 - 6] + struct.pack(">HI", 1024, 0) + tpm2b(public[-128:])


def test_i5_short_rsa_keys():
    refused("ek.size", check_ek, parse_public(_small(ek_public(RSA_AK))))
    refused("ak.size", check_ak, parse_public(_small(rsa_public(RSA_AK))))


def test_error_types():
    with pytest.raises(EvidenceError):
        parse_attest(TPM.form(b"", magic=1).pack())
