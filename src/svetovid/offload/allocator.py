"""Memory that a step frees is there for the next one.

A step of training frees tensors of many megabytes and takes as many again. The C library gives
such memory back to the kernel at once, which then clears every page anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

__all__ = ["kept_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""mallopt(3)."""
_KEEP = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20))
_DEFAULT = ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, 128 << 10), (_TOP_PAD, 128 << 10))
"""As mallopt(3) documents them for glibc, which adapts its threshold for mmap(2) no longer once any
of these was set."""
_depth = 0
_lock = threading.Lock()


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Have this process keep what it frees until the end, and then give it back.

    For the whole process; blocks may lie one in another. Where the C library has no such choice,
    nothing is changed.
    """
    global _depth
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    with _lock:
        _depth += 1
        if _depth == 1:
            _choose(library, _KEEP)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                _choose(library, _DEFAULT)
                library.malloc_trim(0)


def _choose(library: ctypes.CDLL, options: tuple[tuple[int, int], ...]) -> None:
    for option, value in options:
        library.mallopt(option, value)
