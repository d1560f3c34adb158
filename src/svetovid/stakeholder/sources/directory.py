"""Values of a folder: a root file system that is mounted or unpacked, or a program's own tree."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from svetovid.errors import HostError, InputError
from svetovid.evidence.references import Source
from svetovid.stakeholder.sources.archives import MAX_FILES
from svetovid.stakeholder.sources.streams import Progress, quiet
from svetovid.stakeholder.sources.tree import can_be_named

__all__ = ["below", "from_directory", "printable"]


def _unreadable(path: object, observed: str) -> HostError:
    return HostError(
        "source.unreadable",
        expected="a folder whose files can be read and stay as they are",
        observed=f"{observed}: {path}",
        next_step="run it as a user who may read them all, on a tree that nobody writes to",
    )


def _regular(folder: str) -> Iterator[str]:
    """Regular files below, in the order of their names."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _regular(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path
    except OSError as e:
        raise _unreadable(e.filename, e.strerror or "cannot be read") from e


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(path: str, progress: Progress) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as file:
            before = os.fstat(fd)
            value = hashlib.file_digest(file, "sha256").hexdigest()
            if _stamp(before) != _stamp(os.fstat(fd)):
                raise _unreadable(path, "changes while it is read")
    except OSError as e:
        raise _unreadable(path, e.strerror or "cannot be read") from e
    progress(before.st_size)
    return "sha256:" + value


def from_directory(
    folder: Path, *, at: str = "/", name: str = "", progress: Progress = quiet
) -> Source:
    """The SHA-256 of every regular file below ``folder``. Links lead nowhere: a log names files.

    Args:
        at: the path that the folder has on the host.
        name: what the source is called; by default the folder.
        progress: told of bytes as they are read.

    Raises:
        InputError: ``source.path`` where ``at`` is no absolute path.
        HostError: ``source.unreadable``, also for more than 2^20 files.
    """
    root = os.path.realpath(folder)
    if not folder.is_dir():
        raise _unreadable(folder, "no folder")
    files: dict[str, tuple[str, ...]] = {}
    for path in _regular(root):
        shown = below(at, path.removeprefix(root.rstrip("/")))
        if can_be_named(shown):
            files[shown] = (_digest(path, progress),)
        if len(files) > MAX_FILES:
            raise _unreadable(folder, f"more than {MAX_FILES} files")
    return Source(kind="directory", name=name or printable(os.fspath(folder)), files=files)


def below(at: str, path: str) -> str:
    """``path``, which is absolute, below a path of the host.

    Raises:
        InputError: ``source.path``.
    """
    if not at.startswith("/") or ".." in at.split("/"):
        raise InputError(
            "source.path",
            expected="the absolute path that the folder has on the host",
            observed=at,
            next_step="for example / for a root file system",
        )
    return at.rstrip("/") + path


def printable(text: str) -> str:
    """A name of a source, whatever a file is called."""
    return "".join(c if c.isprintable() else "?" for c in text)[-200:] or "?"
