"""Memory that a worker on this machine sees: made, sealed and mapped by the trusted side.

Sealed against shrinking, so that no worker can take pages away from under a mapping (SIGBUS), and,
where it holds operands, against writing from elsewhere (memfd_create(2), fcntl(2)).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from svetovid.errors import HostError
from svetovid.offload.wire import NUMBER_BYTES, Place

if TYPE_CHECKING:
    from svetovid.offload.work import Residues

__all__ = ["Arena", "Shared", "mapped"]

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
        try:
            self._fd = os.memfd_create("svetovid", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                self._map = self._sealed(self._fd)
            except OSError:
                os.close(self._fd)
                raise
        except OSError as e:
            raise HostError(
                "worker.memory",
                expected=f"{size:,} bytes to share with a worker",
                observed=str(e),
                next_step="make the batch smaller, or have workers on other machines",
            ) from e

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


class Arena:
    """Memory of one link, of operands or of answers: taken piece by piece until :meth:`reuse`, then
    again from the start, so that a step finds the pages of the last one.

    Never shared by two links, since a worker can still read what memory held before.

    Args:
        numbers: of memories, never given twice.
        most: bytes that may rest unused.
    """

    def __init__(self, numbers: Iterator[int], *, answers: bool, most: int) -> None:
        self._numbers = numbers
        self._answers = answers
        self._most = most
        self._memories: list[Shared] = []

    def take(self, count: int) -> tuple[Shared, Place]:
        """Room for so many numbers.

        Raises:
            HostError: ``worker.memory``.
        """
        size = -(-count * NUMBER_BYTES // _ALIGN) * _ALIGN
        for memory in self._memories:
            if memory.used + size <= memory.size:
                break
        else:
            so_far = sum(m.size for m in self._memories)
            grown = max(size, min(max(so_far, _FIRST), _LARGEST))
            memory = Shared(next(self._numbers), grown, answers=self._answers)
            self._memories.append(memory)
        place = Place(memory.number, memory.used)
        memory.used += size
        return memory, place

    def reuse(self) -> list[int]:
        """Nothing is taken any more. Memory beyond what may rest is let go of: its numbers."""
        left = self._most
        kept: list[Shared] = []
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


def mapped(fd: int, size: int, *, writable: bool) -> mmap.mmap:
    """What a worker was handed, of at least ``size`` bytes.

    Raises:
        OSError, ValueError: it is something else.
    """
    if os.fstat(fd).st_size < size:
        raise ValueError("smaller than said")
    return mmap.mmap(fd, size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
