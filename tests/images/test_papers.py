"""The reference values as a CoRIM, read back by an eye of its own; both forms, signed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attested_host import references
from attested_host.cbor import Tagged, encode
from attested_host.corim import corim
from attested_host.lock import BuildError
from attested_host.papers import identity_in, sign_papers
from attested_host.references import SECURE_BOOT, File
from attested_host.uki import Parts
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from svetovid.crypto import Envelope, Identity
from svetovid.evidence.documents import BootReferences, ReferenceValues

A, B, C = ("sha256:" + digit * 64 for digit in "abc")
FILES = [
    File("/usr/bin/python3.11", A, "python3.11-minimal 3.11"),
    File("/init", B, "recipe"),
    File("/init", C, "lab"),
]
PCRS = {"4": A, SECURE_BOOT: B, "9": B, "11": C, "12": A}


def read(data: bytes) -> Any:
    item, rest = _read(data)
    assert not rest
    return item


def _read(data: bytes) -> tuple[Any, bytes]:
    major, value = data[0] >> 5, data[0] & 31
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(value, 0)
    if size:
        value = int.from_bytes(data[1 : 1 + size], "big")
    data = data[1 + size :]
    if major < 2:
        return (value if major == 0 else -1 - value), data
    if major < 4:
        text = data[:value]
        return (text if major == 2 else text.decode()), data[value:]
    if major == 6:
        item, data = _read(data)
        return Tagged(value, item), data
    found = []
    for _ in range(value * (major - 3)):
        item, data = _read(data)
        found.append(item)
    return (found if major == 4 else dict(zip(found[::2], found[1::2], strict=True))), data


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (0, "00"), (23, "17"), (24, "1818"), (1000, "1903e8"), (1000000, "1a000f4240"),
        (18446744073709551615, "1bffffffffffffffff"), (-1, "20"), (-1000, "3903e7"),
        (b"\1\2\3\4", "4401020304"), ("IETF", "6449455446"), ("\u00fc", "62c3bc"), ([], "80"),
        ([1, [2, 3]], "8201820203"), ({1: 2, 3: 4}, "a201020304"),
        ({10: 1, "a": 2}, "a20a01616102"), (Tagged(1, 1363896240), "c11a514b67b0"),
    ],
)  # fmt: skip
def test_the_examples_of_rfc_8949(item: Any, encoded: str) -> None:
    assert encode(item).hex() == encoded
    assert read(encode(item)) == item


def test_keys_stand_in_one_order() -> None:
    assert encode({2: 0, 1: 0}) == encode({1: 0, 2: 0})
    with pytest.raises(ValueError, match="64 bits"):
        encode(1 << 64)


def test_a_corim_says_what_the_reference_values_say() -> None:
    whole = read(corim(FILES, PCRS, product="attested-host-numpy", version=7))
    assert whole.tag == 501
    assert whole.item[0] == "attested-host-numpy 7"
    (tag,) = whole.item[1]
    assert tag.tag == 506
    comid = read(tag.item)
    assert comid[1] == {0: "attested-host-numpy", 1: 7}
    (boot, boots), (files, entries) = comid[4][0]
    assert boot == {0: {1: "Svetovid", 2: "attested-host-numpy", 3: 0}}
    assert files == {0: {1: "Svetovid", 2: "attested-host-numpy", 3: 1}}
    a, b, c = ([1, bytes.fromhex(d[7:])] for d in (A, B, C))
    assert boots == [
        {0: "PCRs", 1: {14: {4: [a], 9: [b], 11: [c], 12: [a]}}},
        {0: "PCRs under secure boot", 1: {14: {4: [b], 9: [b], 11: [c], 12: [a]}}},
    ]
    assert entries == [
        {0: "/init", 1: {2: [b, c], 11: "lab; recipe"}},
        {0: "/usr/bin/python3.11", 1: {2: [a], 11: "python3.11-minimal 3.11"}},
    ]


def test_both_forms_are_signed(tmp_path: Path) -> None:
    """T2: by whoever vouches for them; another byte, another key, and the signature is gone."""
    values = ReferenceValues(product="p", version=1, provenance="a test")
    unsigned = corim(FILES, PCRS, product="p", version=1)
    (tmp_path / "references.json").write_bytes(values.canonical())
    (tmp_path / "references.corim").write_bytes(unsigned)
    vera = Identity.generate("vera")
    sign_papers(tmp_path, vera)
    signed = Envelope.parse((tmp_path / "references.signed.json").read_bytes())
    assert signed.open(ReferenceValues, by=vera.key_id) == values
    sign1 = read((tmp_path / "references.signed.corim").read_bytes())
    assert sign1.tag == 18
    protected, unprotected, payload, signature = sign1.item
    assert (unprotected, payload) == ({}, unsigned)
    head = read(protected)
    assert (head[1], head[3], read(head[8])) == (-8, "application/rim+cbor", {0: {0: vera.key_id}})
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(vera.key_id.removeprefix("ed25519:")))
    key.verify(signature, encode(["Signature1", protected, b"", payload]))
    with pytest.raises(InvalidSignature):
        key.verify(signature, encode(["Signature1", protected, b"", payload + b"x"]))


def test_what_is_too_much_for_one_document_is_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "_MAX_FILES", 2)
    monkeypatch.setattr(references, "boot_references", lambda *_: BootReferences())
    parts = Parts(b"", b"", b"", "", b"")
    files = [File(f"/{i}", A, "p 1") for i in range(5)]
    made = references.reference_values(
        files, parts, b"", product="p", version=3, provenance="a test"
    )
    assert [d.product for d in made] == ["p", "p-2", "p-3"]
    assert [sorted(d.files) for d in made] == [["/0", "/1"], ["/2", "/3"], ["/4"]]
    assert [d.boot is not None for d in made] == [True, False, False]
    references.write_values(tmp_path, made)
    (tmp_path / "references.corim").write_bytes(b"")
    sign_papers(tmp_path, Identity.generate("vera"))
    assert [p.name for p in references.values_in(tmp_path)] == [
        "references.json",
        "references-2.json",
        "references-3.json",
    ]
    assert (tmp_path / "references-3.signed.json").exists()


def test_signing_needs_a_passphrase(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SVETOVID_PASSPHRASE_FILE", raising=False)
    with pytest.raises(BuildError, match="passphrase"):
        identity_in(tmp_path)
