"""Sealed checkpoints: only the newest one of this very job can be resumed from (T11).

A checkpoint is a container under a key that all managers of the job give together. Its plaintext
begins with what it belongs to (job, code, environment, sequence, predecessor), and the managers
hold the digest of the newest one: an older, foreign or altered checkpoint is refused.

How much a checkpoint holds is for the job's code to choose, and the operator sees how long its file
is. So it is filled up to a multiple of the job's ``checkpoint_step_bytes``, and never shorter than
the one before: over a whole run the lengths only rise, in steps (T10).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from svetovid.assets import AssetReader, Manifest, open_asset, seal_stream
from svetovid.assets.store import read_small
from svetovid.crypto import Digest, Document, Secret
from svetovid.errors import HostError, InputError, IntegrityError, ParseError
from svetovid.host.deliver import discard
from svetovid.policy.documents import Job
from svetovid.protocol.messages import Head

__all__ = ["CheckpointStore"]

_MAX_HEADER = 4096
_MAX_MANIFEST = 1 << 20
_BLOCK = 1 << 20
_PREFIX = struct.Struct("<IQ")
"""Length of the header, and of the data behind it."""


class _Header(Document):
    TYPE: ClassVar[str] = "checkpoint-header"
    job: Digest
    code: Digest
    environment: Digest
    sequence: Annotated[int, Field(ge=1)]
    predecessor: Digest | None = None


class CheckpointStore:
    """Writes and reads the checkpoints of one job under a URL prefix.

    Args:
        prefix: fsspec URL prefix; ``<prefix>.<sequence>`` are the containers.
        job: the agreed job.
        key: the job's checkpoint key (:func:`svetovid.host.heads.joint_key`).
        head: the newest recorded head (:func:`svetovid.host.heads.newest_head`), if the job ran
            before.
    """

    def __init__(self, prefix: str, job: Job, key: Secret, head: Head | None) -> None:
        self._prefix = prefix
        self._job = job
        self._key = key
        self._size = 0
        self.head = head

    def _url(self, sequence: int) -> str:
        return f"{self._prefix}.{sequence}"

    def _header(self, sequence: int, predecessor: str | None) -> _Header:
        return _Header(
            job=self._job.digest(),
            code=self._job.code.manifest,
            environment=self._job.environment,
            sequence=sequence,
            predecessor=predecessor,
        )

    def save(self, data: bytes) -> Head:
        """Write the next checkpoint durably; the head to have recorded before it counts.

        The one before stays until :meth:`recorded` is called: whichever head is the newest after
        a crash, its container is there.
        """
        sequence = 1 if self.head is None else self.head.sequence + 1
        predecessor = None if self.head is None else self.head.checkpoint
        header = self._header(sequence, predecessor).canonical()

        filled = _PREFIX.size + len(header) + len(data)
        step = self._job.limits.checkpoint_step_bytes
        self._size = max(self._size, -(-filled // step) * step)

        def blocks() -> Iterator[bytes]:
            yield _PREFIX.pack(len(header), len(data)) + header
            yield data
            for start in range(filled, self._size, _BLOCK):
                yield bytes(min(_BLOCK, self._size - start))

        discard(self._url(sequence))  # written before a crash, and never recorded
        manifest, _ = seal_stream(
            self._url(sequence),
            blocks(),
            kind="checkpoint",
            name=self._job.name,
            owner=self._job.proposer,
            manager=self._job.code.manager,
            version=sequence,
            predecessor=predecessor,
            key=self._key,
        )
        return Head(
            job=self._job.digest(),
            sequence=sequence,
            checkpoint=manifest.digest(),
            predecessor=predecessor,
        )

    def recorded(self, head: Head) -> None:
        """Every manager holds ``head`` now: what came before it can go."""
        self.head = head
        if head.sequence > 1:
            discard(self._url(head.sequence - 1))

    def clear(self) -> None:
        """The job is finished: nothing will be resumed."""
        if self.head is not None:
            discard(self._url(self.head.sequence))

    def load(self) -> bytes | None:
        """The recorded checkpoint's data; None where the job never saved one.

        The one before it stays, as after :meth:`save`: a crash may have left a manager behind.

        Raises:
            HostError: ``checkpoint.missing`` where the container is gone.
            IntegrityError: ``checkpoint.head`` for another checkpoint than the recorded one;
                ``asset.*`` for altered bytes.
            ParseError: ``checkpoint.header``.
        """
        if self.head is None:
            return None
        try:
            return self._read(self.head)
        except InputError as e:
            if e.code != "asset.missing":
                raise
            raise HostError(
                "checkpoint.missing",
                expected=f"checkpoint {self.head.sequence} of this job",
                observed="no such file",
                next_step="restore the job's output folder, or propose the job anew",
            ) from e

    def _read(self, head: Head) -> bytes:
        url = self._url(head.sequence)
        manifest = Manifest.parse(read_small(url + ".manifest.json", _MAX_MANIFEST))
        if manifest.digest() != head.checkpoint:
            raise IntegrityError(
                "checkpoint.head",
                expected=head.checkpoint,
                observed=manifest.digest(),
                next_step="resume from the checkpoint that the managers recorded",
            )
        with open_asset(url, manifest, self._key, expected=head.checkpoint) as reader:
            self._size = reader.size
            return self._data(reader, head)

    def _data(self, reader: AssetReader, head: Head) -> bytes:
        prefix = reader.read_at(0, min(_PREFIX.size, reader.size)).ljust(_PREFIX.size, b"\xff")
        length, size = _PREFIX.unpack(prefix)
        if length > _MAX_HEADER or _PREFIX.size + length + size > reader.size:
            raise ParseError(
                "checkpoint.header",
                expected="a checkpoint's header and data",
                observed=f"{length} and {size} bytes in {reader.size}",
                next_step="propose the job anew",
            )
        header = _Header.parse(reader.read_at(_PREFIX.size, length))
        if header != self._header(head.sequence, head.predecessor):
            raise IntegrityError(
                "checkpoint.head",
                expected="a checkpoint of this job, code, environment and sequence",
                observed=f"job {header.job}, sequence {header.sequence}",
                next_step="resume from the checkpoint that the managers recorded",
            )
        return reader.read_at(_PREFIX.size + length, size)
