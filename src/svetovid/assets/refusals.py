"""Why a container is refused: the words for each way in which bytes can be wrong.

Called only after a check has failed. Which reason is named helps people find what happened; that it
is refused never depends on it.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from svetovid.assets.format import (
    HEADER_BYTES,
    LABEL_BYTES,
    LEAF_BYTES,
    Header,
    chunk_label,
    chunk_nonce,
    leaf,
    merkle_root,
    read_label,
    trailer_root,
)
from svetovid.assets.manifest import Manifest
from svetovid.crypto import b64decode
from svetovid.errors import IntegrityError, ParseError, SvetovidError

__all__ = ["altered_chunk", "altered_header", "altered_index", "refuse", "wrong_length"]

_FETCH = "fetch the container again from its owner"
_STRANGE_BITS = 16
"""Two unrelated labels differ in about 128 of 256 bits; accidents flip fewer than this."""


def refuse(code: str, expected: str, observed: str, next_step: str = _FETCH) -> IntegrityError:
    return IntegrityError(code, expected=expected, observed=observed, next_step=next_step)


def wrong_length(expected: int, observed: int) -> IntegrityError:
    if observed < expected:
        return refuse("asset.truncated", f"{expected} bytes", f"{observed} bytes")
    return refuse("asset.trailing", f"{expected} bytes", f"{observed} bytes")


def altered_header(manifest: Manifest, found: bytes) -> SvetovidError:
    """The first 128 bytes are not those that the manifest asks for."""
    header = Header.unpack(found)
    assert len(found) == HEADER_BYTES
    if header is None:
        return ParseError(
            "asset.format",
            expected="a svetovid.container/v1",
            observed="another magic, format or suite",
            next_step="check the address, or update svetovid",
        )
    if header.salt == b64decode(manifest.salt):
        return refuse("asset.header", "the header that the manifest describes", "an altered one")
    if header.lineage == manifest.lineage and header.version < manifest.version:
        return refuse(
            "asset.rolled_back",
            f"version {manifest.version} of {manifest.name}",
            f"version {header.version}",
            "fetch the agreed version from its owner",
        )
    return refuse(
        "asset.swapped", f"the container of {manifest.name}", "the container of another manifest"
    )


def altered_index(manifest: Manifest, table: bytes, end: bytes) -> IntegrityError:
    """Leaf table and trailer are not those that the manifest asks for."""
    root = merkle_root(table)
    if root.hex() == manifest.root.removeprefix("sha256:"):
        return refuse("asset.trailer", "the trailer that the manifest describes", "an altered one")
    if trailer_root(end) == root:
        return refuse(
            "asset.spliced", "leaf table and trailer of this container", "those of another"
        )
    return refuse("asset.table", f"leaves with root {manifest.root}", "an altered leaf table")


def altered_chunk(
    cipher: AESGCM, header_digest: bytes, index: int, last: bool, stored: bytes, table: bytes
) -> IntegrityError:
    """A chunk's hash is not the leaf at its place."""
    where = f"chunk {index} as it was sealed"
    digest, claimed, _ = read_label(stored[:LABEL_BYTES])
    if digest == header_digest and claimed != index:
        at = claimed * LEAF_BYTES
        if table[at : at + LEAF_BYTES] == leaf(stored):
            return refuse("asset.reordered", where, f"chunk {claimed} in its place")
    strange = int.from_bytes(digest, "big") ^ int.from_bytes(header_digest, "big")
    if strange.bit_count() >= _STRANGE_BITS:
        return refuse("asset.spliced", where, "a chunk of another container")
    label = chunk_label(header_digest, index, last)
    try:
        cipher.decrypt(chunk_nonce(index, last), stored[LABEL_BYTES:], label)
    except InvalidTag:
        label = b""
    if stored[:LABEL_BYTES] != label:
        return refuse("asset.altered", where, "altered bytes")
    return refuse(
        "asset.equal_tag",
        where,
        "other ciphertext with a tag that holds: whoever wrote it has the asset key",
        "ask the owner who else has the key, and seal again under a new one",
    )
