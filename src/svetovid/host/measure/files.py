"""Files below a root, under the names that the measurement log gives them, and their digests."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from svetovid.errors import HostError

__all__ = ["Found", "Root", "agent_root", "digests", "find", "found_file"]

_THREADS = 8
_TRIES = 3
_MAX_FILES = 1 << 17


@dataclass(frozen=True, slots=True)
class Root:
    """A folder whose files are measured.

    Attributes:
        folder: where it is on this host.
        at: the path it has in the log: where the sandbox sees it, or its own.
        suffix: measure only files that end in one of these; all of them where empty.
    """

    folder: Path
    at: str
    suffix: tuple[str, ...] = ()


def agent_root() -> Root:
    """What svetovid itself runs, Python and native kernels, under their own paths."""
    import svetovid

    folder = Path(svetovid.__file__).resolve().parent
    return Root(folder, str(folder), (".py", ".so"))


@dataclass(frozen=True, slots=True)
class Found:
    """One regular file, as it stood when it was looked at.

    Attributes:
        path: its name in the log.
        real: where it is on this host.
        stamp: device, inode, size, mtime and ctime in ns: while these stay, so do its bytes.
    """

    path: str
    real: str
    stamp: tuple[int, int, int, int, int]


def _stamp(status: os.stat_result) -> tuple[int, int, int, int, int]:
    # ctime cannot be set back without the clock or the raw disk; mtime alone could be.
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _odd(path: str, observed: str) -> HostError:
    return HostError(
        "launcher.file",
        expected="regular files and folders with printable names",
        observed=f"{observed}: {path}",
        next_step="remove it, or build the runtime again",
    )


def _walk(folder: str, at: str, suffix: tuple[str, ...]) -> Iterator[Found]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{at}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if entry.name.isprintable():
                    yield from _walk(entry.path, path, suffix)
                    continue
                raise _odd(path, "a name that cannot be printed")
            if suffix and not entry.name.endswith(suffix):
                continue
            # A link is refused, not followed: it could name another file at the next look.
            if not entry.is_file(follow_symlinks=False):
                raise _odd(path, "a link or a special file")
            if not path.isprintable():
                raise _odd(path, "a name that cannot be printed")
            yield Found(path, entry.path, _stamp(entry.stat(follow_symlinks=False)))


def find(root: Root) -> list[Found]:
    """Regular files below ``root``, sorted by their path in the log.

    Raises:
        HostError: ``launcher.file`` for a link, a device, a name that cannot be printed, a folder
            that cannot be read, or more files than a log holds.
    """
    found: list[Found] = []
    try:
        for file in _walk(str(root.folder), root.at.rstrip("/"), root.suffix):
            found.append(file)
            if len(found) > _MAX_FILES:
                raise _odd(file.path, f"more than {_MAX_FILES} files")
    except OSError as e:
        raise _odd(str(e.filename), e.strerror or "it cannot be read") from e
    found.sort(key=lambda f: f.path)
    return found


def found_file(path: Path) -> Found:
    """One regular file, under its own absolute path.

    Raises:
        HostError: ``launcher.file``.
    """
    try:
        status = path.lstat()
    except OSError as e:
        raise _odd(str(path), e.strerror or "it cannot be read") from e
    if not stat.S_ISREG(status.st_mode) or not str(path).isprintable():
        raise _odd(str(path), "no regular file, or a name that cannot be printed")
    return Found(str(path), str(path), _stamp(status))


def _digest(file: Found) -> tuple[str, tuple[int, int, int, int, int]]:
    try:
        for _ in range(_TRIES):
            fd = os.open(file.real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb", buffering=0) as f:
                before = os.fstat(fd)
                if not stat.S_ISREG(before.st_mode):
                    break
                value = hashlib.file_digest(f, "sha256").hexdigest()
                if _stamp(before) == _stamp(os.fstat(fd)):
                    return "sha256:" + value, _stamp(before)
    except OSError as e:
        raise _odd(file.path, e.strerror or "it cannot be read") from e
    raise _odd(file.path, "a file that changes while it is read")


def digests(files: Iterable[Found]) -> Iterator[tuple[Found, str]]:
    """Each file with its SHA-256 digest, in the order given, hashed in parallel.

    The answer's stamp is the one that belongs to the bytes that were hashed.

    Raises:
        HostError: ``launcher.file``.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, (value, stamp) in zip(
            files := list(files), pool.map(_digest, files, chunksize=32), strict=True
        ):
            yield Found(file.path, file.real, stamp), value
