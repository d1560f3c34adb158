"""Writes the suite: ``PYTHONPATH=tests python -m conformance.making [--record] [FOLDER]``.

Without ``--record`` what a TPM signed stays as it is, and everything else comes out byte for byte
as it was. With it, libtpms signs everything anew.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from conformance.making import boots, entries, identities, later, lines, logs, pcrs, quotes
from conformance.making.suite import read, write
from conformance.making.worlds import WORLDS

ROOT = Path(__file__).resolve().parents[1]
_PARTS = (quotes, pcrs, identities, boots, lines, logs, entries, later)
CASES = tuple(case for part in _PARTS for case in part.CASES)


def make(to: Path, *, kept: Path | None) -> None:
    """Write worlds and cases below ``to``; what was recorded is taken from ``kept``."""
    for world in WORLDS:
        old = kept / "worlds" / world.name if kept and world.recorded else None
        write(world, to / "worlds" / world.name, {}, old)
    for case in CASES:
        old = kept / "cases" / case.name if kept and case.recorded else None
        if old is not None and not old.is_dir():
            raise SystemExit(f"{case.name} was never recorded: --record")
        write(case, to / "cases" / case.name, read(to / "worlds" / case.world), old)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="sign anew")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        make(Path(made), kept=None if given.record else ROOT)
        for part in ("worlds", "cases"):
            shutil.rmtree(given.folder / part, ignore_errors=True)
            shutil.copytree(Path(made) / part, given.folder / part)


if __name__ == "__main__":
    main()
