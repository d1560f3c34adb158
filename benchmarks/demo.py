"""How long a stranger waits: ``make setup`` in a clean clone, then ``make demo`` in it.

The clone is of the commit, in a folder of its own. Setting up begins without ``.venv`` and without
pip's cache and fetches every package; the system packages that ``scripts/setup.sh`` names are there
already, and no time for them is in it. Where that is impossible, without a network above all,
``setup_s`` is null, ``setup_why`` says why, and the demo is timed in this checkout.

Top-level keys:
    setup_s: seconds of ``make setup``, once, or null.
    demo_s: seconds of ``make demo``, set up before: median of three.
    demo_in: ``clone`` or ``checkout``.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._harness import summary
from benchmarks._quiet import Quiet
from svetovid.errors import HostError

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
_LIMIT_S = 1800


def _environment() -> dict[str, str]:
    """As of a shell that no virtual environment is active in."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # Not the environment's own interpreter: another environment is made with it.
    return {"PYTHON": os.path.realpath(sys.executable), **kept, "PIP_NO_CACHE_DIR": "1"}


def _make(folder: Path, word: str) -> float:
    """Seconds that ``make WORD`` takes.

    Raises:
        HostError: ``bench.make``.
    """
    begun = time.monotonic()
    done = subprocess.run(
        ["make", word],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_LIMIT_S,
        check=False,
    )
    seconds = time.monotonic() - begun
    if done.returncode != 0:
        told = [line for line in done.stdout.splitlines() if not line.startswith("make:")]
        raise HostError(
            "bench.make",
            expected=f"make {word} to succeed",
            observed="; ".join(told[-2:]) or f"exit status {done.returncode}",
            next_step=f"run make {word} in a clean clone",
        )
    return seconds


def _set_up(folder: Path, word: str) -> float:
    shutil.rmtree(folder / ".venv", ignore_errors=True)
    return _make(folder, word)


def run(quick: bool = False) -> dict[str, Any]:
    """Measure; ``quick`` clones, and has ``make help`` stand for both.

    Raises:
        HostError: ``bench.loaded``, ``bench.make``.
    """
    quiet = Quiet(quick, tries=2)
    words = {"setup": "help", "demo": "help"} if quick else {"setup": "setup", "demo": "demo"}
    # On a disk: what is installed is larger than many a /tmp. Open to the demo's other users.
    place = os.environ.get("SVETOVID_BENCH_DIR", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="svetovid-clone-", dir=place) as name:
        Path(name).chmod(0o755)
        clone = Path(name) / "svetovid"
        subprocess.run(["git", "clone", "-q", "--no-local", ROOT, clone], check=True)
        setup_s, why, folder = None, "", clone
        try:
            setup_s = quiet.round(partial(_set_up, clone, words["setup"]))
        except HostError as e:
            if e.code != "bench.make":
                raise
            why, folder = e.reason.observed, ROOT
        seconds = [quiet.round(partial(_make, folder, words["demo"])) for _ in range(ROUNDS)]
    return {
        "setup_s": setup_s,
        "setup_why": why,
        "demo_s": statistics.median(seconds),
        "demo_in": "clone" if folder == clone else "checkout",
        "demo_range_s": summary(seconds),
        "quiet": quiet.facts(),
    }


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv), indent=2))
