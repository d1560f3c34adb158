"""Memory for operands and answers. What a worker on this machine sees is made, sealed and mapped by
the trusted side.

Sealed against shrinking, so that no worker can take pages away from under a mapping (SIGBUS), and,
where it holds operands, against writing from elsewhere (memfd_create(2), fcntl(2)).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from svetovid.errors import HostError
from svetovid.offload.wire import NUMBER_BYTES

if TYPE_CHECKING:
    from svetovid.offload.work import Residues

__all__ = ["Arena", "Own", "Shared", "mapped"]

_F_SEAL_FUTURE_WRITE = 0x10
"""No new writable mapping and no write(2); the mapping that exists may still write (Linux 5.1)."""
_ALIGN = 4096
_FIRST, _LARGEST = 1 << 20, 1 << 28
"""Bytes of the first memory, and of the largest that holds more than one tensor."""


class Shared:
    """One memory.

    Attributes:
        number: names it to the worker.
        used: bytes of it that are taken.
        known: whether the worker was handed it.
    """

    def __init__(self, number: int, size: int, *, answers: bool) -> None:
        self.number = number
        self.size = size
        self.answers = answers
        self.used = 0
        self.known = False
        _afford(size)
        try:
            self._fd = os.memfd_create("svetovid", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                self._map = self._sealed(self._fd)
            except OSError:
                os.close(self._fd)
                raise
        except OSError as e:
            raise _none(size, e) from e

    def _sealed(self, fd: int) -> mmap.mmap:
        os.fchmod(fd, 0o600)
        # All of it now: what could not be had later would be a signal, not an error.
        os.posix_fallocate(fd, 0, self.size)
        made = mmap.mmap(fd, self.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals | (0 if self.answers else _F_SEAL_FUTURE_WRITE))
        return made

    def handed_over(self) -> int:
        """A descriptor for the worker; that of operands can only read. The caller closes it."""
        how = os.O_RDWR if self.answers else os.O_RDONLY
        return os.open(f"/proc/self/fd/{self._fd}", how | os.O_CLOEXEC)

    def numbers(self, offset: int, count: int) -> Residues:
        """``count`` numbers from a byte on, as they stand there."""
        import numpy as np

        return np.frombuffer(self._map, np.dtype("<i4"), count, offset)

    def release(self) -> None:
        """Let go of it. What :meth:`numbers` gave stays readable until it is let go of as well."""
        os.close(self._fd)
        del self._map


class Own:
    """One memory that is ours alone; see :class:`Shared`."""

    known = False

    def __init__(self, size: int) -> None:
        import numpy as np

        self.number = 0
        self.size = size
        self.used = 0
        _afford(size)
        self._words = np.empty(size // NUMBER_BYTES, np.dtype("<i4"))

    def numbers(self, offset: int, count: int) -> Residues:
        """``count`` numbers from a byte on."""
        first = offset // NUMBER_BYTES
        return self._words[first : first + count]

    def release(self) -> None:
        """Let go of it."""


M = TypeVar("M", bound=Shared | Own)


class Arena(Generic[M]):
    """Memory of one link, of operands or of answers: taken piece by piece until :meth:`reuse`, then
    again from the start, so that a step finds the pages of the last one.

    Never shared by two links, since a worker can still read what memory held before.

    Args:
        make: memory of so many bytes.
        most: bytes that may rest unused.
    """

    def __init__(self, make: Callable[[int], M], most: int) -> None:
        self._make = make
        self._most = most
        self._memories: list[M] = []

    def take(self, count: int) -> tuple[M, int]:
        """Room for so many numbers: in which memory, from which byte on.

        Raises:
            HostError: ``worker.memory``.
        """
        size = -(-count * NUMBER_BYTES // _ALIGN) * _ALIGN
        for memory in self._memories:
            if memory.used + size <= memory.size:
                break
        else:
            so_far = sum(m.size for m in self._memories)
            memory = self._make(max(size, min(max(so_far, _FIRST), _LARGEST)))
            self._memories.append(memory)
        memory.used += size
        return memory, memory.used - size

    def reuse(self) -> list[int]:
        """Nothing is taken any more. Memory beyond what may rest is let go of: its numbers."""
        left = self._most
        kept: list[M] = []
        gone: list[int] = []
        for memory in self._memories:
            memory.used = 0
            if memory.size <= left:
                left -= memory.size
                kept.append(memory)
            else:
                memory.release()
                gone += [memory.number] if memory.known else []
        self._memories = kept
        return gone

    def close(self) -> None:
        """Let go of everything."""
        for memory in self._memories:
            memory.release()
        self._memories = []


def _afford(size: int) -> None:
    """The kernel would rather kill a process than say no (proc(5) has its estimate)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:") and int(line.split()[1]) * 1024 < size:
            raise _none(size, f"{int(line.split()[1]) * 1024:,} bytes are free")


def _none(size: int, why: object) -> HostError:
    return HostError(
        "worker.memory",
        expected=f"{size:,} bytes for what a worker is sent or answers",
        observed=why,
        next_step="make the batch smaller, or give the trusted side more memory",
    )


def mapped(fd: int, size: int, *, writable: bool) -> mmap.mmap:
    """What a worker was handed, of at least ``size`` bytes.

    Raises:
        OSError, ValueError: it is something else, or smaller.
    """
    return mmap.mmap(fd, size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
