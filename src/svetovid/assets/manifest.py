"""The manifest: the public description of a sealed asset. Its digest is the asset's name."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from svetovid.assets.format import (
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MIN_CHUNK_BYTES,
    SALT_BYTES,
    Header,
    Layout,
)
from svetovid.crypto import Base64, Digest, Document, KeyId, Name, b64decode, canonical
from svetovid.dtypes import ITEM_BYTES, Dtype
from svetovid.errors import IntegrityError

__all__ = ["FieldSpec", "Kind", "Manifest", "RecordSchema", "check_successor"]

Kind = Literal["dataset", "code", "model", "output", "checkpoint"]
MAX_RECORD_BYTES = 1 << 30


class FieldSpec(Document):
    """One field of a record.

    Attributes:
        name: the field's name.
        dtype: as PyTorch names it; stored little-endian.
        shape: of one record, row-major; empty for a scalar.
    """

    name: Name
    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=2**31)], ...], Field(max_length=8)] = ()

    @property
    def nbytes(self) -> int:
        """Bytes that this field takes in one record."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)


class RecordSchema(Document):
    """What the content is made of: ``records`` records, each its fields' bytes end to end.

    Attributes:
        fields: in their order within a record; no two with one name.
        records: how many there are.
    """

    fields: Annotated[tuple[FieldSpec, ...], Field(min_length=1, max_length=256)]
    records: Annotated[int, Field(ge=0, le=2**48)]

    @model_validator(mode="after")
    def _sound(self) -> RecordSchema:
        if len({f.name for f in self.fields}) != len(self.fields):
            raise ValueError("two fields with one name")
        if self.record_bytes > MAX_RECORD_BYTES:
            raise ValueError(f"a record of more than {MAX_RECORD_BYTES} bytes")
        return self

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        return sum(f.nbytes for f in self.fields)

    @property
    def offsets(self) -> dict[str, tuple[int, int]]:
        """Field name to (start, stop) in bytes within a record."""
        out: dict[str, tuple[int, int]] = {}
        start = 0
        for f in self.fields:
            out[f.name] = (start, start + f.nbytes)
            start += f.nbytes
        return out


class Manifest(Document):
    """Names a sealed asset; ``digest()`` is the asset's id everywhere.

    Holds no secret: neither names of files nor anything of the content but its size and, for a
    dataset, its schema.

    Attributes:
        kind: dataset, code bundle or model.
        name: the owner's name for it.
        version: 1 at first, then one more.
        predecessor: digest of the manifest one version before; none at first.
        owner: who sealed it, and decides about it.
        manager: the one policy manager that may hold its key (T1).
        size: plaintext bytes.
        chunk_bytes: plaintext bytes in a chunk; a power of two.
        chunks: how many.
        root: Merkle root over the leaves, which are hashes of ciphertext (T14).
        commitment: base64 of the 32 bytes that only the right key yields.
        salt: base64 of the container's 32-byte salt.
        record_schema: of a dataset with typed records.
        format: of the container; see container.md.
    """

    TYPE: ClassVar[str] = "manifest"
    format: Literal["svetovid.container/v1"] = "svetovid.container/v1"
    kind: Kind
    name: Name
    version: Annotated[int, Field(ge=1, le=2**32)]
    predecessor: Digest | None = None
    owner: KeyId
    manager: KeyId
    size: Annotated[int, Field(ge=0, le=MAX_CHUNKS * MAX_CHUNK_BYTES)]
    chunk_bytes: Annotated[int, Field(ge=MIN_CHUNK_BYTES, le=MAX_CHUNK_BYTES)]
    chunks: Annotated[int, Field(ge=1, le=MAX_CHUNKS)]
    root: Digest
    commitment: Base64
    salt: Base64
    record_schema: RecordSchema | None = None

    @model_validator(mode="after")
    def _sound(self) -> Manifest:
        if (self.version == 1) != (self.predecessor is None):
            raise ValueError("version 1 has no predecessor, every later one has")
        if self.chunk_bytes & (self.chunk_bytes - 1):
            raise ValueError("chunk_bytes is a power of two")
        if self.chunks != self.layout.chunks:
            raise ValueError("chunks does not follow from size and chunk_bytes")
        for text in (self.commitment, self.salt):
            if len(b64decode(text)) != SALT_BYTES:
                raise ValueError("commitment and salt have 32 bytes")
        schema = self.record_schema
        if schema and (self.kind != "dataset" or schema.records * schema.record_bytes != self.size):
            raise ValueError("the record schema does not fit kind and size")
        return self

    @property
    def layout(self) -> Layout:
        """How its content is cut into chunks."""
        return Layout(self.size, self.chunk_bytes)

    @property
    def lineage(self) -> bytes:
        """What stays the same over all versions of an asset, as 32 bytes."""
        return lineage(self.kind, self.name, self.owner, self.manager)

    def header(self) -> bytes:
        """The container's 128 header bytes: they follow from the manifest alone."""
        return Header(
            chunk_bytes=self.chunk_bytes,
            version=self.version,
            lineage=self.lineage,
            salt=b64decode(self.salt),
            commitment=b64decode(self.commitment),
        ).pack()


def lineage(kind: str, name: str, owner: str, manager: str) -> bytes:
    """SHA-256 over the canonical form of what names an asset across its versions."""
    value = {"kind": kind, "manager": manager, "name": name, "owner": owner}
    return hashlib.sha256(canonical(value)).digest()


def check_successor(old: Manifest, new: Manifest) -> None:
    """Check that ``new`` is the next version of the very asset ``old`` describes.

    Raises:
        IntegrityError: ``asset.lineage`` for another kind, name, owner or manager;
            ``asset.rolled_back`` where version or predecessor do not follow.
    """
    if old.lineage != new.lineage:
        raise IntegrityError(
            "asset.lineage",
            expected=f"{old.kind} {old.name} of {old.owner} under {old.manager}",
            observed=f"{new.kind} {new.name} of {new.owner} under {new.manager}",
            next_step="seal it as an asset of its own",
        )
    if new.version != old.version + 1 or new.predecessor != old.digest():
        raise IntegrityError(
            "asset.rolled_back",
            expected=f"version {old.version + 1} after {old.digest()}",
            observed=f"version {new.version} after {new.predecessor}",
            next_step="ask the owner for the newest manifest",
        )
