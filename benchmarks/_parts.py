"""Parts of a long benchmark, each kept as soon as it is measured.

A run that was refused or cut off goes on from there, as long as commit and machine are the same: a
result names one commit. A run that ends well leaves none behind.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks._harness import machine, write_json
from benchmarks._quiet import Quiet
from benchmarks._stamp import ROOT, code

__all__ = ["Parts"]

KEPT = ROOT / "build" / "bench"


class Parts:
    """Of one benchmark.

    Args:
        name: of the benchmark.
        quick: nothing is kept of a quick run, nor of code that nobody else has.
        kept: the folder.
    """

    def __init__(self, name: str, quick: bool, kept: Path = KEPT) -> None:
        self._quick = quick
        self._taken: dict[str, dict[str, Any]] = {}
        now = code(name)
        what = json.dumps([now["commit"], machine()], sort_keys=True)
        folder = kept / f"{name}-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
        self._folder = None if quick or now["dirty"] else folder

    def take(self, part: str, measure: Callable[[Quiet], Any]) -> Any:
        """What ``measure`` gives, as JSON gives it back: measured now, or kept.

        Raises:
            HostError: ``bench.loaded``, ``bench.spread``: as ``measure``; parts before it are kept.
        """
        file = None if self._folder is None else self._folder / f"{part}.json"
        if file is not None and file.exists():
            self._taken[part] = json.loads(file.read_text())
        else:
            quiet = Quiet(self._quick)
            found = json.loads(json.dumps(measure(quiet), allow_nan=False))
            date = datetime.now(UTC).isoformat(timespec="seconds")
            self._taken[part] = {"found": found, "quiet": quiet.facts(), "date": date}
            if file is not None:
                write_json(file, self._taken[part])
        return self._taken[part]["found"]

    def dates(self) -> dict[str, str]:
        """When each part was measured."""
        return {name: part["date"] for name, part in self._taken.items()}

    def facts(self) -> dict[str, float]:
        """As :meth:`Quiet.facts`, of all parts."""
        facts = [part["quiet"] for part in self._taken.values()]
        return {
            **{key: sum(f[key] for f in facts) for key in ("rounds", "repeated")},
            **{key: max(f[key] for f in facts) for key in ("busiest", "most_stolen")},
        }

    def forget(self) -> None:
        """Keep none any more."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
