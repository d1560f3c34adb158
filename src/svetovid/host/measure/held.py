"""Has the kernel measure a whole tree before foreign code can choose what is measured.

The kernel enters a file when somebody first reads it, and the log is no secret: whichever files of
its own runtime a sandbox read, and in which order, would say there what its code likes. So the
agent reads all of them before, in one order. A file has one state for all hooks and all readers
(Linux ``security/integrity/ima/ima_main.c``: ``measured_pcrs`` of the inode), so whoever reads,
maps or runs it afterwards enters nothing.

The state goes with the inode, which memory pressure may push out. Read again, a file is entered
again if it is named differently, as it is inside a sandbox. So each is held open meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import resource
import stat
from collections.abc import Iterable
from pathlib import Path

from svetovid.errors import HostError
from svetovid.evidence.ima import Entry
from svetovid.host.measure.files import Found, Root, find

__all__ = ["Held"]

_FIRST = 4096
"""Descriptors from here on: the low ones stay free for libraries that wait with ``select``."""
_SPARE = 1024


def _failed(observed: object) -> HostError:
    return HostError(
        "measure.hold",
        expected="to hold every file of the runtime open",
        observed=observed,
        next_step="run the agent as root, raise its limit of open files (LimitNOFILE), and see"
        " that nobody changes the runtime",
    )


def _make_room(files: int) -> None:
    need = _FIRST + files + _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < need:
        bound = hard if hard == resource.RLIM_INFINITY else max(hard, need)
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, bound))


def _inode(path: str) -> tuple[int, int] | None:
    """Of a regular file; None where there is none of this name."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


class Held:
    """Every file below ``runtime``, read once in the order of their paths and held open.

    Raises:
        HostError: ``launcher.file`` for what is no plain file; ``measure.hold`` where it cannot be
            read, or not so many files can be open.
    """

    def __init__(self, runtime: Path) -> None:
        self._runtime = str(runtime).rstrip("/")
        files = find(Root(runtime, self._runtime))
        self._open: list[int] = []
        self._files: dict[tuple[int, int], str] = {}
        try:
            _make_room(len(files))
            for file in files:
                self._hold(file)
        except (OSError, ValueError) as e:
            self.close()
            raise _failed(e) from e

    def _hold(self, file: Found) -> None:
        fd = os.open(file.real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            self._open.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST))
        finally:
            os.close(fd)
        self._files[status.st_dev, status.st_ino] = file.path

    def missing(self, entries: Iterable[Entry]) -> list[str]:
        """Files that no entry is of, under any of their names; a sandbox sees the tree as ``/``."""
        names = (name for e in entries for name in (e.path, self._runtime + e.path))
        seen = {_inode(name) for name in names}
        return [path for inode, path in self._files.items() if inode not in seen]

    def strange(self, entries: Iterable[Entry]) -> bool:
        """Whether a sandbox may have caused one of ``entries``, all of them measured since.

        A name that a program of this host read stands on this host, outside the tree. Any other was
        given by somebody who sees another file system. Buffers are the kernel's own.
        """
        for entry in entries:
            if entry.detail is not None and entry.detail.buffer:
                continue
            inode = _inode(entry.path)
            inside = entry.path.startswith(self._runtime + "/")
            if inode is None or inode in self._files or inside:
                return True
        return False

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())
