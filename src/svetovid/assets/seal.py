"""Sealing: a stream of plaintext in, a container and its manifest out, whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Required, TypedDict, Unpack

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from svetovid.assets.format import (
    LABEL_BYTES,
    LEAF_BYTES,
    MAX_CHUNKS,
    SALT_BYTES,
    TAG_BYTES,
    Header,
    Layout,
    chunk_label,
    chunk_nonce,
    derive,
    flat,
    leaf,
    merkle_root,
    trailer,
)
from svetovid.assets.manifest import Kind, Manifest, RecordSchema, lineage
from svetovid.assets.store import Sink, create, read_small
from svetovid.crypto import Secret, b64encode
from svetovid.crypto.canonical import MAX_DOCUMENT_BYTES, digest
from svetovid.errors import InputError, LimitError, ParseError

__all__ = ["Terms", "load_manifest", "manifest_url", "seal_file", "seal_stream"]

STREAM_CHUNK_BYTES = 256 << 10
_READ_BYTES = 1 << 20
Block = bytes | bytearray | memoryview


class Terms(TypedDict, total=False):
    """How an asset is sealed, whatever is in it; the first three are always said.

    Attributes:
        name, owner, manager, version, predecessor: see :class:`Manifest`; version 1 by default.
        chunk_bytes: power of two, 64 bytes to 16 MiB. Small for random access, large for streams.
        key: 32 bytes; fresh by default. A key may seal many containers: each has its own salt.
    """

    name: Required[str]
    owner: Required[str]
    manager: Required[str]
    version: int
    predecessor: str | None
    chunk_bytes: int
    key: Secret | None


def manifest_url(url: str) -> str:
    """Where sealing puts the manifest of the container at ``url``."""
    return url + ".manifest.json"


def load_manifest(url: str) -> Manifest:
    """Read a stored manifest. It proves nothing: compare its ``digest()`` to what was agreed.

    Raises:
        InputError: ``asset.url``, ``asset.missing``, ``json.*``, ``document.invalid``.
        HostError, TransportError: where storage fails.
    """
    return Manifest.parse(read_small(url, MAX_DOCUMENT_BYTES))


class _Writer:
    """Turns plaintext of any portions into labelled, sealed chunks of one size."""

    def __init__(self, sink: Sink, header: Header, key: bytes) -> None:
        packed = header.pack()
        self.size = 0
        self.table = bytearray()
        self._sink = sink
        self._cipher = AESGCM(key)
        self._header_digest = bytes.fromhex(digest(packed).removeprefix("sha256:"))
        self._plain = bytearray(header.chunk_bytes)
        self._filled = 0
        self._stored = bytearray(LABEL_BYTES + header.chunk_bytes + TAG_BYTES)
        sink.write(packed)

    def add(self, block: memoryview) -> None:
        """Take more plaintext. A full chunk waits until it is known whether it is the last."""
        room = len(self._plain)
        while block:
            if self._filled == room:
                self._flush(last=False)
            take = min(room - self._filled, len(block))
            self._plain[self._filled : self._filled + take] = block[:take]
            self._filled += take
            block = block[take:]

    def finish(self) -> bytes:
        """Write the last chunk, the leaf table and the trailer; the Merkle root."""
        self._flush(last=True)
        table = bytes(self.table)
        root = merkle_root(table)
        self._sink.write(table)
        self._sink.write(trailer(self.size, len(table) // len(root), root))
        return root

    def wipe(self) -> None:
        """Overwrite the plaintext this object holds."""
        self._plain[:] = bytes(len(self._plain))

    def _flush(self, *, last: bool) -> None:
        index = len(self.table) // LEAF_BYTES
        if index >= MAX_CHUNKS:
            raise LimitError(
                "asset.chunks",
                expected=f"at most {MAX_CHUNKS} chunks",
                observed="more",
                next_step="seal with larger chunk_bytes",
            )
        label = chunk_label(self._header_digest, index, last)
        stop = LABEL_BYTES + self._filled + TAG_BYTES
        stored = memoryview(self._stored)[:stop]
        stored[:LABEL_BYTES] = label
        self._cipher.encrypt_into(
            chunk_nonce(index, last),
            memoryview(self._plain)[: self._filled],
            label,
            stored[LABEL_BYTES:],
        )
        self.table += leaf(stored)
        self._sink.write(stored)
        self.size += self._filled
        self._filled = 0


def seal_stream(
    url: str,
    blocks: Iterable[Block],
    *,
    kind: Kind,
    record_schema: RecordSchema | None = None,
    **terms: Unpack[Terms],
) -> tuple[Manifest, Secret]:
    """Seal a stream of bytes, holding one chunk in memory.

    The container appears at ``url`` and its manifest at ``url + ".manifest.json"``; after an error
    or a kill neither name holds a part of one.

    Args:
        blocks: contiguous bytes-like plaintext, of any sizes.
        kind: see :class:`Manifest`.
        record_schema: for ``kind="dataset"`` with typed records; must fit the content's size.
        terms: :class:`Terms`.

    Returns:
        The manifest, and the asset key: whoever has both opens the container.

    Raises:
        InputError: ``asset.url``, ``asset.exists``, ``asset.missing``, ``asset.block``,
            ``asset.chunks``, ``asset.key_length``, ``document.invalid``.
        HostError, TransportError: where storage fails.
    """
    key = terms.pop("key", None)
    fields: dict[str, object] = {"version": 1, "chunk_bytes": STREAM_CHUNK_BYTES, **terms}
    fields["kind"] = kind
    fields["record_schema"] = record_schema.to_json() if record_schema else None
    return seal_with_salt(
        url,
        blocks,
        fields,
        key=Secret.random() if key is None else key,
        salt=secrets.token_bytes(SALT_BYTES),
    )


def seal_with_salt(
    url: str, blocks: Iterable[Block], fields: dict[str, object], *, key: Secret, salt: bytes
) -> tuple[Manifest, Secret]:
    """:func:`seal_stream` with a salt of the caller's: for test vectors. A salt is used once."""
    derived, commitment = derive(key, salt)
    fields = {k: v for k, v in fields.items() if v is not None}
    fields |= {"commitment": b64encode(commitment), "salt": b64encode(salt)}
    # Everything but the content's size is checked before a byte is written.
    draft = Manifest.from_json(
        {k: v for k, v in fields.items() if k != "record_schema"}
        | {"size": 0, "chunks": 1, "root": digest(b"")}
    )
    header = Header(
        chunk_bytes=draft.chunk_bytes,
        version=draft.version,
        lineage=lineage(draft.kind, draft.name, draft.owner, draft.manager),
        salt=salt,
        commitment=commitment,
    )
    with create(manifest_url(url)) as note, create(url) as sink:
        writer = _Writer(sink, header, derived)
        try:
            for block in blocks:
                writer.add(_flat(block))
            root = writer.finish()
        finally:
            writer.wipe()
        manifest = Manifest.from_json(
            fields
            | {
                "size": writer.size,
                "chunks": Layout(writer.size, draft.chunk_bytes).chunks,
                "root": "sha256:" + root.hex(),
            }
        )
        note.write(manifest.canonical())
    return manifest, key


def _flat(block: Block) -> memoryview:
    try:
        return flat(block)
    except TypeError as e:
        raise ParseError(
            "asset.block",
            expected="contiguous bytes",
            observed=type(block).__name__,
            next_step="pass bytes, or a C-contiguous array",
        ) from e


def seal_file(
    url: str,
    path: Path,
    *,
    kind: Kind = "model",
    **terms: Unpack[Terms],
) -> tuple[Manifest, Secret]:
    """Seal a regular file as it is. Arguments and errors as for :func:`seal_stream`.

    Args:
        url: where the container goes.
        path: the file.
        kind: what it is.
        terms: as for :func:`seal_stream`.

    Raises:
        InputError: ``asset.input`` where ``path`` is no readable regular file.
    """
    return seal_stream(url, _file_blocks(path), kind=kind, **terms)


def _file_blocks(path: Path) -> Iterator[Block]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as f:
            if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
                raise OSError(0, "not a regular file")
            buffer = memoryview(bytearray(_READ_BYTES))
            while got := f.readinto(buffer):
                yield buffer[:got]
    except OSError as e:
        raise InputError(
            "asset.input",
            expected=f"a readable file at {path}",
            observed=e.strerror or "unreadable",
            next_step="check the path and its rights",
        ) from e
