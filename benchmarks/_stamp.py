"""What a result says of itself: which code it measured, on which machine, when, and how.

A result names the commit, whether the tree differed from it, and the git object of each path whose
code it measures: those still tell what has changed where history was rewritten or cut off.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks._harness import machine

__all__ = ["changed", "code", "long_unmeasured", "stamped"]

ROOT = Path(__file__).resolve().parents[1]

_PROVING = ("src/svetovid/crypto", "src/svetovid/evidence")
_MANAGER = (*_PROVING, "src/svetovid/manager", "src/svetovid/protocol", "src/svetovid/transparency")
MEASURES = {
    "appraise": ("benchmarks/appraise.py", *_PROVING),
    "demo": ("src/svetovid", "constraints.txt", "pyproject.toml", "scripts/setup.sh"),
    "fleet": ("benchmarks/fleet.py", *_MANAGER),
    "masked": (
        *("benchmarks/masked.py", "benchmarks/_kernels.py", "benchmarks/_crypten.py"),
        *("benchmarks/_accuracy.py", "benchmarks/_sides.py", "examples/masked/models.py"),
        *("src/svetovid/offload", "CMakeLists.txt"),
    ),
    "release": ("benchmarks/release.py", *_MANAGER, "src/svetovid/policy"),
    "seal": ("benchmarks/seal.py", "src/svetovid/assets", "src/svetovid/crypto"),
    "train": (
        *("benchmarks/train.py", "benchmarks/_attested.py", "benchmarks/_plain.py"),
        *("examples/fashion_mnist", "src/svetovid/assets", "src/svetovid/host"),
        "src/svetovid/training",
    ),
}
"""By benchmark: the paths whose change may change its figures."""

_GRACE = timedelta(days=30)


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def code(name: str) -> dict[str, Any]:
    """The code that benchmark ``name`` measures now.

    Returns:
        ``commit`` (None outside of git), ``dirty`` (whether any file differs from it, the
        committed results left out: one run of several writes them one by one), ``measures`` (path
        to git object).
    """
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    return {
        "commit": commit and commit.strip(),
        "dirty": status is None or bool(status.strip()),
        "measures": _objects(MEASURES.get(name, ())),
    }


def _objects(paths: tuple[str, ...]) -> dict[str, str]:
    found = {path: _git("rev-parse", "--verify", "--quiet", f"HEAD:{path}") for path in paths}
    return {path: value.strip() for path, value in found.items() if value}


def stamped(
    name: str, result: Mapping[str, Any], *, quick: bool, before: Mapping[str, Any]
) -> dict[str, Any]:
    """``result`` with the benchmark's name before it, and after it the code, time and machine.

    Args:
        before: :func:`code` as it was before the first measurement. Where it is another now,
            nobody can say what was measured: dirty.
    """
    after = code(name)
    return {
        "benchmark": name,
        **result,
        "quick": quick,
        **before,
        "dirty": before["dirty"] or after != before,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
    }


def changed(result: Mapping[str, Any]) -> list[str]:
    """Paths that a result measured and that differ in this commit; all, where it names none."""
    name = str(result["benchmark"])
    then = result.get("measures", {})
    now = _objects(MEASURES[name])
    return [path for path in MEASURES[name] if then.get(path) != now.get(path)]


def long_unmeasured(result: Mapping[str, Any]) -> bool:
    """Whether this commit was made more than 30 days after ``result``. Code changes at every
    commit and measuring takes half an hour: a month is what figures may lag behind it."""
    made = _git("log", "-1", "--format=%cI")
    if made is None:
        return False
    return datetime.fromisoformat(made.strip()) - datetime.fromisoformat(result["date"]) > _GRACE
