"""What every benchmark shares: the machine it ran on, interleaving, ranges.

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
from pathlib import Path
from typing import Any

from benchmarks._quiet import Quiet, interval

__all__ = [
    "interleave",
    "machine",
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


def interleave(
    work: Mapping[str, Callable[[], object]], rounds: int, quiet: Quiet, warmup: int = 1
) -> dict[str, list[float]]:
    """Time each callable once a round, the order turned around every other round.

    Args:
        work: what to time, by name.
        rounds: timed rounds.
        quiet: takes them.
        warmup: rounds before them that are not counted.

    Returns:
        seconds by name, one a round.

    Raises:
        HostError: ``bench.loaded``.
    """

    def turn(names: Sequence[str]) -> dict[str, float]:
        return {name: _seconds(work[name]) for name in names}

    names = list(work)
    found = []
    for number in range(warmup + rounds):
        order = names[:: 1 if number % 2 == 0 else -1]
        if number < warmup:
            turn(order)
        else:
            found.append(quiet.round(lambda order=order: turn(order)))
    return {name: [seconds[name] for seconds in found] for name in names}


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median of ``values``, its 95 % interval, smallest and greatest, and how many there are."""
    low, high = interval(values)
    return {
        "median": statistics.median(values),
        "low": low,
        "high": high,
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write ``result`` to ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    tmp.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    tmp.replace(path)
