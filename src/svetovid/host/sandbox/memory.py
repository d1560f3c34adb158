"""Anonymous memory as file descriptors: how bytes reach a sandbox without touching a disk."""

from __future__ import annotations

import fcntl
import os

__all__ = ["F_SEAL_FUTURE_WRITE", "SEALS", "frozen", "reopened"]

F_SEAL_FUTURE_WRITE = 0x10
"""No new writable mapping and no write(2); the mapping that exists may still write (Linux 5.1)."""
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def reopened(fd: int) -> int:
    """The same memory through a descriptor of its own that can only read, at offset 0."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def frozen(name: str, data: bytes) -> int:
    """A read-only descriptor of memory that holds ``data`` and that nobody can change."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS | fcntl.F_SEAL_WRITE)
        return reopened(fd)
    finally:
        os.close(fd)
