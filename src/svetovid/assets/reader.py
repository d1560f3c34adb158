"""Opening: random access to a sealed container that may be hostile, changing, or both.

The rules, in the order in which they are checked:

1. The manifest is the agreed one: its digest is what the caller expects.
2. The key is the right one: its commitment is the manifest's, before anything is decrypted.
3. Header, total length, leaf table and trailer are exactly those that the manifest describes.
4. A chunk is copied from storage into private memory; the hash of that copy is its leaf (T14);
   that very copy is decrypted, never a second reading of storage.
5. Label, nonce and tag hold: container, position and end of content are those asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from svetovid.assets.buffers import Held, Pool
from svetovid.assets.format import (
    HEADER_BYTES,
    LABEL_BYTES,
    LEAF_BYTES,
    TRAILER_BYTES,
    chunk_label,
    chunk_nonce,
    derive,
    flat,
    leaf,
    merkle_root,
    trailer,
)
from svetovid.assets.manifest import Manifest
from svetovid.assets.refusals import (
    altered_chunk,
    altered_header,
    altered_index,
    refuse,
    wrong_length,
)
from svetovid.assets.store import Ahead, Source, open_source
from svetovid.crypto import Secret, b64decode
from svetovid.errors import InputError

__all__ = ["AssetReader", "open_asset"]

HOLD_BYTES = 64 << 20


def open_asset(
    url: str, manifest: Manifest, key: Secret, *, expected: str, hold_bytes: int = HOLD_BYTES
) -> AssetReader:
    """Open a sealed asset for random access.

    Args:
        url: where the container is stored.
        manifest: as received from anywhere.
        key: the asset key.
        expected: digest of the manifest that was agreed to.
        hold_bytes: verified ciphertext to keep in memory, so that a chunk that is read again at
            random is not fetched and hashed again; 0 for none.

    Raises:
        IntegrityError: ``asset.manifest``, ``asset.key``, ``asset.header``, ``asset.swapped``,
            ``asset.rolled_back``, ``asset.truncated``, ``asset.trailing``, ``asset.table``,
            ``asset.trailer``, ``asset.spliced``.
        InputError: ``asset.url``, ``asset.missing``, ``asset.format``, ``asset.key_length``.
        HostError, TransportError: where storage fails.
    """
    digest = manifest.digest()
    if digest != expected:
        raise refuse(
            "asset.manifest",
            f"the manifest {expected}",
            digest,
            "use the manifest that was agreed to; an older or newer version has another digest",
        )
    derived, commitment = derive(key, b64decode(manifest.salt))
    if commitment != b64decode(manifest.commitment):
        raise refuse(
            "asset.key",
            f"the key that {manifest.name} was sealed with",
            "another key",
            "ask the asset's manager for its key",
        )
    source = open_source(url)
    try:
        table = _check_outside(source, manifest)
        return AssetReader(manifest, source, AESGCM(derived), table, hold_bytes)
    except BaseException:
        source.close()
        raise


def _check_outside(source: Source, manifest: Manifest) -> bytes:
    """Rule 3; the verified leaf table."""
    layout = manifest.layout
    header = bytearray(HEADER_BYTES)
    got = source.read_into(0, memoryview(header))
    if got < HEADER_BYTES:
        raise wrong_length(layout.total, source.length)
    if header != manifest.header():
        raise altered_header(manifest, bytes(header))
    if source.length != layout.total:
        raise wrong_length(layout.total, source.length)
    index = bytearray(layout.total - layout.table_offset)
    got = source.read_into(layout.table_offset, memoryview(index))
    if got < len(index):
        raise wrong_length(layout.total, layout.table_offset + got)
    table, end = bytes(index[:-TRAILER_BYTES]), bytes(index[-TRAILER_BYTES:])
    root = bytes.fromhex(manifest.root.removeprefix("sha256:"))
    if merkle_root(table) != root or end != trailer(manifest.size, manifest.chunks, root):
        raise altered_index(manifest, table, end)
    return table


class AssetReader:
    """An opened asset. Safe for many threads at once; closing drops keys and held memory.

    Every method that reads raises ``asset.truncated``, ``asset.altered``, ``asset.reordered``,
    ``asset.spliced``, ``asset.equal_tag``, ``asset.label`` or ``asset.tag`` (IntegrityError) for a
    chunk that is not what was sealed, ``asset.range`` (InputError) beyond the end,
    ``asset.closed`` (InputError) after :meth:`close`, and HostError or TransportError where
    storage fails. Buffers then hold no unverified plaintext of that chunk.

    Attributes:
        manifest: the agreed manifest.
        size: plaintext bytes.
    """

    def __init__(
        self, manifest: Manifest, source: Source, cipher: AESGCM, table: bytes, hold_bytes: int
    ) -> None:
        self.manifest = manifest
        self.size = manifest.size
        self._layout = manifest.layout
        self._last = manifest.chunks - 1
        self._source = source
        self._cipher: AESGCM | None = cipher
        self._table = table
        self._header_digest = hashlib.sha256(manifest.header()).digest()
        largest = min(self._layout.chunk_bytes, self.size)
        self._pool = Pool(self._layout.stored_bytes(0), largest)
        self._held = Held(hold_bytes, manifest.chunks, self._layout.stored_bytes(0))

    def read_at(self, offset: int, length: int) -> bytes:
        """``length`` bytes of content from ``offset``."""
        self._check_range(offset, length)
        out = bytearray(length)
        self.read_into(offset, out)
        return bytes(out)

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill a writable contiguous ``buffer`` with content from ``offset``."""
        view = flat(buffer)
        self._check_range(offset, len(view))
        chunk_bytes = self._layout.chunk_bytes
        while view:
            index, skip = divmod(offset, chunk_bytes)
            take = min(self._layout.plain_bytes(index) - skip, len(view))
            self._part(index, skip, view[:take])
            view = view[take:]
            offset += take

    def blocks(self) -> Iterator[memoryview]:
        """All content in order, a chunk at a time, in one buffer that the next chunk overwrites."""
        room = memoryview(bytearray(min(self._layout.chunk_bytes, self.size)))
        source = self._in_order()
        try:
            for index in range(self.manifest.chunks if self.size else 0):
                out = room[: self._layout.plain_bytes(index)]
                self._whole(index, out, source, hold=False)
                yield out
        finally:
            room[:] = bytes(len(room))

    def stream_into(
        self,
        buffer: bytearray | memoryview,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Decrypt all content into ``buffer``, which has room for ``size`` bytes, in order.

        Args:
            buffer: writable and contiguous, for example shared memory. A start on a page boundary
                is fastest.
            on_progress: told after each chunk how many bytes are in place.
        """
        view = flat(buffer)
        if len(view) < self.size:
            raise _range(f"room for {self.size} bytes", f"{len(view)} bytes")
        source = self._in_order()
        start = 0
        while start < self.size:
            index = start // self._layout.chunk_bytes
            stop = start + self._layout.plain_bytes(index)
            self._whole(index, view[start:stop], source, hold=False)
            start = stop
            if on_progress is not None:
                on_progress(start)

    def close(self) -> None:
        """Drop the key, held ciphertext and scratch memory. Python cannot promise erasure (T12)."""
        if self._cipher is not None:
            self._cipher = None
            self._held.clear()
            self._pool.wipe()
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AssetReader {self.manifest.kind} {self.manifest.name} {self.size} bytes>"

    def _in_order(self) -> Source:
        return Ahead(self._source) if self._source.window else self._source

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise _range(f"a range within {self.size} bytes", f"{length} bytes from {offset}")

    def _part(self, index: int, skip: int, out: memoryview) -> None:
        plain_bytes = self._layout.plain_bytes(index)
        if len(out) == plain_bytes:
            self._whole(index, out, self._source, hold=True)
            return
        scratch = self._pool.take()
        try:
            plain = scratch.plain[:plain_bytes]
            self._whole(index, plain, self._source, hold=True)
            out[:] = plain[skip : skip + len(out)]
        finally:
            self._pool.give(scratch)

    def _whole(self, index: int, out: memoryview, source: Source, *, hold: bool) -> None:
        """Decrypt one chunk into ``out``, which has exactly its size."""
        held = self._held.get(index)
        if held is not None:
            self._decrypt(index, held, out)
            return
        scratch = self._pool.take()
        try:
            stored = scratch.stored[: self._layout.stored_bytes(index)]
            self._fetch(index, stored, source)
            self._decrypt(index, stored, out)
            if hold:
                self._held.put(index, stored)
        finally:
            self._pool.give(scratch)

    def _fetch(self, index: int, stored: memoryview, source: Source) -> None:
        """Rule 4: storage to private memory, and the hash of that memory."""
        cipher = self._open_cipher()
        offset = self._layout.offset(index)
        got = source.read_into(offset, stored)
        if got < len(stored):
            raise wrong_length(self._layout.total, offset + got)
        at = index * LEAF_BYTES
        if leaf(stored) != self._table[at : at + LEAF_BYTES]:
            raise altered_chunk(
                cipher,
                self._header_digest,
                index,
                index == self._last,
                bytes(stored),
                self._table,
            )

    def _decrypt(self, index: int, stored: memoryview, out: memoryview) -> None:
        """Rule 5."""
        last = index == self._last
        label = chunk_label(self._header_digest, index, last)
        if stored[:LABEL_BYTES] != label:
            raise _missealed("asset.label", index)
        try:
            self._open_cipher().decrypt_into(
                chunk_nonce(index, last), stored[LABEL_BYTES:], label, out
            )
        except InvalidTag as e:
            out[:] = bytes(len(out))
            raise _missealed("asset.tag", index) from e

    def _open_cipher(self) -> AESGCM:
        if self._cipher is None:
            raise InputError(
                "asset.closed",
                expected="an open reader",
                observed="a closed one",
                next_step="open the asset again",
            )
        return self._cipher


def _missealed(code: str, index: int) -> Exception:
    # The leaf holds, so these are the sealer's own bytes: it did not seal by the specification.
    return refuse(
        code,
        f"chunk {index} sealed for its place under the asset key",
        "a chunk that its owner sealed in another way",
        "ask the owner to seal the asset again",
    )


def _range(expected: str, observed: str) -> InputError:
    return InputError(
        "asset.range", expected=expected, observed=observed, next_step="read within the content"
    )
