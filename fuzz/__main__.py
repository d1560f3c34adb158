"""``python -m fuzz [--minutes N]``: fuzz every parser, and write down for how long.

The minutes are shared out evenly, parsers with the least time first. What was found is made as
short as a few hundred tries allow and put into ``fuzz/found/PARSER``, where the tests run it; ends
with 1 then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz.child import FOUND_ONE, best_engine
from fuzz.guard import FindingError, examined
from fuzz.targets import FOUND, ROOT, Target, all_targets

LOG = ROOT / "fuzz" / "log.json"
WORK = ROOT / "out" / "fuzz"
HOUR = 3600
_SLACK_S = 120
_SHORTER = 400


class ChildError(Exception):
    """A parser could not be fuzzed."""


def read_log() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(LOG.read_text()) if LOG.exists() else {}
    return found


def spent(log: dict[str, dict[str, Any]], target: Target) -> float:
    """Seconds spent on the parser as it is now."""
    entry = log.get(target.name, {})
    return float(entry.get("seconds", 0)) if entry.get("sources") == target.sources() else 0.0


def credit(
    log: dict[str, dict[str, Any]], target: Target, *, seconds: float, inputs: int, engine: str
) -> None:
    """Add a run to the account of these very sources."""
    sources = target.sources()
    entry = log.get(target.name, {})
    if entry.get("sources") != sources:
        entry = {"sources": sources, "seconds": 0.0, "inputs": 0, "engines": []}
    log[target.name] = {
        "sources": sources,
        "seconds": round(entry["seconds"] + seconds, 1),
        "inputs": entry["inputs"] + inputs,
        "engines": sorted({*entry["engines"], engine}),
    }


def _corpus(target: Target) -> Path:
    folder = WORK / target.name / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return folder


def holds(target: Target, data: bytes) -> bool:
    """Whether the parser does with ``data`` what it may."""
    try:
        examined(target.run, data)
    except FindingError:
        return False
    return True


def shortened(target: Target, data: bytes) -> bytes:
    """A shorter input that is a finding as well, where pieces can be left out."""
    tries, size = 0, max(1, len(data) // 2)
    while size and tries < _SHORTER:
        at = 0
        while at < len(data) and tries < _SHORTER:
            less, tries = data[:at] + data[at + size :], tries + 1
            if holds(target, less):
                at += size
            else:
                data = less
        size //= 2
    return data


def _fuzzed(target: Target, seconds: float, engine: str) -> tuple[dict[str, Any], list[bytes]]:
    """What the child said, and the inputs that it left."""
    findings = WORK / target.name / "findings"
    for old in findings.glob("*"):
        old.unlink()
    command = [sys.executable, "-m", "fuzz.child", target.name, "--engine", engine]
    command += ["--seconds", str(seconds), "--corpus", str(_corpus(target))]
    command += ["--findings", str(findings)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds + _SLACK_S,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise ChildError("hangs, and nothing is kept of the input") from e
    said = [line for line in done.stdout.splitlines() if line.startswith("{")]
    left = [p.read_bytes() for p in sorted(findings.glob("*"))]
    if done.returncode not in (0, FOUND_ONE) and not left:
        raise ChildError(done.stderr[-2000:])
    return (json.loads(said[-1]) if said else {"inputs": 0, "seconds": 0.0}), left


def _kept(target: Target, left: Sequence[bytes]) -> int:
    """Put what is a finding without any engine, too, where the tests find it."""
    count = 0
    for data in left:
        if holds(target, data):
            continue
        short = shortened(target, data)
        folder = FOUND / target.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha256(short).hexdigest()[:16]).write_bytes(short)
        count += 1
    return count


def run(targets: Sequence[Target], minutes: float, engine: str) -> int:
    """Fuzz; how many findings, and parsers that could not be fuzzed."""
    log, found = read_log(), 0
    seconds = max(1.0, minutes * 60 / len(targets))
    for target in sorted(targets, key=lambda t: spent(log, t)):
        before = target.sources()
        try:
            said, left = _fuzzed(target, seconds, engine)
        except ChildError as e:
            print(f"{target.name:<20} DID NOT RUN: {e}", flush=True)
            found += 1
            continue
        count = _kept(target, left)
        found += count
        # Time before a finding is no time of a parser that stays as it is; nor is an edited one's.
        if not count and target.sources() == before:
            log = read_log()
            credit(log, target, seconds=said["seconds"], inputs=said["inputs"], engine=engine)
            LOG.write_text(json.dumps(log, indent=1, sort_keys=True) + "\n")
        total = spent(log, target)
        told = "FOUND, see fuzz/found" if count else f"{total:.0f} s of an hour"
        print(f"{target.name:<20} {said['inputs']:>9} inputs  {told}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for all parsers together")
    parser.add_argument("--only", default="", help="parsers, separated by commas")
    parser.add_argument("--engine", choices=("atheris", "chance"), default=best_engine())
    given = parser.parse_args()
    known = all_targets()
    names = given.only.split(",") if given.only else sorted(known)
    found = run([known[name] for name in names], given.minutes, given.engine)
    log = read_log()
    done = sum(spent(log, t) >= HOUR for t in known.values())
    print(
        f"{done} of {len(known)} parsers have had their hour as they are now; "
        f"{found} findings, or parsers that did not run"
    )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
