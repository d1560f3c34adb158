"""What counts as a finding: another error than ours, more than a second, too much memory."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

from svetovid.errors import SvetovidError

MAX_SECONDS = 1.0
SPARE_BYTES = 16 << 20
TIMES_INPUT = 4
_BATCH = 64
_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class FindingError(Exception):
    """``data`` does what no input may."""

    def __init__(self, data: bytes, why: str) -> None:
        super().__init__(why)
        self.data = data


def _kilobytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise OSError(f"{name} is not in {_STATUS}")


def _peak(act: Callable[[], object]) -> int:
    """Bytes of memory that ``act`` touched beyond what the process had."""
    _REFS.write_text("5")  # the high-water mark begins anew
    before = _kilobytes("VmRSS")
    act()
    return (_kilobytes("VmHWM") - before) << 10


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(run: Callable[[bytes], object], data: bytes) -> None:
    """Run once.

    Processor time counts, so that a busy machine makes no findings; a parser that waits for
    something is stopped by the driver.

    Raises:
        FindingError: for another error than ours, or more than a second.
    """
    started = _processor()
    try:
        run(data)
    except SvetovidError:
        pass
    except Exception as e:
        raise FindingError(data, f"{type(e).__name__}: {e}") from e
    took = _processor() - started
    if took > MAX_SECONDS:
        raise FindingError(data, f"{took:.1f} s of processor time")


def examined(run: Callable[[bytes], object], data: bytes) -> None:
    """Run once, with the time and the memory that it takes.

    Raises:
        FindingError: also for memory beyond 4 times the input and 16 MiB.
    """
    used = _peak(lambda: timed(run, data))
    if used > TIMES_INPUT * len(data) + SPARE_BYTES:
        raise FindingError(data, f"{used >> 20} MiB for {len(data)} bytes")


class Guard:
    """Watches many runs: time each, memory a batch, and who it was where a batch took too much."""

    def __init__(self, run: Callable[[bytes], object]) -> None:
        self._run = run
        self._batch: list[bytes] = []
        self._started = 0
        self.inputs = 0

    def __call__(self, data: bytes) -> None:
        if not self._batch:
            _REFS.write_text("5")
            self._started = _kilobytes("VmRSS")
        self._batch.append(data)
        self.inputs += 1
        timed(self._run, data)
        if len(self._batch) == _BATCH:
            self.check()

    def check(self) -> None:
        """Look at the batch so far.

        Raises:
            FindingError: for the input that takes too much memory alone.
        """
        batch, self._batch = self._batch, []
        if batch and (_kilobytes("VmHWM") - self._started) << 10 > SPARE_BYTES:
            for data in batch:
                examined(self._run, data)
