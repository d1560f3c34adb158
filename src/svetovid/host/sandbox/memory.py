"""Memory: what is free, and anonymous memory as file descriptors: how bytes reach a sandbox without
touching a disk."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ["F_SEAL_FUTURE_WRITE", "SEALS", "created", "free_bytes", "frozen", "reopened"]

F_SEAL_FUTURE_WRITE = 0x10
"""No new writable mapping and no write(2); the mapping that exists may still write (Linux 5.1)."""
_MFD_NOEXEC_SEAL = 0x8
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def free_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that can be taken without swapping, by the kernel's own estimate (proc(5))."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def created(name: str) -> int:
    """Empty memory that can be sealed, and that only this uid can open anew.

    A sandbox has its descriptors and no need to open them again. A kernel that measures what is
    opened would take what it opened for a file, and enter a digest of the plaintext in its log.
    Nobody can make a program of it, from Linux 6.3 on not even a sandbox under this very uid.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError:
        fd = os.memfd_create(name, flags)
    os.fchmod(fd, 0o600)
    return fd


def reopened(fd: int) -> int:
    """The same memory through a descriptor of its own that can only read, at offset 0."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def frozen(name: str, data: bytes) -> int:
    """A read-only descriptor of memory that holds ``data`` and that nobody can change."""
    fd = created(name)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS | fcntl.F_SEAL_WRITE)
        return reopened(fd)
    finally:
        os.close(fd)
