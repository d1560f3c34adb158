"""Files from strangers as streams of bytes, decompressed where they say so, within bounds."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import IO, Protocol, cast

from svetovid.errors import HostError, InputError, LimitError, ParseError, SvetovidError

__all__ = [
    "Part",
    "Progress",
    "Reads",
    "file_digest",
    "malformed",
    "opened",
    "quiet",
    "too_large",
    "unpack",
]

CHUNK = 1 << 20
_MEMORY = 128 << 20
"""Bytes a decompressor may take for its window."""

Progress = Callable[[int], None]
"""Told how many more bytes were read."""


def quiet(_: int) -> None:
    """Progress that nobody watches."""


class Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


def malformed(expected: str, observed: object) -> ParseError:
    return ParseError(
        "source.malformed",
        expected=expected,
        observed=observed,
        next_step="fetch the file again; it must be as its maker published it",
    )


def too_large(expected: str) -> LimitError:
    return LimitError(
        "source.size",
        expected=expected,
        observed="more",
        next_step="make values of a smaller part of it",
    )


class Part:
    """Some bytes of a file, as a file that is read forwards."""

    def __init__(self, raw: IO[bytes], start: int, size: int, progress: Progress) -> None:
        self._raw, self._at, self._left, self._progress = raw, start, size, progress

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        self._raw.seek(self._at)
        data = self._raw.read(wanted)
        self._at += len(data)
        self._left -= len(data)
        self._progress(len(data))
        return data


class _Xz:
    """One xz stream, with a bound on the memory that its header asks for."""

    def __init__(self, raw: Reads) -> None:
        self._raw = raw
        self._stream = lzma.LZMADecompressor(memlimit=_MEMORY)

    def read(self, size: int, /) -> bytes:
        while not self._stream.eof:
            data = self._raw.read(CHUNK) if self._stream.needs_input else b""
            if self._stream.needs_input and not data:
                raise EOFError("the stream ends early")
            if out := self._stream.decompress(data, size):
                return out
        if self._stream.unused_data.strip(b"\0") or self._raw.read(CHUNK).strip(b"\0"):
            raise malformed("one xz stream", "bytes after it")
        return b""


class _Zstd:
    """Python 3.11 has no Zstandard; the tool of that name has."""

    def __init__(self, raw: Reads) -> None:
        program = shutil.which("zstd")
        if program is None:
            raise HostError(
                "source.zstd",
                expected="the program zstd, to read what is compressed with it",
                observed="not installed",
                next_step="apt-get install zstd",
            )
        command = [program, "-dcq", f"--memory={_MEMORY >> 20}MB"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._failed: SvetovidError | OSError | None = None
        Thread(target=self._feed, args=(raw,), daemon=True).start()

    def _feed(self, raw: Reads) -> None:
        stdin = cast("IO[bytes]", self._process.stdin)
        try:
            with stdin:
                while data := raw.read(CHUNK):
                    stdin.write(data)
        except (SvetovidError, OSError) as e:
            self._failed = e

    def read(self, size: int, /) -> bytes:
        data = cast("IO[bytes]", self._process.stdout).read(size)
        if not data and self._process.wait() != 0:
            raise malformed("a Zstandard stream", self._failed or "something else")
        return data

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        cast("IO[bytes]", self._process.stdout).close()


class _Before:
    """Bytes that were looked at already, then the rest."""

    def __init__(self, first: bytes, raw: Reads) -> None:
        self._first, self._raw = first, raw

    def read(self, size: int = -1, /) -> bytes:
        if self._first:
            out = self._first if size < 0 else self._first[:size]
            self._first = self._first[len(out) :]
            return out
        return self._raw.read(size)


@contextmanager
def opened(path: Path, *, what: str) -> Iterator[IO[bytes]]:
    """A regular file, to be read.

    Raises:
        InputError: ``file.unreadable``.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "no regular file")
    except (OSError, ValueError) as e:
        raise InputError(
            "file.unreadable",
            expected=what,
            observed=f"{path}: {getattr(e, 'strerror', None) or 'not a path'}",
            next_step="check the path",
        ) from e
    with file:
        yield file


@contextmanager
def unpack(raw: Reads) -> Iterator[Reads]:
    """The bytes of ``raw``, decompressed if their first bytes say so.

    Raises:
        ParseError: ``source.malformed``, also from reading inside.
        LimitError: ``source.size``.
        HostError: ``source.zstd``.
    """
    first = raw.read(6)
    whole = _Before(first, raw)
    zstd = None
    try:
        if first[:2] == b"\x1f\x8b":
            yield cast("Reads", gzip.GzipFile(fileobj=cast("IO[bytes]", whole)))
        elif first[:3] == b"BZh":
            yield bz2.BZ2File(cast("IO[bytes]", whole))
        elif first == b"\xfd7zXZ\0":
            yield _Xz(whole)
        elif first[:4] == b"\x28\xb5\x2f\xfd":
            zstd = _Zstd(whole)
            yield zstd
        else:
            yield whole
    except SvetovidError:
        raise
    except (
        *(tarfile.TarError, lzma.LZMAError, zlib.error, struct.error),
        *(OSError, EOFError, ValueError, OverflowError, RecursionError),
    ) as e:
        raise malformed("a tar archive, whole", str(e) or type(e).__name__) from e
    finally:
        if zstd is not None:
            zstd.close()


def file_digest(file: Reads) -> str:
    """``sha256:`` and hex of all that is left to read."""
    value = hashlib.sha256()
    while data := file.read(CHUNK):
        value.update(data)
    return "sha256:" + value.hexdigest()
