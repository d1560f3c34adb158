"""Bytes in and out of storage: sources that are read at random, sinks that appear whole or not.

Local files go through the operating system directly; everything else through fsspec. Nothing here
trusts storage: what it answers is checked by whoever asked.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import fsspec

from svetovid.assets.urls import Address, parse_url
from svetovid.errors import HostError, InputError, TransportError

__all__ = ["Ahead", "Sink", "Source", "create", "open_source", "read_small"]

T = TypeVar("T")
REMOTE_WINDOW = 8 << 20
"""Bytes asked for at once when an object store is read in order."""


class Source(Protocol):
    """Random access to stored bytes.

    Attributes:
        length: bytes stored when it was opened.
        window: bytes worth asking for at once when reading in order; 0 where it does not matter.
    """

    length: int
    window: int

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset``; the number of bytes there were."""
        ...

    def close(self) -> None: ...


class Sink(Protocol):
    """Where a container is written to, in order."""

    def write(self, data: bytes | bytearray | memoryview) -> None: ...


def _missing(url: str) -> InputError:
    return InputError(
        "asset.missing",
        expected="a stored object",
        observed=url,
        next_step="check the address, or copy the container there",
    )


def _exists(url: str) -> InputError:
    return InputError(
        "asset.exists",
        expected="nothing stored there yet",
        observed=url,
        next_step="choose another name; sealed containers are never overwritten",
    )


def _storage(url: str, e: OSError) -> HostError:
    return HostError(
        "asset.storage",
        expected=f"to read or write {url}",
        observed=e.strerror or "an input or output error",
        next_step="check the disk, its free space and the rights on the folder",
    )


def _local(url: str, act: Callable[[], T]) -> T:
    """Do something to a local file; the operating system's errors become ours."""
    try:
        return act()
    except (FileNotFoundError, NotADirectoryError) as e:
        raise _missing(url) from e
    except OSError as e:
        raise _storage(url, e) from e


def _remote(url: str, act: Callable[[], T]) -> T:
    """Do something through fsspec; whatever its back ends raise becomes ours."""
    try:
        return act()
    except FileNotFoundError as e:
        raise _missing(url) from e
    except Exception as e:  # each fsspec back end has an error tree of its own
        raise TransportError(
            "asset.transport",
            expected=f"to reach {url}",
            observed=type(e).__name__,
            next_step="check the network, the bucket and the credentials",
        ) from e


def _filesystem(address: Address) -> Any:
    try:
        if address.scheme == "memory":
            return fsspec.filesystem("memory")
        return fsspec.filesystem(address.scheme, use_listings_cache=False)
    except ImportError as e:
        raise HostError(
            "asset.extra",
            expected=f"support for {address.scheme}:// addresses",
            observed="it is not installed",
            next_step="pip install 'svetovid[s3]'",
        ) from e


class _LocalSource:
    window = 0

    def __init__(self, url: str, path: str) -> None:
        self._url = url
        # O_NONBLOCK: a pipe put in the file's place must not hang the reader.
        self._fd = _local(url, lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise InputError(
                "asset.missing",
                expected="a regular file",
                observed=url,
                next_step="point to the container itself",
            )
        self.length = status.st_size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        done = 0
        try:
            while done < len(buffer):
                got = os.preadv(self._fd, [buffer[done:]], offset + done)
                if not got:
                    break
                done += got
        except OSError as e:
            raise _storage(self._url, e) from e
        return done

    def close(self) -> None:
        os.close(self._fd)


class _RemoteSource:
    window = REMOTE_WINDOW

    def __init__(self, url: str, address: Address) -> None:
        self._url = url
        self._path = address.path
        self._fs = _filesystem(address)
        self.length = int(_remote(url, lambda: self._fs.info(address.path))["size"])

    def read_into(self, offset: int, buffer: memoryview) -> int:
        stop = min(offset + len(buffer), self.length)
        if offset >= stop:
            return 0
        data = _remote(self._url, lambda: self._fs.cat_file(self._path, start=offset, end=stop))
        got = min(len(data), len(buffer))
        buffer[:got] = data[:got]
        return got

    def close(self) -> None:
        self._fs = None


class Ahead:
    """Reads a source in order through one window, so that a far store is asked less often."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = bytearray(source.window)
        self._start = self._stop = 0
        self.length = source.length
        self.window = 0

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if len(buffer) > len(self._buffer):
            return self._source.read_into(offset, buffer)
        if not self._start <= offset <= offset + len(buffer) <= self._stop:
            self._start = offset
            self._stop = offset + self._source.read_into(offset, memoryview(self._buffer))
        at = offset - self._start
        got = max(0, min(len(buffer), self._stop - offset))
        buffer[:got] = memoryview(self._buffer)[at : at + got]
        return got

    def close(self) -> None:
        self._buffer = bytearray()


def open_source(url: str) -> Source:
    """Open stored bytes for random reading.

    Raises:
        InputError: ``asset.url``, ``asset.missing``.
        HostError: ``asset.storage``, ``asset.extra``.
        TransportError: ``asset.transport``.
    """
    address = parse_url(url)
    if address.scheme == "file":
        return _LocalSource(url, address.path)
    return _RemoteSource(url, address)


def read_small(url: str, limit: int) -> bytes:
    """At most ``limit + 1`` bytes of what is stored at ``url``, for documents."""
    source = open_source(url)
    try:
        buffer = bytearray(min(source.length, limit + 1))
        del buffer[source.read_into(0, memoryview(buffer)) :]
        return bytes(buffer)
    finally:
        source.close()


@contextmanager
def create(url: str) -> Iterator[Sink]:
    """Write a new object that appears under its name when the block ends, whole, or never.

    Raises:
        InputError: ``asset.url``, ``asset.missing`` (no such folder), ``asset.exists``.
        HostError: ``asset.storage``, ``asset.extra``.
        TransportError: ``asset.transport``.
    """
    address = parse_url(url)
    if address.scheme == "file":
        writer = _create_local(url, Path(address.path))
    else:
        writer = _create_remote(url, address)
    with writer as sink:
        yield sink


class _Checked:
    """A sink whose writes give our errors."""

    def __init__(self, url: str, file: Any, guard: Callable[[str, Callable[[], Any]], Any]) -> None:
        self._url = url
        self._file = file
        self._guard = guard

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._guard(self._url, lambda: self._file.write(data))


@contextmanager
def _create_local(url: str, path: Path) -> Iterator[Sink]:
    if os.path.lexists(path):
        raise _exists(url)
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = _local(url, lambda: os.open(part, flags, 0o644))
    try:
        with os.fdopen(fd, "wb", buffering=0) as f:
            yield _Checked(url, _Whole(f), _local)
            _local(url, lambda: os.fsync(f.fileno()))
        # link() instead of rename(): it never replaces what somebody put there meanwhile.
        try:
            _local(url, lambda: os.link(part, path))
        except HostError as e:
            if isinstance(e.__cause__, FileExistsError):
                raise _exists(url) from e
            raise
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


class _Whole:
    """An unbuffered file whose ``write`` takes everything."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _create_remote(url: str, address: Address) -> Iterator[Sink]:
    fs = _filesystem(address)
    if _remote(url, lambda: fs.exists(address.path)):
        raise _exists(url)
    # An object store shows an upload when it is complete; fsspec's memory store shows it at once.
    staged = address.scheme == "memory"
    path = f"{address.path}.{secrets.token_hex(8)}.part" if staged else address.path
    file = _remote(url, lambda: fs.open(path, "wb"))
    try:
        yield _Checked(url, file, _remote)
        _remote(url, file.close)
        if staged:
            _remote(url, lambda: fs.mv(path, address.path))
    except BaseException:
        with contextlib.suppress(Exception):
            _abandon(fs, file, path, staged)
        raise


def _abandon(fs: Any, file: Any, path: str, staged: bool) -> None:
    if staged:
        fs.rm(path)
        return
    file.discard()
    # fsspec completes an upload in close(), also when the garbage collector calls it.
    file.closed = True
