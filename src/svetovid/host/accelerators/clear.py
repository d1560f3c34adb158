"""Clears one GPU's memory in a process of its own: ``python -I -S -B clear.py LIBRARY BUS WAIT_S``.

Takes all the memory that the driver gives (cuMemAlloc, in blocks of falling size), writes zeros
over it, reads it back and looks at every byte. What it cannot take is held by others or by the
driver itself; where that is more than the driver needs, it waits, since a process that was just
killed gives its memory back a little later. Prints one JSON object and ends with 0, or says on
standard error what went wrong and ends with 1. Standard library only; the calls are those of the
CUDA driver API reference (initialization, primary contexts, memory management).
"""

import ctypes
import json
import sys
import time

_BLOCK, _LEAST = 1 << 30, 2 << 20
"""Blocks from 1 GiB down to the 2 MiB that GPUs hand out memory in."""
_WINDOW = 64 << 20
_OUT_OF_MEMORY = 2
_DRIVER_NEEDS = 1 << 30
_PAUSE_S = 0.2


class Driver:
    """The calls that are needed, each checked."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)

    def _raw(self, name: str, *arguments: object) -> int:
        code: int = getattr(self._library, name)(*arguments)
        return code

    def call(self, name: str, *arguments: object) -> None:
        code = self._raw(name, *arguments)
        if code != 0:
            sys.exit(f"{name} answered {code}")

    def start(self, bus: str) -> None:
        """Make a context on the GPU at PCI address ``bus``. It ends with this process."""
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", ctypes.c_uint(0))
        self.call("cuDeviceGetByPCIBusId", ctypes.byref(device), bus.encode())
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def total(self) -> int:
        """Bytes that this GPU has."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value

    def allocate(self, size: int) -> "int | None":
        """Address of ``size`` bytes of device memory; None where there are not so many."""
        address = ctypes.c_uint64()
        code = self._raw("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        if code not in (0, _OUT_OF_MEMORY):
            sys.exit(f"cuMemAlloc_v2 answered {code}")
        return None if code else address.value

    def zero(self, address: int, size: int) -> None:
        self.call(
            "cuMemsetD8_v2", ctypes.c_uint64(address), ctypes.c_ubyte(0), ctypes.c_size_t(size)
        )

    def read(self, into: "ctypes.c_void_p", address: int, size: int) -> None:
        self.call("cuMemcpyDtoH_v2", into, ctypes.c_uint64(address), ctypes.c_size_t(size))

    def page_locked(self, size: int) -> ctypes.c_void_p:
        """Host memory that the GPU copies to at full speed."""
        memory = ctypes.c_void_p()
        self.call("cuMemHostAlloc", ctypes.byref(memory), ctypes.c_size_t(size), ctypes.c_uint(0))
        return memory


def take(driver: Driver, wait_s: float) -> "tuple[list[tuple[int, int]], int]":
    """All memory there is, as (address, size); and how much there is in all."""
    blocks: list[tuple[int, int]] = []
    total, taken = driver.total(), 0
    enough = total - min(_DRIVER_NEEDS, total // 8)
    deadline = time.monotonic() + wait_s
    while True:
        size = _BLOCK
        while size >= _LEAST:
            address = driver.allocate(size)
            if address is None:
                size //= 2
                continue
            blocks.append((address, size))
            taken += size
        if taken >= enough:
            return blocks, total
        if time.monotonic() >= deadline:
            sys.exit(f"only {taken} of {total} bytes could be had: the rest is in use")
        time.sleep(_PAUSE_S)


def verify(driver: Driver, blocks: "list[tuple[int, int]]") -> None:
    """End with 1 where any byte of ``blocks`` is not zero."""
    memory, zeros = driver.page_locked(_WINDOW), bytes(_WINDOW)
    seen = (ctypes.c_ubyte * _WINDOW).from_address(memory.value or 0)
    compare = ctypes.CDLL(None).memcmp
    for start, size in blocks:
        for at in range(0, size, _WINDOW):
            part = min(_WINDOW, size - at)
            seen[0] = seen[part - 1] = 0xFF  # a read that did nothing must not look like zeros
            driver.read(memory, start + at, part)
            if compare(memory, zeros, ctypes.c_size_t(part)) != 0:
                sys.exit(f"bytes at {start + at:#x} were not zero when they were read back")


def main() -> None:
    library, bus, wait_s = sys.argv[1:4]
    try:
        driver = Driver(library)
        driver.start(bus)
        blocks, total = take(driver, float(wait_s))
        for address, size in blocks:
            driver.zero(address, size)
        driver.call("cuCtxSynchronize")
        verify(driver, blocks)
    except (OSError, AttributeError) as e:
        sys.exit(f"the driver {library} cannot be used: {e}")
    print(json.dumps({"total": total, "cleared": sum(size for _, size in blocks)}))  # noqa: T201


if __name__ == "__main__":
    main()
