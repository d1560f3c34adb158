"""Working memory of a reader: scratch space, used again, and verified ciphertext, held."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
from collections import deque

from svetovid.assets.format import LABEL_BYTES

__all__ = ["Held", "Pool", "Scratch"]

_PAGE = 4096
_CIPHER_PHASE = _PAGE // 2
_PLAIN_PHASE = 0
# Plaintext buffers mostly begin on a page. Where ciphertext begins near the same offset in its own
# page, each store looks to the processor like the load that follows it ("4K aliasing"), and
# decryption runs at half its speed; half a page apart, it does not.


def _at_phase(size: int, phase: int) -> memoryview:
    """``size`` writable bytes whose address is ``phase`` modulo the page size."""
    room = bytearray(size + _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    start = (phase - address) % _PAGE
    return memoryview(room)[start : start + size]


class Scratch:
    """One thread's space for one chunk: as stored, and in plain where the caller wants a part."""

    def __init__(self, stored_bytes: int, plain_bytes: int) -> None:
        self.stored = _at_phase(stored_bytes, _CIPHER_PHASE - LABEL_BYTES)
        self._plain_bytes = plain_bytes
        self._plain: memoryview | None = None

    @property
    def plain(self) -> memoryview:
        if self._plain is None:
            self._plain = _at_phase(self._plain_bytes, _PLAIN_PHASE)
        return self._plain

    def wipe(self) -> None:
        if self._plain is not None:
            self._plain[:] = bytes(len(self._plain))


class Pool:
    """As many scratch spaces as threads read at once."""

    def __init__(self, stored_bytes: int, plain_bytes: int) -> None:
        self._sizes = (stored_bytes, plain_bytes)
        self._free: deque[Scratch] = deque()

    def take(self) -> Scratch:
        try:
            return self._free.pop()
        except IndexError:
            return Scratch(*self._sizes)

    def give(self, scratch: Scratch) -> None:
        self._free.append(scratch)

    def wipe(self) -> None:
        """Overwrite the plaintext in spaces that no thread uses now, and drop them."""
        while self._free:
            self._free.pop().wipe()


class Held:
    """Verified ciphertext in private memory: the first chunks that fit stay until the end.

    Nothing is dropped for something newer. A place is written once, before anybody can find it, so
    readers need no lock, and what was verified is what is decrypted. For reads in random order no
    other choice holds more of what is asked for; for repeated passes in order, dropping the oldest
    would hold nothing of it.
    """

    def __init__(self, limit: int, chunks: int, stored_bytes: int) -> None:
        self._place = -(-stored_bytes // _PAGE) * _PAGE
        self._room = min(chunks, limit // self._place)
        self._chunks: dict[int, memoryview] = {}
        self._memory: memoryview | None = None
        self._lock = threading.Lock()

    def get(self, index: int) -> memoryview | None:
        return self._chunks.get(index)

    def put(self, index: int, stored: memoryview) -> None:
        """Keep a copy, while there is room."""
        if len(self._chunks) >= self._room:
            return
        with self._lock:
            if index in self._chunks or len(self._chunks) >= self._room:
                return
            start = len(self._chunks) * self._place + _CIPHER_PHASE - LABEL_BYTES
            copy = self._allocated()[start : start + len(stored)]
            copy[:] = stored
            self._chunks[index] = copy

    def clear(self) -> None:
        """Drop everything, and hold nothing more."""
        with self._lock:
            self._room = 0
            self._chunks = {}
            self._memory = None

    def _allocated(self) -> memoryview:
        if self._memory is None:
            memory = mmap.mmap(-1, self._room * self._place + _PAGE)
            # Thousands of small page faults would cost more than the hashing that holding saves.
            with contextlib.suppress(OSError):
                memory.madvise(mmap.MADV_HUGEPAGE)
            self._memory = memoryview(memory)
        return self._memory
