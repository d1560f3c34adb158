"""What every benchmark shares: the machine it ran on, a quiet machine, interleaving, ranges.

A benchmark is a module here with ``run(quick: bool) -> dict``. The dict is JSON; the figure a
test or the README speaks of stands at the top level as one number, the median. A baseline and its
candidate are timed turn by turn in one run, so that a machine that slows down slows both.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from svetovid.errors import HostError

__all__ = [
    "busy_share",
    "interleave",
    "machine",
    "refuse_if_loaded",
    "stamped",
    "summary",
    "write_json",
]

_FLAGS = (
    *("aes", "vaes", "pclmulqdq", "vpclmulqdq", "sha_ni", "avx2"),
    *("avx512f", "avx512_bf16", "amx_tile", "hypervisor"),
)
_LIBRARIES = ("blake3", "cryptography", "numpy", "torch", "sqlalchemy", "starlette", "uvicorn")


def _cpuinfo(text: str) -> tuple[str, list[str]]:
    model, flags = "unknown", []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        elif name.strip() in ("flags", "Features"):
            flags = sorted(set(value.split()) & set(_FLAGS))
    return model, flags


def _versions() -> dict[str, str]:
    found = {}
    for name in ("svetovid", *_LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Facts a reader needs to compare figures: processor, cores, memory, kernel, versions."""
    model, flags = _cpuinfo(cpuinfo.read_text())
    return {
        "cpu": model,
        "flags": flags,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": _versions(),
    }


def _ticks(stat: Path) -> tuple[int, int]:
    """All and idle clock ticks of all cores since boot (proc(5), /proc/stat)."""
    fields = [int(x) for x in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4]


def busy_share(seconds: float = 1.0, stat: Path = Path("/proc/stat")) -> float:
    """Share of all cores' time, 0 to 1, that others used while this process slept."""
    total, idle = _ticks(stat)
    time.sleep(seconds)
    total_after, idle_after = _ticks(stat)
    passed = total_after - total
    return 1.0 - (idle_after - idle) / passed if passed > 0 else 0.0


def refuse_if_loaded(
    threshold: float = 0.15, *, wait: float = 60.0, busy: Callable[[], float] = busy_share
) -> float:
    """Wait up to ``wait`` seconds for a quiet machine; refuse one that stays loaded.

    Args:
        threshold: the greatest share of the cores' time that others may use, 0 to 1.
        wait: seconds to wait for quiet.
        busy: measures that share, over about a second.

    Returns:
        the share that others used.

    Raises:
        HostError: ``bench.loaded``.
    """
    end = time.monotonic() + wait
    while (share := busy()) > threshold:
        if time.monotonic() >= end:
            load = Path("/proc/loadavg").read_text().split()[0]
            raise HostError(
                "bench.loaded",
                expected=f"others to use at most {threshold:.0%} of the cores",
                observed=f"{share:.0%}, load average {load}",
                next_step="stop what else runs on this machine, then run the benchmark again",
            )
    return share


def interleave(
    work: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Time each callable once a round, the order turned around every other round.

    Args:
        work: what to time, by name.
        rounds: timed rounds.
        warmup: rounds before them that are not counted.

    Returns:
        seconds by name, one a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(warmup + rounds):
        names = list(work)[:: 1 if turn % 2 == 0 else -1]
        for name in names:
            gc.collect()
            start = time.perf_counter()
            work[name]()
            passed = time.perf_counter() - start
            if turn >= warmup:
                seconds[name].append(passed)
    return seconds


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and greatest of ``values``, and how many there are."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def stamped(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """``result`` with the benchmark's name before it, the time and the machine after it."""
    return {
        "benchmark": name,
        **result,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
    }


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write ``result`` to ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    tmp.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    tmp.replace(path)
