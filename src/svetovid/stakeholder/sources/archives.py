"""Archives from strangers, read forwards within bounds: nothing is unpacked, no script runs.

``tarfile`` holds whatever a header's size field asks for in memory; here it reads through
:class:`Forward`, which gives out little at a time and only so much in all.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, cast

from svetovid.errors import InputError
from svetovid.stakeholder.sources.streams import CHUNK, Reads, file_digest, malformed, too_large

__all__ = ["MAX_FILES", "Forward", "Member", "members", "odd_path"]

MAX_FILES = 1 << 20
MAX_UNPACKED = 64 << 30
_MAX_READ = 8 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar archive.

    Attributes:
        name: as the archive writes it.
        digest: of a file, ``sha256:`` and hex; empty for anything else.
        link: what a hard link or symbolic link names.
        kind: ``file``, ``hard``, ``link``, ``folder``, or ``other`` for devices and pipes.
        place: where in the archive a file's content lies, and how long it is; None where it does
            not lie there as it is.
    """

    name: str
    kind: str
    digest: str = ""
    link: str = ""
    place: tuple[int, int] | None = None


class _Tar(tarfile.TarFile):
    members: list[tarfile.TarInfo]


class Forward:
    """What ``tarfile`` reads from: only onwards, in bounded steps."""

    def __init__(self, raw: Reads) -> None:
        self._raw, self._at = raw, 0
        self.last = b""

    def read(self, size: int, /) -> bytes:
        if size > _MAX_READ:
            raise too_large(f"headers of at most {_MAX_READ} bytes")
        data = bytearray()
        while len(data) < size and (more := self._raw.read(size - len(data))):
            data += more
        self._at += len(data)
        if self._at > MAX_UNPACKED:
            raise too_large(f"at most {MAX_UNPACKED} bytes unpacked")
        self.last = bytes(data)
        return self.last

    def seek(self, to: int, /) -> int:
        if to < self._at:
            raise malformed("an archive that is read in order", f"back to byte {to}")
        while self._at < to and self.read(min(CHUNK, to - self._at)):
            pass
        return self._at

    def tell(self) -> int:
        return self._at


def _check_end(source: Forward) -> None:
    """A block of zeros, then little else: ``tarfile`` takes whatever it cannot read for an end."""
    last, rest = source.last, source.read(CHUNK)  # to its end, so that checksums are looked at
    if not last or last.strip(b"\0") or rest.strip(b"\0") or len(rest) == CHUNK:
        raise malformed("an archive with its end", "one that breaks off, or goes on")


def members(
    raw: Reads, *, keep: Callable[[str, IO[bytes]], None] | None = None
) -> Iterator[Member]:
    """The members of a tar archive, in their order; files are hashed. Use inside :func:`unpack`.

    Args:
        raw: decompressed.
        keep: given each file's name and content instead, where that is what is wanted.

    Raises:
        LimitError: ``source.size``.
    """
    source = Forward(raw)
    with _Tar.open(fileobj=cast("io.BytesIO", source), mode="r:") as tar:
        for _ in range(MAX_FILES):
            if (found := tar.next()) is None:
                _check_end(source)
                return
            tar.members.clear()
            if found.isreg():
                content = cast("IO[bytes]", tar.extractfile(found))
                if keep is not None:
                    keep(found.name, content)
                    continue
                place = None if found.issparse() else (found.offset_data, found.size)
                yield Member(found.name, "file", file_digest(content), place=place)
            elif found.islnk():
                yield Member(found.name, "hard", link=found.linkname)
            elif found.issym():
                yield Member(found.name, "link", link=found.linkname)
            else:
                yield Member(found.name, "folder" if found.isdir() else "other")
    raise too_large(f"at most {MAX_FILES} members")


def odd_path(path: object) -> InputError:
    return InputError(
        "source.path",
        expected="paths within the archive",
        observed=repr(path)[:200],
        next_step="do not use this archive: no packager makes such paths",
    )
