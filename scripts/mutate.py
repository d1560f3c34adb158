"""Takes away one security check after another, and looks whether a test notices.

::

    python scripts/mutate.py [--rooms policy,evidence] [--minutes 40] [--again]

A *site* is a condition that a refusal hangs on: an ``if`` whose body raises or names a reason code,
or the truth that is handed, together with a code, to a function of ours (``book.check(...)``). An
``or`` of several conditions is a site for each. So is a bare call of a function of ours that is
there to refuse (``check_ek(ek)``): its mutant leaves it out. The mutant never refuses there. It
runs in a clean clone of HEAD, so nobody's tree changes. Of the room's tests and those of
``tests/world`` only those run that reached the refusal when nothing was mutated: no other can tell
the two apart.

What was found goes into ``tests/mutants.json``, room by room. A survivor is a missing test, or a
check that cannot fail because of another one; :data:`KEPT` says which and why. With ``--again`` the
verdicts on mutants that were killed stay, and only what is new or survived is tried.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mutation_sites import Site, mutated, sites

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "tests" / "mutants.json"
ROOMS = ("policy", "evidence", "transparency", "crypto", "assets", "manager", "host")
ALONE = ("crypto", "assets")  # stories say nothing that these rooms' own tests do not
ALSO = {"evidence": ["tests/conformance"]}
"""Tests of other folders that are about a room."""
KEPT: dict[tuple[str, str, str], str] = {}
"""Survivors that stay: file, function and condition, and why no test can tell."""
_PATIENCE_S = 240
_MOST_TESTS = 400  # of one command line; parametrized tests have long names


class Clone:
    """HEAD in a folder of its own, with an environment that finds only its source."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        git = ["git", "clone", "--quiet", "--shared", str(ROOT), str(self.root)]
        subprocess.run(git, check=True)
        # The editable install finds svetovid in the checkout, whatever PYTHONPATH says. This one
        # has the same packages, but not the hook: a .pth file in a folder named by one is not read.
        venv.create(folder / "venv", with_pip=False)
        self._python = str(folder / "venv" / "bin" / "python")
        site = next((folder / "venv").glob("lib/python*/site-packages"))
        packages = sysconfig.get_path("purelib")
        (site / "clone.pth").write_text(f"{self.root / 'src'}\n{packages}\n")
        for built in (ROOT / "src/svetovid/offload").glob("_native.*.so"):
            shutil.copy(built, self.root / "src/svetovid/offload")
        compiling = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash"]
        self.run(*compiling, "src", "tests", timeout=600)
        _, seen = self.run("-c", "import svetovid; print(svetovid.__file__)", timeout=60)
        if not Path(seen.strip()).is_relative_to(self.root):
            raise SystemExit(f"the clone's tests would import {seen.strip()}")

    def run(self, *arguments: str, timeout: float) -> tuple[int, str]:
        """Python there: exit status, and output; 124 where it takes longer than ``timeout`` s."""
        process = subprocess.Popen(
            [self._python, *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return 124, ""
        return process.returncode, out

    def pytest(self, *arguments: str, timeout: float) -> tuple[int, str]:
        return self.run("-m", "pytest", "-m", "not slow", *arguments, timeout=timeout)

    def commit(self) -> str:
        git = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.check_output(git, cwd=self.root, text=True).strip()


def reached(clone: Clone, room: str) -> Any:
    """Coverage of ``room`` by test, nothing mutated; None where a test fails even so."""
    import coverage

    options = ["--cov=svetovid", "--cov-context=test", "--cov-report="]
    tests = [f"tests/{room}"] + ["tests/world"] * (room not in ALONE) + ALSO.get(room, [])
    code, out = clone.pytest(*tests, *options, timeout=7200)
    if code != 0:
        print(f"{room}: its tests fail before anything is mutated:\n{out[-3000:]}", flush=True)
        return None
    found = coverage.CoverageData(str((clone.root / ".coverage").rename(clone.root / "reached")))
    found.read()
    return found


def tests_of(site: Site, covered: Any, clone: Clone) -> list[str]:
    """Tests that reached the refusal; those of files that name its code come first."""
    by_line = covered.contexts_by_lineno(str(clone.root / site.file))
    names = {c.rsplit("|", 1)[0] for n in site.refusing for c in by_line.get(n, ())} - {""}

    def order(name: str) -> tuple[bool, bool, str]:
        file = name.split("::")[0]
        naming = site.code in (clone.root / file).read_text()
        return (not naming, file.startswith("tests/world"), name)

    return sorted(names, key=order)


def judge(site: Site, covered: Any, clone: Clone) -> str | None:
    """The test that notices the mutant; None where none does."""
    tests = tests_of(site, covered, clone)
    if not tests:
        return None
    path = clone.root / site.file
    text = path.read_text()
    path.write_text(mutated(text, site))
    try:
        code, out = clone.pytest("-x", *tests[:_MOST_TESTS], timeout=_PATIENCE_S)
    finally:
        path.write_text(text)
    if code == 0:
        return None
    lines = (line for line in out.splitlines() if line.startswith(("FAILED ", "ERROR ")))
    found = next(lines, "- a run that did not end well").split(" ", 1)[1]
    return found.split(" - ")[0].split("[")[0]


def run(
    rooms: Sequence[str], minutes: float, known: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each room's result; a room that did not fit says how many sites were not tried.

    Args:
        known: results whose verdicts on killed mutants stay.
    """
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="svetovid-mutants-") as name:
        clone = Clone(Path(name))
        for room in rooms:
            if time.monotonic() >= end:
                return
            covered = reached(clone, room)
            if covered is None:
                continue
            old = _killed(known.get(room, {}).get("mutants", ()))
            found, rest = [], list(sites(clone.root, room))
            while rest and time.monotonic() < end:
                site = rest.pop(0)
                killer = old.get(site.place) or judge(site, covered, clone)
                row = site.row() | {"killed_by": killer}
                if killer is None and (why := KEPT.get(site.place)):
                    row["kept"] = why
                found.append(row)
                print("survivor" if killer is None else "killed  ", site, flush=True)
            yield (
                room,
                {
                    "when": datetime.now(UTC).isoformat(timespec="seconds"),
                    "commit": clone.commit(),
                    "sites": len(found) + len(rest),
                    "not_tried": len(rest),
                    "killed": sum(f["killed_by"] is not None for f in found),
                    "mutants": found,
                },
            )


def _killed(mutants: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], str]:
    """Who killed what; of conditions that read alike in one function, only where all were."""
    found: dict[tuple[str, str, str], str] = {}
    survived = set()
    for mutant in mutants:
        place = mutant["file"], mutant["function"], mutant["condition"]
        if mutant["killed_by"] is None:
            survived.add(place)
        else:
            found[place] = mutant["killed_by"]
    return {place: test for place, test in found.items() if place not in survived}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rooms", default=",".join(ROOMS), help="rooms, in order")
    parser.add_argument("--minutes", type=float, default=600, help="begin no mutant after that")
    parser.add_argument("--to", type=Path, default=RESULT, help="JSON file that is brought up")
    parser.add_argument("--again", action="store_true", help="try what is new or survived only")
    given = parser.parse_args()
    os.nice(19 - os.nice(0))
    known = json.loads(given.to.read_text()) if given.to.exists() else {}
    for room, result in run(given.rooms.split(","), given.minutes, known if given.again else {}):
        known[room] = result
        given.to.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        print(f"{room}: {result['killed']} of {result['sites']} killed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
