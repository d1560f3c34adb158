"""The format against an independent reading of its specification."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets import reference
from assets.sealed import WHO, fresh_url, sealed, store, stored
from svetovid.assets import Manifest, load_manifest, manifest_url, open_asset, seal_stream
from svetovid.assets.format import merkle_root
from svetovid.assets.seal import seal_with_salt
from svetovid.crypto import Secret, b64decode

VECTOR = json.loads(
    (Path(__file__).parents[1] / "vectors" / "assets" / "container.json").read_text()
)


def test_vector_is_sealed_byte_for_byte() -> None:
    fields = {
        k: v
        for k, v in VECTOR["manifest"].items()
        if k not in ("format", "size", "chunks", "root", "salt", "commitment")
    }
    url = fresh_url()
    manifest, _ = seal_with_salt(
        url,
        [bytes.fromhex(VECTOR["content"])],
        fields,
        key=Secret(bytes.fromhex(VECTOR["key"])),
        salt=b64decode(VECTOR["manifest"]["salt"]),
    )
    assert stored(url).hex() == VECTOR["container"]
    assert manifest.to_json() == VECTOR["manifest"]


def test_vector_opens() -> None:
    manifest = Manifest.from_json(VECTOR["manifest"])
    url = store(bytes.fromhex(VECTOR["container"]))
    key = Secret(bytes.fromhex(VECTOR["key"]))
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        assert reader.read_at(0, reader.size).hex() == VECTOR["content"]
        assert reader.read_at(8 * 24, 24).hex() == VECTOR["content"][8 * 48 :]


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 1000])
def test_every_size_opens_here_and_by_the_reference(size: int) -> None:
    s = sealed(bytes(i % 256 for i in range(size)))
    manifest = s.manifest.to_json()
    assert reference.unseal(s.data, manifest, s.key.reveal()) == s.content
    assert len(s.data) == s.manifest.layout.total
    with open_asset(s.url, s.manifest, s.key, expected=s.manifest.digest()) as reader:
        assert b"".join(bytes(b) for b in reader.blocks()) == s.content
        assert reader.read_at(0, size) == s.content
        whole = bytearray(size)
        reader.stream_into(whole)
        assert whole == s.content


def test_what_the_reference_seals_opens_here() -> None:
    fields = {"kind": "code", "name": "other", "version": 1, "chunk_bytes": 128, **WHO}
    data, described = reference.seal(b"content" * 99, fields, b"k" * 32, b"s" * 32)
    manifest = Manifest.from_json(described)
    reader = open_asset(store(data), manifest, Secret(b"k" * 32), expected=manifest.digest())
    assert reader.read_at(0, 693) == b"content" * 99


@settings(max_examples=40, deadline=None)
@given(blocks=st.lists(st.binary(max_size=200), max_size=8), power=st.integers(6, 9))
def test_portions_do_not_matter(blocks: list[bytes], power: int) -> None:
    url = fresh_url()
    manifest, key = seal_stream(
        url, iter(blocks), kind="model", name="m", chunk_bytes=1 << power, **WHO
    )
    assert reference.unseal(stored(url), manifest.to_json(), key.reveal()) == b"".join(blocks)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70))
def test_tree_is_that_of_rfc_9162(leaves: list[bytes]) -> None:
    assert merkle_root(b"".join(leaves)) == reference.tree(leaves)


def test_one_key_seals_twice_without_one_equal_block() -> None:
    key = Secret(b"k" * 32)
    one, two = fresh_url(), fresh_url()
    for url in (one, two):
        seal_stream(url, [bytes(64)], kind="model", name="m", chunk_bytes=64, key=key, **WHO)
    assert stored(one)[176:240] != stored(two)[176:240]


def test_manifest_lies_next_to_the_container() -> None:
    s = sealed(b"x")
    assert load_manifest(manifest_url(s.url)) == s.manifest
    assert s.manifest.digest() == load_manifest(manifest_url(s.url)).digest()


def test_nothing_of_the_content_shows_in_container_or_manifest() -> None:
    s = sealed(b"canary-in-plain-sight" * 40)
    assert b"canary" not in s.data
    assert b"canary" not in stored(manifest_url(s.url))
    assert s.key.reveal() not in s.data
