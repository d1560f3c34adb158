"""Every way in which storage, or whoever has a key, can lie; T14. Each has its own reason."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets import reference
from assets.sealed import WHO, Sealed, code_of, read_all, sealed, store
from svetovid.assets import Manifest, check_successor, open_asset
from svetovid.assets.format import derive
from svetovid.crypto import Secret, b64decode
from svetovid.errors import SvetovidError

CONTENT = bytes(i % 256 for i in range(300))
"""Five chunks of 64 bytes, the last one shorter."""


@pytest.fixture(scope="module")
def good() -> Sealed:
    return sealed(CONTENT)


def refused(s: Sealed, data: bytes) -> str:
    return code_of(lambda: read_all(data, s.manifest, s.key))


def parts_of(s: Sealed) -> reference.Parts:
    return reference.split(s.data, s.manifest.to_json())


def derived(s: Sealed) -> bytes:
    return derive(s.key, b64decode(s.manifest.salt))[0]


def test_untouched_container_opens(good: Sealed) -> None:
    assert read_all(good.data, good.manifest, good.key) == CONTENT


def test_reordered(good: Sealed) -> None:
    """T14, K7."""
    parts = parts_of(good)
    parts.chunks[0], parts.chunks[2] = parts.chunks[2], parts.chunks[0]
    assert refused(good, parts.join()) == "asset.reordered"


def test_repeated(good: Sealed) -> None:
    """T14, K7."""
    parts = parts_of(good)
    parts.chunks[1] = parts.chunks[0]
    assert refused(good, parts.join()) == "asset.reordered"


def test_reordered_with_its_leaves(good: Sealed) -> None:
    """T14, K7."""
    parts = parts_of(good)
    for row in (parts.chunks, parts.table):
        row[0], row[2] = row[2], row[0]
    assert refused(good, parts.join()) == "asset.table"


def test_truncated_at_every_byte(good: Sealed) -> None:
    """T14, K7."""
    data = good.data
    for length in range(len(data)):
        assert refused(good, data[:length]) == "asset.truncated", length


def test_last_chunk_cut_off_and_everything_made_to_fit(good: Sealed) -> None:
    """An owner's own shorter manifest is another digest; the last-chunk flag is a second guard."""
    parts = parts_of(good)
    fewer = good.manifest.to_json() | {"size": 256, "chunks": 4}
    parts.chunks.pop()
    data, described = reference.finish(parts, fewer)
    manifest = Manifest.from_json(described)
    assert code_of(lambda: read_all(data, manifest, good.key)) == "asset.label"


def test_trailing_bytes(good: Sealed) -> None:
    assert refused(good, good.data + b"\0") == "asset.trailing"


def test_spliced_chunk_of_another_container_under_the_same_key(good: Sealed) -> None:
    """T14, K7."""
    other = sealed(CONTENT[::-1], key=good.key)
    parts = parts_of(good)
    parts.chunks[3] = parts_of(other).chunks[3]
    assert refused(good, parts.join()) == "asset.spliced"


def test_spliced_tail_of_another_container(good: Sealed) -> None:
    """T14, K7."""
    other = parts_of(sealed(CONTENT, key=good.key))
    mixed = replace(parts_of(good), table=other.table, trailer=other.trailer)
    assert refused(good, mixed.join()) == "asset.spliced"


def test_swapped_container(good: Sealed) -> None:
    """T14, K7."""
    other = sealed(CONTENT, name="other", key=good.key)
    assert refused(good, other.data) == "asset.swapped"
    again = sealed(CONTENT, key=good.key)
    assert refused(good, again.data) == "asset.swapped"


def test_swapped_header_alone(good: Sealed) -> None:
    """T14, K7."""
    other = sealed(CONTENT, name="other")
    assert refused(good, other.data[:128] + good.data[128:]) == "asset.swapped"


def test_rolled_back_container(good: Sealed) -> None:
    """T14, K7."""
    new = sealed(CONTENT[::-1], version=2, predecessor=good.manifest.digest(), key=good.key)
    check_successor(good.manifest, new.manifest)
    assert refused(new, good.data) == "asset.rolled_back"


def test_rolled_back_manifest(good: Sealed) -> None:
    new = sealed(CONTENT[::-1], version=2, predecessor=good.manifest.digest())
    agreed = new.manifest.digest()
    act = partial(open_asset, good.url, good.manifest, good.key, expected=agreed)
    assert code_of(act) == "asset.manifest"
    again = partial(check_successor, new.manifest, good.manifest)
    assert code_of(again) == "asset.rolled_back"


def test_a_version_left_out(good: Sealed) -> None:
    later = sealed(CONTENT, version=3, predecessor=good.manifest.digest())
    assert code_of(partial(check_successor, good.manifest, later.manifest)) == "asset.rolled_back"


def test_successor_of_something_else(good: Sealed) -> None:
    other = sealed(b"", name="other", version=2, predecessor=good.manifest.digest())
    assert code_of(lambda: check_successor(good.manifest, other.manifest)) == "asset.lineage"
    forked = sealed(b"", version=2, predecessor="sha256:" + "0" * 64)
    assert code_of(lambda: check_successor(good.manifest, forked.manifest)) == "asset.rolled_back"


def test_equal_tag_collision_is_refused(good: Sealed) -> None:
    """T14: GCM accepts it, as shown first; the hash of ciphertext does not."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    parts = parts_of(good)
    forged = reference.equal_tag(parts.chunks[1], derived(good))
    assert forged != parts.chunks[1]
    assert forged[-16:] == parts.chunks[1][-16:]
    plain = AESGCM(derived(good)).decrypt(reference.nonce(1, False), forged[48:], forged[:48])
    assert plain != CONTENT[64:128]
    parts.chunks[1] = forged
    assert refused(good, parts.join()) == "asset.equal_tag"


def test_wrong_key_is_refused_before_storage_is_touched(good: Sealed) -> None:
    act = partial(
        open_asset,
        "memory://tests/not-there",
        good.manifest,
        Secret.random(),
        expected=good.manifest.digest(),
    )
    assert code_of(act) == "asset.key"
    act = partial(
        open_asset, good.url, good.manifest, Secret(b"short"), expected=good.manifest.digest()
    )
    assert code_of(act) == "asset.key_length"


def test_wrong_manifest(good: Sealed) -> None:
    changed = Manifest.from_json(good.manifest.to_json() | {"name": "renamed"})
    act = partial(open_asset, good.url, changed, good.key, expected=good.manifest.digest())
    assert code_of(act) == "asset.manifest"
    # Even where nobody compared the digest, the header binds the manifest to the ciphertext.
    assert code_of(lambda: read_all(good.data, changed, good.key)) == "asset.header"


def test_altered_header_table_and_trailer(good: Sealed) -> None:
    total = len(good.data)
    cases = {0: "asset.format", 17: "asset.format", 19: "asset.format", 23: "asset.header"}
    cases |= {40: "asset.header", 127: "asset.header", 70: "asset.swapped"}
    cases |= {total - 65: "asset.table", total - 1: "asset.trailer", total - 40: "asset.trailer"}
    for at, code in cases.items():
        data = bytearray(good.data)
        data[at] ^= 1
        assert refused(good, bytes(data)) == code, at


def test_container_that_its_owner_sealed_wrongly(good: Sealed) -> None:
    """The leaf holds, since the owner made it; label and tag still bind place and key."""
    parts = parts_of(good)
    parts.chunks[0], parts.chunks[1] = parts.chunks[1], parts.chunks[0]
    data, described = reference.finish(parts, good.manifest.to_json())
    manifest = Manifest.from_json(described)
    assert code_of(lambda: read_all(data, manifest, good.key)) == "asset.label"
    parts = parts_of(good)
    parts.chunks[2] = parts.chunks[2][:-1] + bytes([parts.chunks[2][-1] ^ 1])
    data, described = reference.finish(parts, good.manifest.to_json())
    manifest = Manifest.from_json(described)
    assert code_of(lambda: read_all(data, manifest, good.key)) == "asset.tag"
    with open_asset(store(data), manifest, good.key, expected=manifest.digest()) as reader:
        out = bytearray(b"\xff" * 64)
        assert code_of(lambda: reader.read_into(128, out)) == "asset.tag"
        assert out == bytes(64)


CHUNKS_END = 128 + 300 + 5 * 64


@settings(max_examples=120, deadline=None)
@given(bit=st.integers(0, 8 * (CHUNKS_END + 5 * 32 + 64) - 1))
def test_any_flipped_bit_is_refused(good: Sealed, bit: int) -> None:
    """T14, K7."""
    data = bytearray(good.data)
    data[bit // 8] ^= 1 << bit % 8
    code = refused(good, bytes(data))
    if 128 <= bit // 8 < CHUNKS_END:
        assert code == "asset.altered"


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=900))
def test_any_bytes_give_our_error(good: Sealed, data: bytes) -> None:
    with pytest.raises(SvetovidError):
        read_all(good.data[: len(data) % 200] + data, good.manifest, good.key)


def test_size_that_needs_too_many_chunks(good: Sealed) -> None:
    chunks = (1 << 24) + 1
    described = good.manifest.to_json() | {"size": 64 * chunks, "chunks": chunks}
    assert code_of(lambda: Manifest.from_json(described)) == "document.invalid"


def test_sealing_stops_at_the_last_chunk_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svetovid.assets.seal.MAX_CHUNKS", 3)
    assert sealed(bytes(192)).manifest.chunks == 3
    assert code_of(lambda: sealed(bytes(193))) == "asset.chunks"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"name": "Ünicode"},
        {"name": "../up"},
        {"version": 0},
        {"version": 2},
        {"predecessor": "sha256:" + "0" * 64},
        {"chunk_bytes": 96},
        {"chunk_bytes": 70},  # also 5 chunks, but no power of two
        {"chunk_bytes": 32},
        {"chunk_bytes": 1 << 25},
        {"chunks": 4},
        {"size": -1},
        {"size": 300.5},
        {"salt": "AAAA"},
        {"commitment": "AAAA"},
        {"root": "sha256:00"},
        {"format": "svetovid.container/v2"},
        {"record_schema": {"fields": [], "records": 0}},
        {"record_schema": {"fields": [{"name": "x", "dtype": "uint8"}], "records": 300}},
        {"extra": 1},
    ],
)
def test_manifests_that_cannot_be(good: Sealed, change: dict[str, object]) -> None:
    described = good.manifest.to_json() | change
    assert code_of(lambda: Manifest.from_json(described)) == "document.invalid"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_as_manifest(data: bytes) -> None:
    with pytest.raises(SvetovidError):
        Manifest.parse(data)


def test_manager_and_owner_are_bound_into_the_ciphertext(good: Sealed) -> None:
    """T1: a manifest that names another manager does not open this container."""
    assert WHO["manager"] == good.manifest.manager
    other = Manifest.from_json(good.manifest.to_json() | {"manager": "ed25519:" + "33" * 32})
    assert code_of(lambda: read_all(good.data, other, good.key)) == "asset.header"
