"""The data server: decrypts assets ahead of use into memory that a sandbox can read, and no more.

Each asset gets an anonymous memory file, never a disk. The host keeps the one writable mapping;
seals forbid any other (``F_SEAL_FUTURE_WRITE``), and the sandbox receives a read-only descriptor. A
second, one-page file holds the watermark: how many bytes from the start are verified plaintext. It
moves only after a chunk has been checked, so code may start on the first records while the last
ones are still sealed. No key comes near the sandbox (T8).
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import mmap
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from svetovid.errors import HostError, SvetovidError
from svetovid.host.forgetting import forget
from svetovid.host.sandbox.memory import (
    F_SEAL_FUTURE_WRITE,
    SEALS,
    created,
    free_bytes,
    reopened,
)

__all__ = ["Feed", "Region", "Sealed"]

_PAGE = mmap.PAGESIZE
_MLOCK_ONFAULT = 1
_SHARE = 0.8
"""Of the memory that is free, at most this share goes to decrypted assets."""
_ENDS_S = 2.0
"""How long a chunk may take to be decrypted when a job has ended."""
_SHOWN = 4
"""Assets that a refusal names, the largest first."""


class Sealed(Protocol):
    """What a feed reads; :class:`svetovid.assets.AssetReader` is one."""

    @property
    def size(self) -> int: ...

    def stream_into(
        self, buffer: memoryview, on_progress: Callable[[int], None] | None = None
    ) -> None: ...


class _ClosedError(Exception):
    """The feed was closed while it still decrypted."""


@dataclass(frozen=True, slots=True)
class Region:
    """Descriptors for the sandbox: ``data`` (``size`` bytes) and ``mark`` (one page).

    The first 8 bytes of ``mark``, a little-endian integer, say how much of ``data`` is there.
    """

    data: int
    mark: int
    size: int


class _Memory:
    """One shared memory file, its writable mapping here and its read-only descriptor for there."""

    def __init__(self, size: int, *, lock: bool) -> None:
        self.length = max(size, 1)
        fd = created("asset")
        try:
            os.ftruncate(fd, self.length)
            self._map = mmap.mmap(fd, self.length)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS | F_SEAL_FUTURE_WRITE)
            self.fd = reopened(fd)
        finally:
            os.close(fd)
        self._map.madvise(mmap.MADV_DONTDUMP)
        self.locked = lock and self._lock()
        self.view = memoryview(self._map)

    def _lock(self) -> bool:
        libc = ctypes.CDLL(None, use_errno=True)
        first = ctypes.c_char.from_buffer(self._map)
        size = ctypes.c_size_t(self.length)
        locked: int = libc.mlock2(
            ctypes.c_void_p(ctypes.addressof(first)), size, ctypes.c_uint(_MLOCK_ONFAULT)
        )
        return locked == 0

    def close(self) -> None:
        os.close(self.fd)
        try:
            self.view.release()
            self._map.close()
        except BufferError:  # somebody keeps a view: of nothing, from now on
            ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(self._map)), 0, self.length)


def _swaps(swaps: Path = Path("/proc/swaps")) -> bool:
    try:
        return len(swaps.read_text().splitlines()) > 1
    except OSError:
        return False


def _mib(size: int) -> str:
    """``size`` rounded up, as people read it."""
    return f"{-(-size // (1 << 20))} MiB"


class Feed:
    """Decrypts all assets of a job in the background, in the order given.

    Args:
        assets: slot name to opened asset.
        max_bytes: bound for all of them together; by default four fifths of the free memory.

    Attributes:
        regions: slot name to its descriptors, there before any byte is decrypted.
        failed: what went wrong while decrypting, or None.
        open_s: seconds until all was decrypted; 0.0 until then.
        locked: whether the memory is locked against swapping.

    Raises:
        HostError: ``feed.memory`` for assets that do not fit: all data of a job is in memory at
            once. ``feed.swap`` where memory cannot be locked and this machine swaps to disk
            (T16).
    """

    def __init__(self, assets: Mapping[str, Sealed], *, max_bytes: int | None = None) -> None:
        self._assets = dict(assets)
        self._memory: dict[str, tuple[_Memory, _Memory]] = {}
        self._closed = threading.Event()
        self.failed: SvetovidError | None = None
        self.open_s = 0.0
        self._check_room(max_bytes)
        try:
            for slot, asset in assets.items():
                self._memory[slot] = (_Memory(asset.size, lock=True), _Memory(_PAGE, lock=False))
            self.locked = all(data.locked for data, _ in self._memory.values())
            if not self.locked and _swaps():
                raise HostError(
                    "feed.swap",
                    expected="memory that cannot be swapped to a disk",
                    observed="a locked memory limit that is too small, and swap in use",
                    next_step="swapoff -a, or raise the limit (ulimit -l)",
                )
        except BaseException:
            self._free()
            raise
        self.regions = {
            slot: Region(data.fd, mark.fd, assets[slot].size)
            for slot, (data, mark) in self._memory.items()
        }
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)

    def _check_room(self, max_bytes: int | None) -> None:
        sizes = {slot: asset.size for slot, asset in self._assets.items()}
        total, free = sum(sizes.values()), free_bytes()
        bound = int(free * _SHARE) if max_bytes is None else max_bytes
        if total <= bound:
            return
        of = "" if max_bytes is not None else f" ({_SHARE:.0%} of {_mib(free)} that are free)"
        largest = sorted(sizes.items(), key=lambda kv: -kv[1])[:_SHOWN]
        raise HostError(
            "feed.memory",
            expected=f"all assets of a job in memory at once: at most {_mib(bound)}{of}",
            observed=f"{_mib(total)}: " + ", ".join(f"{slot} {_mib(n)}" for slot, n in largest),
            next_step=f"run it on a host with {_mib(math.ceil(total / _SHARE))} of free memory, or "
            "agree on jobs over parts: seal each data set in several assets, and let a job start "
            "from the model of the one before",
        )

    def start(self) -> None:
        self._thread.start()

    def _fill(self) -> None:
        begun = time.monotonic()
        try:
            for slot, asset in self._assets.items():
                data, mark = self._memory[slot]
                counter = mark.view[:8].cast("Q")
                try:
                    asset.stream_into(data.view[: asset.size], self._publisher(counter))
                finally:
                    counter.release()
        except _ClosedError:
            return
        except SvetovidError as e:
            forget(e)
            self.failed = e
        except Exception:  # noqa: BLE001 - whatever it is, the job must not wait for ever
            self.failed = HostError(
                "feed.failed",
                expected="to decrypt the job's assets",
                next_step="look at the storage that holds the containers",
            )
        else:
            self.open_s = time.monotonic() - begun

    def _publisher(self, counter: memoryview) -> Callable[[int], None]:
        lock = threading.Lock()

        def publish(done: int) -> None:
            # One aligned store; the lock orders it after the plaintext on every machine.
            with lock:
                counter[0] = done
            if self._closed.is_set():
                raise _ClosedError

        return publish

    def _free(self) -> None:
        for pair in self._memory.values():
            for memory in pair:
                memory.close()
        self._memory = {}

    def close(self) -> None:
        """Stop decrypting and free the memory; it is gone once the sandbox is dead too (T12).

        Storage that does not answer is not waited for: what was decrypted is wiped, whoever still
        has a view of it.
        """
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(_ENDS_S)
        self._free()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
