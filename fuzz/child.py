"""Fuzzes one parser for some seconds, in a process of its own: ``python -m fuzz.child``.

With atheris, guided by coverage; without it, by chance. Prints one line of JSON: how many inputs,
how many seconds of the processor. Ends with 77 after a finding, which it leaves in ``--findings``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

FOUND_ONE = 77


def _keep(folder: Path, data: bytes, why: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(why, file=sys.stderr)


def _report(inputs: int, used: float) -> None:
    """Processor time is what was spent: on a busy machine the clock's would count for nothing."""
    said = {"inputs": inputs, "seconds": round(time.process_time() - used, 1)}
    print(json.dumps(said), flush=True)


def _watched(run: Callable[[bytes], object], findings: Path, seconds: float) -> Callable[..., None]:
    """Runs inputs; ends the process at a finding, and when the time is over."""
    from fuzz.guard import FindingError, Guard

    guard, used, until = Guard(run), time.process_time(), time.monotonic() + seconds

    def one(data: bytes) -> None:
        try:
            guard(data)
            if time.monotonic() > until:
                guard.check()
        except FindingError as e:
            _keep(findings, e.data, str(e))
            _report(guard.inputs, used)
            os._exit(FOUND_ONE)
        if time.monotonic() > until:
            _report(guard.inputs, used)
            os._exit(0)

    return one


def _by_coverage(name: str, corpus: Path, findings: Path, seconds: float) -> None:
    import atheris

    with atheris.instrument_imports(include=["svetovid"]):
        from fuzz.targets import MAX_BYTES, all_targets

        run = all_targets()[name].run
    from fuzz.mutate import changed

    def custom(data: bytes, size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5:
            return atheris.Mutate(data, size)  # type: ignore[no-any-return]
        return changed(data, [], chance, size)

    findings.mkdir(parents=True, exist_ok=True)
    options = [f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=4096", "-verbosity=0"]
    places = [f"-artifact_prefix={findings}/", str(corpus)]
    one = _watched(run, findings, seconds)
    atheris.Setup([sys.argv[0], *options, *places], one, custom_mutator=custom)
    atheris.Fuzz()


def _by_chance(name: str, corpus: Path, findings: Path, seconds: float) -> None:
    from fuzz.mutate import changed
    from fuzz.targets import MAX_BYTES, all_targets

    one = _watched(all_targets()[name].run, findings, seconds)
    seeds = [p.read_bytes() for p in sorted(corpus.iterdir())] or [b""]
    chance = random.Random()
    while True:
        one(changed(chance.choice(seeds), seeds, chance, MAX_BYTES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--findings", type=Path, required=True)
    parser.add_argument("--engine", choices=("atheris", "chance"), required=True)
    given = parser.parse_args()
    engine = _by_coverage if given.engine == "atheris" else _by_chance
    engine(given.target, given.corpus, given.findings, given.seconds)


def best_engine() -> str:
    """``atheris`` where it is installed."""
    return "atheris" if importlib.util.find_spec("atheris") else "chance"


if __name__ == "__main__":
    main()
