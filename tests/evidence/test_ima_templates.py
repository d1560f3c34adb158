"""Templates of the kernel's log and the signatures in them: M6 to M8, M14 to M16."""

from __future__ import annotations

import hashlib
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.authorities import NOW
from evidence.ima_bytes import fields, raw_entry
from svetovid.crypto import b64encode, digest
from svetovid.errors import SvetovidError
from svetovid.evidence import ReferenceValues
from svetovid.evidence.ima import boot_aggregate_digest, build_entry, parse_log, replay
from svetovid.evidence.ima.listing import compare
from svetovid.evidence.ima.signatures import check_signature, load_signer
from svetovid.evidence.ima.templates import MAX_SIGNATURE, Detail
from svetovid.evidence.references import Current

CONTENT = b"x"
SHA256 = hashlib.sha256(CONTENT).digest()
D_NG = b"sha256:\0" + SHA256
D_V2 = b"ima:sha256:\0" + SHA256
VERITY = b"verity:sha256:\0" + SHA256
PATH = b"/bin/x\0"
RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
EVM = (b"\x05\x02\x04", b"security.ima|security.selinux\0", struct.pack("<II", 3, 2), b"abcde")
IDS = (bytes(4), bytes(4), bytes(2))
MODSIG = b"\x30\x03abc"


def entry(template: bytes, *parts: bytes, **more: object) -> bytes:
    return raw_entry(template=template, body=fields(*parts), **more)


def refused(code, call, *arguments):
    with pytest.raises(SvetovidError) as e:
        call(*arguments)
    assert e.value.code == code, e.value
    assert e.value.reason.next_step
    return e.value


def current(*sets):
    return Current.at(sets, NOW)


GOOD = {
    "ima-ng": entry(b"ima-ng", D_NG, PATH),
    "ima-ngv2": entry(b"ima-ngv2", D_V2, PATH),
    "ima-sig": entry(b"ima-sig", D_NG, PATH, b"\x03\x02signature"),
    "ima-sig without": entry(b"ima-sig", D_NG, PATH, b""),
    "ima-sigv2": entry(b"ima-sigv2", D_V2, PATH, b""),
    "ima-buf": entry(b"ima-buf", D_NG, b"kexec-cmdline\0", CONTENT),
    "ima-modsig": entry(b"ima-modsig", D_NG, PATH, b"", D_NG, MODSIG),
    "ima-modsig without": entry(b"ima-modsig", D_NG, PATH, b"", b"", b""),
    "evm-sig": entry(b"evm-sig", D_NG, PATH, *EVM, *IDS),
    "evm-sig without": entry(b"evm-sig", D_NG, PATH, b"", b"", b"", b"", *IDS),
}


@pytest.mark.parametrize("name", GOOD)
def test_m7_every_template_of_the_kernel(name):
    (found,) = parse_log(GOOD[name])
    assert found.path == ("kexec-cmdline" if name == "ima-buf" else "/bin/x")
    assert found.named_digest == digest(CONTENT)
    assert (found.detail is not None) == (name in ("ima-buf", "ima-sig"))
    body = GOOD[name][24 + 4 + len(name.split()[0]) + 4 :]
    assert found.extension == hashlib.sha256(body).digest()


@pytest.mark.parametrize("name", GOOD)
def test_m6_template_digests_of_every_bank(name):
    """The log's own SHA-1 says nothing of the other banks: each is computed anew."""
    log = GOOD[name] * 3
    body = GOOD[name][24 + 4 + len(name.split()[0]) + 4 :]
    for bank in ("sha1", "sha256", "sha384", "sha512"):
        size = hashlib.new(bank).digest_size
        value = bytes(size)
        for _ in range(2):
            value = hashlib.new(bank, value + hashlib.new(bank, body).digest()).digest()
        assert replay(parse_log(log, bank), bytes(size), value, bank) == 2
        other = {"sha1": "sha256"}.get(bank, "sha1")
        refused("ima.replay", replay, parse_log(log, other), bytes(size), value, bank)


def test_violations_of_every_bank():
    for bank in ("sha1", "sha256", "sha384", "sha512"):
        (found,) = parse_log(entry(b"ima-sig", D_NG, PATH, b"", sha1=bytes(20)), bank)
        assert found.violation
        assert found.extension == b"\xff" * hashlib.new(bank).digest_size
    (found,) = parse_log(entry(b"ima-buf", D_NG, b"name\0", b"other", sha1=bytes(20)))
    assert found.violation


@pytest.mark.parametrize("name", GOOD)
def test_every_truncation(name):
    data = GOOD[name]
    for i in range(1, len(data)):
        refused("ima.malformed", parse_log, data[:i])


BAD = [
    (b"ima-sig", (D_NG, PATH)),
    (b"ima-ng", (D_NG, PATH, b"")),
    (b"ima-ngv2", (D_NG, PATH)),
    (b"ima-ngv2", (b"other:sha256:\0" + SHA256, PATH)),
    (b"ima-ngv2", (b"ima:sha256:\0" + SHA256[1:], PATH)),
    (b"ima-ngv2", (b"ima:" + SHA256, PATH)),
    (b"ima-ngv2", (b"ima:\0" + SHA256, PATH)),
    (b"ima-sig", (D_NG, b"", b"")),
    (b"ima-sig", (D_NG, b"/bin/x", b"")),
    (b"ima-modsig", (D_NG, PATH, b"", b"", MODSIG)),
    (b"ima-modsig", (D_NG, PATH, b"", D_NG, b"")),
    (b"ima-modsig", (D_NG, PATH, b"", D_NG, b"\x30")),
    (b"ima-modsig", (D_NG, PATH, b"", D_NG, b"\x31\x03abc")),
    (b"ima-modsig", (D_NG, PATH, b"", D_NG, MODSIG + b"\0")),
    (b"ima-modsig", (D_NG, PATH, b"", D_NG, b"\x30\x80abc")),
    (b"ima-modsig", (D_NG, PATH, b"", D_NG, b"\x30\x89" + bytes(9))),
    (b"ima-modsig", (D_NG, PATH, b"", SHA256, MODSIG)),
    (b"evm-sig", (D_NG, PATH, *EVM, *IDS[:2])),
    (b"evm-sig", (D_NG, PATH, *EVM, bytes(2), bytes(4), bytes(4))),
    (b"evm-sig", (D_NG, PATH, EVM[0], EVM[1], EVM[2], b"abcd", *IDS)),
    (b"evm-sig", (D_NG, PATH, EVM[0], EVM[1], EVM[2] + b"\0", EVM[3], *IDS)),
    (b"evm-sig", (D_NG, PATH, EVM[0], EVM[1][:-1], EVM[2], EVM[3], *IDS)),
    (b"evm-sig", (D_NG, PATH, EVM[0], b"", EVM[2], EVM[3], *IDS)),
    (b"evm-sig", (D_NG, PATH, EVM[0], b"a\0b|c\0", EVM[2], EVM[3], *IDS)),
]


@pytest.mark.parametrize(("template", "parts"), BAD)
def test_malformed_fields(template, parts):
    refused("ima.malformed", parse_log, entry(template, *parts))


def test_long_der_lengths():
    for size in (200, 300, 70_000):
        width = (size.bit_length() + 7) // 8
        part = b"\x30" + bytes([0x80 + width]) + size.to_bytes(width, "big") + bytes(size)
        assert parse_log(entry(b"ima-modsig", D_NG, PATH, b"", D_NG, part))
        refused("ima.malformed", parse_log, entry(b"ima-modsig", D_NG, PATH, b"", D_NG, part[:-1]))


@pytest.mark.parametrize("template", [b"ima-ng", b"ima-modsig", b"ima-ngv2"])
def test_m8_weak_digests(template):
    weak = {
        b"ima-ng": (D_V2, PATH),
        b"ima-modsig": (D_NG, PATH, b"", b"sha1:\0" + bytes(20), MODSIG),
        b"ima-ngv2": (b"ima:sha1:\0" + bytes(20), PATH),
    }
    refused("ima.alg", parse_log, entry(template, *weak[template]))


def test_m8_sha1_is_a_kernels_word_for_its_pcrs_only():
    first = entry(b"ima-ng", b"sha1:\0" + bytes(20), b"boot_aggregate\0")
    assert parse_log(first)[0].named_digest == "sha1:" + "00" * 20
    refused("ima.alg", parse_log, entry(b"ima-ng", b"sha1:\0" + bytes(20), PATH))
    values = {i: bytes([i]) * 20 for i in range(8)}
    joined = b"".join(values.values())
    assert boot_aggregate_digest(values, "sha1") == hashlib.sha1(joined).digest()
    refused("pcr.missing", boot_aggregate_digest, values, "sha256")


@pytest.mark.parametrize(
    "name", [b"/etc/passwd\0", b"boot_aggregate\0", b"\xff\0", b"a\nb\0", b"x" * 300 + b"\0", b"\0"]
)
def test_a_buffer_cannot_pass_for_a_file_nor_a_file_for_a_buffer(name):
    """The template's name is under no digest, so a liar may swap ima-sig and ima-buf."""
    refused("ima.path", parse_log, entry(b"ima-buf", D_NG, name, CONTENT))
    refused("ima.path", parse_log, entry(b"ima-sig", D_NG, b"kexec-cmdline\0", CONTENT))


def test_m16_a_buffer_with_another_digest():
    refused("ima.buf", parse_log, entry(b"ima-buf", D_NG, b"name\0", b"other"))
    sha384 = b"sha384:\0" + hashlib.sha384(b"other").digest()
    # That it was one is kept, and it is not: whoever is root can measure any amount of bytes.
    assert parse_log(entry(b"ima-buf", sha384, b"name\0", b"other"))[0].detail == Detail(
        buffer=True
    )
    violation = entry(b"ima-buf", sha384, b"name\0", b"else", sha1=bytes(20))
    assert parse_log(violation)[0].detail == Detail(buffer=True)


@pytest.mark.parametrize("name", [b"ima-sig", b"ima-sigv2", b"ima-modsig"])
def test_a_signature_is_no_place_for_a_megabyte(name):
    """Signatures are kept in memory, with the log of each host (D1)."""
    d = D_V2 if name == b"ima-sigv2" else D_NG
    rest = (b"", b"") if name == b"ima-modsig" else ()
    (found,) = parse_log(entry(name, d, PATH, bytes(MAX_SIGNATURE), *rest))
    assert found.detail == Detail(signature=bytes(MAX_SIGNATURE))
    refused("ima.sig_size", parse_log, entry(name, d, PATH, bytes(MAX_SIGNATURE + 1), *rest))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([n.split()[0].encode() for n in GOOD]),
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([D_NG, D_V2, PATH])), max_size=9),
    st.binary(max_size=20),
)
def test_fuzz(template, parts, tail):
    for data in (entry(template, *parts), entry(template, *parts) + tail):
        try:
            for found in parse_log(data):
                assert found.path
        except SvetovidError as e:
            assert e.code.startswith("ima.")  # noqa: PT017


# -- fs-verity


def test_a_verity_digest_is_not_a_files():
    """Same bytes, another meaning: of a Merkle tree over the file."""
    (found,) = parse_log(entry(b"ima-ngv2", VERITY, PATH))
    assert found.named_digest == "verity:" + digest(CONTENT)
    good = ReferenceValues(product="x", version=1, files={"/bin/x": ("verity:" + digest(CONTENT),)})
    plain = ReferenceValues(product="x", version=1, files={"/bin/x": (digest(CONTENT),)})
    assert compare([found], current(good), begins=False).count == 0
    bad = compare([found], current(plain), begins=False)
    assert [m.code for m in bad.mismatches] == ["ima.digest"]


# -- signatures


def spki(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_id(key) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest[-4:]


def signed(key, content: bytes = CONTENT, *, named=4, kind=3, version=2, key_name=None, pad=b""):
    """security.ima as evmctl writes it."""
    algorithm = {4: hashes.SHA256(), 5: hashes.SHA384(), 6: hashes.SHA512()}.get(
        named, hashes.SHA256()
    )
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(content, padding.PKCS1v15(), algorithm)
    else:
        signature = key.sign(content, ec.ECDSA(algorithm))
    signature += pad
    head = struct.pack(">BBB", kind, version, named) + (key_name or key_id(key))
    return head + struct.pack(">H", len(signature)) + signature


SIGNERS = [load_signer(spki(RSA)), load_signer(spki(P256))]


@pytest.mark.parametrize("key", [RSA, P256])
@pytest.mark.parametrize(("named", "name"), [(4, "sha256"), (5, "sha384"), (6, "sha512")])
def test_m15_signatures_that_hold(key, named, name):
    value = hashlib.new(name, CONTENT).digest()
    check_signature(signed(key, named=named), value, SIGNERS)
    other = hashlib.new(name, b"other").digest()
    refused("ima.sig_invalid", check_signature, signed(key, named=named), other, SIGNERS)


@pytest.mark.parametrize(
    ("signature", "code"),
    [
        (b"", "ima.sig_malformed"),
        (b"\x03\x02\x04", "ima.sig_malformed"),
        (signed(P256)[:-1], "ima.sig_malformed"),
        (signed(P256) + b"\0", "ima.sig_malformed"),
        (signed(P256, version=1), "ima.sig_version"),
        (signed(P256, version=3, kind=6), "ima.sig_version"),
        (signed(P256, kind=5), "ima.sig_version"),
        (signed(P256, kind=4), "ima.sig_version"),
        (signed(P256, named=2), "ima.sig_alg"),
        (signed(P256, named=5), "ima.sig_alg"),
        (signed(P256, named=255), "ima.sig_alg"),
        (signed(ec.generate_private_key(ec.SECP256R1())), "ima.sig_key"),
        (signed(P256, key_name=key_id(RSA)), "ima.sig_invalid"),
        (signed(P256, pad=b"\0"), "ima.sig_invalid"),
        (signed(RSA, pad=b"\0"), "ima.sig_invalid"),
    ],
)
def test_m15_signatures_that_do_not(signature, code):
    refused(code, check_signature, signature, SHA256, SIGNERS)


def test_every_truncation_of_a_signature():
    whole = signed(RSA)
    for i in range(len(whole)):
        refused("ima.sig_malformed", check_signature, whole[:i], SHA256, SIGNERS)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_as_a_signature(data):
    for candidate in (data, signed(P256)[:9] + data):
        with pytest.raises(SvetovidError) as e:
            check_signature(candidate, SHA256, SIGNERS)
        assert e.value.code.startswith("ima.sig_")


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"key",
        spki(rsa.generate_private_key(65537, 1024)),
        spki(ed25519.Ed25519PrivateKey.generate()),
        spki(ec.generate_private_key(ec.SECP256K1())),
    ],
)
def test_keys_that_sign_nothing(der):
    refused("ima.signer", load_signer, der)


def values(*keys, files=None) -> ReferenceValues:
    return ReferenceValues(
        product="x",
        version=1,
        files=files or {},
        file_signers=tuple(b64encode(spki(k)) for k in keys),
    )


def judged(signature: bytes, references: ReferenceValues) -> list[str]:
    log = parse_log(entry(b"ima-sig", D_NG, PATH, signature))
    return [m.code for m in compare(log, current(references), begins=False).mismatches]


def test_m15_a_signed_file_is_good_where_it_is_not_listed():
    assert judged(signed(P256), values(P256)) == []
    assert judged(signed(RSA), values(P256, RSA)) == []
    assert judged(signed(RSA), values(P256)) == ["ima.sig_key"]
    assert judged(signed(P256), values()) == ["ima.sig_key"]
    assert judged(signed(P256, version=1), values(P256)) == ["ima.sig_version"]
    assert judged(signed(P256, b"other"), values(P256)) == ["ima.sig_invalid"]
    assert judged(b"\x03", values(P256)) == ["ima.sig_malformed"]
    assert judged(b"", values(P256)) == ["ima.unlisted"]


def test_m17_a_listed_path_is_decided_by_its_list():
    """An older file with a good signature does not come back."""
    listed = values(P256, files={"/bin/x": (digest(b"newer"),)})
    assert judged(signed(P256), listed) == ["ima.digest"]


def test_a_signature_is_of_the_files_digest_not_of_verity():
    log = parse_log(entry(b"ima-sigv2", VERITY, PATH, signed(P256)))
    found = compare(log, current(values(P256)), begins=False)
    assert [m.code for m in found.mismatches] == ["ima.unlisted"]


def test_as_many_signatures_fail_as_are_shown():
    """Ten thousand bad signatures cost thirty-two checks."""
    bad = signed(P256, b"other")
    log = parse_log(b"".join(entry(b"ima-sig", D_NG, b"/x/%d\0" % i, bad) for i in range(100)))
    found = compare(log, current(values(P256)), begins=False)
    assert found.count == 100
    assert {m.code for m in found.mismatches} == {"ima.sig_invalid"}
    good = parse_log(build_entry("/y", digest(b"y")) + entry(b"ima-sig", D_NG, PATH, signed(P256)))
    assert compare((*log, *good), current(values(P256)), begins=False).count == 102
