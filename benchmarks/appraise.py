"""What it costs to appraise a host that attests again and again, and one that does so at first.

No network, no store: the functions that a manager calls, in one process, on one core. The TPM is
that of ``tests/evidence/forger.py`` (ECDSA P-256), so that quotes are made ahead of the clock.
Hosts hold a known log of 5,000 entries each; every appraisal brings a fresh quote and 50 new lines
of files drawn from all that is listed, under 100,000 reference values.

Top-level keys:
    incremental_per_s: appraisals a second: the quote verified, the new lines read, replayed to
        PCR 10 and looked up.
    incremental_p99_ms: of the same, one by one.
    evidence_per_s: the same with all that surrounds it: challenge, operator's statement, channel,
        binding, enrolment, certificate chain and every claim (``verify_evidence``, ``appraise``).
    ima_entries_per_s: a whole log of 100,000 entries, read, replayed and looked up.
    full_s: seconds that takes.
    million_ratio: an incremental appraisal under 1,000,000 reference values against 1,000.
    keylime_entries_per_s, vs_keylime: where ``SVETOVID_KEYLIME`` names a Python that has Keylime:
        its ``process_measurement_list`` with the same log and list, turn by turn.
    same_verdicts: of how many small logs, good and bad, it says what we say: all, or nothing is
        measured.
"""

from __future__ import annotations

import gc
import hashlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _keylime
from benchmarks._harness import interleave, summary
from benchmarks._quiet import Quiet
from svetovid.crypto import b64decode
from svetovid.errors import EvidenceError
from svetovid.evidence import (
    NEEDED_PCRS,
    LogState,
    ReferenceValues,
    TpmEvidence,
    appraise,
    binding,
    verify_evidence,
)
from svetovid.evidence.covering import log_claims
from svetovid.evidence.ima import advance
from svetovid.evidence.ima.listing import Listing
from svetovid.evidence.references import Current
from svetovid.evidence.tpm import ClockInfo, endorsement_signers, parse_public, verify_quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from evidence.authorities import NOW
from evidence.small_world import World

LISTED, FEW, MANY = 100_000, 1_000, 1_000_000
KNOWN, NEW = 5_000, 50
HOSTS, ROUNDS = 20, 100
FULL = 100_000


def _path(n: int) -> str:
    return f"/usr/lib/x86_64-linux-gnu/package{n % 997:03d}/libthing{n:07d}.so.1"


def _digest(n: int) -> str:
    return "sha256:" + hashlib.sha256(b"%d" % n).hexdigest()


def _references(count: int) -> ReferenceValues:
    return _listing({_path(n): _digest(n) for n in range(count)})


def _listing(files: dict[str, str]) -> ReferenceValues:
    listed = {path: (value,) for path, value in files.items()}
    return ReferenceValues(product=f"listed-{len(files)}", version=1, files=listed)


@dataclass
class _Host:
    """A known log, and evidence that carries it on."""

    world: World
    state: LogState
    evidence: list[TpmEvidence]
    lines: list[bytes]
    challenges: list[Any]

    @classmethod
    def make(cls, numbers: Iterator[int], rounds: int, known: int) -> _Host:
        world = World(files={})
        for _ in range(known):
            n = next(numbers)
            world.measure(_path(n), _digest(n))
        state = world.verify().log
        assert state is not None
        host = cls(world, state, [], [], [])
        for _ in range(rounds):
            for _ in range(NEW):
                n = next(numbers)
                world.measure(_path(n), _digest(n))
            world.challenge = world.make_challenge(log_offset=len(world.lines) - NEW)
            host.challenges.append(world.challenge)
            host.evidence.append(world.evidence())
            host.lines.append(b"".join(world.lines[-NEW:]))
        return host

    def known(self, references: ReferenceValues) -> LogState:
        """The known log, appraised under these reference values before."""
        state = replace(self.state, listing=Listing())
        log_claims(state, Current.at([references], self.world.now))
        return state


def _numbers(limit: int) -> Iterator[int]:
    draw = random.Random(1)
    while True:
        yield draw.randrange(limit)


def _increments(host: _Host, references: ReferenceValues) -> Iterator[Callable[[], None]]:
    """Appraisals to be timed one by one: the quote, the new lines, the look-up."""
    world = host.world
    ak, ek = parse_public(world.tpm.ak), parse_public(world.ek)
    signers = endorsement_signers(ek, ak)
    state = host.known(references)
    for evidence, lines, challenge in zip(host.evidence, host.lines, host.challenges, strict=True):
        attest, signature, bound, pcrs = _parts(host, evidence, challenge)

        def one(
            attest: bytes = attest,
            signature: bytes = signature,
            bound: bytes = bound,
            pcrs: dict[int, bytes] = pcrs,
            lines: bytes = lines,
            offset: int = challenge.log_offset,
        ) -> None:
            nonlocal state
            quote = verify_quote(
                attest,
                signature,
                ak=ak,
                signers=signers,
                extra_data=bound,
                pcrs=pcrs,
                needed=NEEDED_PCRS,
            )
            state = advance(state, lines, offset=offset, pcrs=pcrs, clock=quote.clock)
            if not all(c.ok for c in log_claims(state, Current.at([references], world.now))):
                raise AssertionError("not affirmed")

        yield one


def _parts(
    host: _Host, evidence: TpmEvidence, challenge: Any
) -> tuple[bytes, bytes, bytes, dict[int, bytes]]:
    bound = binding(challenge, evidence.keys, evidence.channel, evidence.subject)
    pcrs = {int(n): bytes.fromhex(v) for n, v in evidence.pcrs.items()}
    return b64decode(evidence.quote), b64decode(evidence.signature), bound, pcrs


def _whole(host: _Host, references: ReferenceValues) -> Iterator[Callable[[], None]]:
    """The same evidence through every check that a manager makes."""
    world, state = host.world, host.known(references)
    anchors = world.anchors
    for evidence, challenge in zip(host.evidence, host.challenges, strict=True):

        def one(evidence: TpmEvidence = evidence, challenge: Any = challenge) -> None:
            nonlocal state
            proven = verify_evidence(
                evidence,
                world.record,
                challenge=challenge,
                channel=world.channel,
                subject=world.subject,
                log=state,
                now=world.now,
            )
            assert proven.log is not None
            state = proven.log
            if not appraise(proven, world.record, anchors, [references], now=world.now).affirmed:
                raise AssertionError("not affirmed")

        yield one


def _timed(work: Sequence[Callable[[], None]]) -> list[float]:
    gc.collect()
    seconds = []
    for one in work:
        start = time.perf_counter()
        one()
        seconds.append(time.perf_counter() - start)
    return seconds


def _turns(hosts: Sequence[_Host], make: Callable[[_Host], Iterator[Callable[[], None]]]) -> Any:
    """Appraisals of many hosts in turn, as they arrive at a manager."""
    return [one for turn in zip(*(make(h) for h in hosts), strict=True) for one in turn]


def _rates(hosts: Sequence[_Host], references: ReferenceValues, quiet: Quiet) -> dict[str, Any]:
    core = quiet.round(lambda: _timed(_turns(hosts, lambda h: _increments(h, references))))
    whole = quiet.round(lambda: _timed(_turns(hosts, lambda h: _whole(h, references))))
    quiet.require_narrow("incremental_per_s", core)
    quiet.require_narrow("evidence_per_s", whole)
    return {
        "incremental_per_s": len(core) / sum(core),
        "incremental_p99_ms": statistics.quantiles(core, n=100)[98] * 1e3,
        "evidence_per_s": len(whole) / sum(whole),
        "incremental_us": summary([s * 1e6 for s in core]),
        "evidence_us": summary([s * 1e6 for s in whole]),
        "appraisals": len(core),
    }


def _million(
    hosts: Sequence[_Host], few: ReferenceValues, many: ReferenceValues, quiet: Quiet
) -> dict[str, Any]:
    """One and the same increments under few and under many values, turn by turn."""
    kinds = [("few", few), ("many", many)]

    def both(turn: int, host: _Host) -> dict[str, list[float]]:
        order = kinds[:: 1 if turn % 2 == 0 else -1]
        return {name: _timed(list(_increments(host, values))) for name, values in order}

    taken = [quiet.round(partial(both, turn, host)) for turn, host in enumerate(hosts)]
    seconds = {name: [s for found in taken for s in found[name]] for name, _ in kinds}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "million_ratio": median["many"] / median["few"],
        "million": {
            "values": [len(few.files), len(many.files)],
            "few_us": median["few"] * 1e6,
            "many_us": median["many"] * 1e6,
        },
    }


def _affirmed(verdict: Callable[[], bool]) -> Callable[[], None]:
    def once() -> None:
        if not verdict():
            raise AssertionError("not affirmed")

    return once


def _verdict(log: bytes, pcrs: dict[int, bytes], references: ReferenceValues) -> bool:
    try:
        state = advance(None, log, offset=0, pcrs=pcrs, clock=ClockInfo(1, 1, 0, True))
    except EvidenceError:
        return False
    return all(c.ok for c in log_claims(state, Current.at([references], NOW)))


def _agree(entries: int = 50) -> int:
    """How many small logs, one good and the others bad, Keylime judges as we do."""
    world = World(files={})
    files = {_path(n): _digest(n) for n in range(entries)}
    for path, value in files.items():
        world.measure(path, value)
    unlisted = {path: value for path, value in files.items() if path != _path(7)}
    judged = [
        (world.lines, files, True),
        (world.lines, unlisted, False),
        (world.lines, files | {_path(7): _digest(8)}, False),
        (world.lines[:-1], files, False),
        ([*world.lines[:7], world.lines[8], world.lines[7], *world.lines[9:]], files, False),
    ]
    for lines, listed, good in judged:
        log, references = b"".join(lines), _listing(listed)
        theirs = _keylime.reader(log, world.tpm.pcrs[10], listed)
        assert theirs is not None
        if not good == _verdict(log, world.tpm.pcrs, references) == theirs():
            raise AssertionError("Keylime and we disagree")
    return len(judged)


def _full(
    entries: int, listed: int, references: ReferenceValues, rounds: int, quiet: Quiet
) -> dict[str, Any]:
    """A whole log at once, beside Keylime's reader where there is one."""
    world = World(files={})
    order = random.Random(2).sample(range(listed), entries)
    for n in order:
        world.measure(_path(n), _digest(n))
    log, pcrs = b"".join(world.lines), dict(world.tpm.pcrs)

    theirs = _keylime.reader(log, pcrs[10], {_path(n): _digest(n) for n in order})
    work = {"svetovid": _affirmed(lambda: _verdict(log, pcrs, references))}
    found: dict[str, Any] = {}
    if theirs is not None:
        work["keylime"] = _affirmed(theirs)
        found["same_verdicts"] = _agree()
    seconds = interleave(work, rounds, quiet)
    quiet.require_narrow("full_s", seconds["svetovid"])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    found |= {
        "ima_entries_per_s": entries / median["svetovid"],
        "full_s": median["svetovid"],
        "full": {"entries": entries, **{n: summary(s) for n, s in seconds.items()}},
    }
    if theirs is not None:
        found["keylime_entries_per_s"] = entries / median["keylime"]
        found["vs_keylime"] = median["keylime"] / median["svetovid"]
    return found


def run(quick: bool = False) -> dict[str, Any]:
    """Measure; ``quick`` takes fewer hosts, lines and values, for the tests.

    Raises:
        HostError: ``bench.loaded``, ``bench.spread``.
    """
    listed, few, many = (2_000, 100, 10_000) if quick else (LISTED, FEW, MANY)
    hosts, rounds, known = (2, 5, 100) if quick else (HOSTS, ROUNDS, KNOWN)
    quiet = Quiet(quick)
    references = _references(listed)
    numbers = _numbers(listed)
    found = _rates([_Host.make(numbers, rounds, known) for _ in range(hosts)], references, quiet)
    found |= _full(min(FULL, listed), listed, references, 2 if quick else 15, quiet)
    del references
    numbers = _numbers(few)
    machines = [_Host.make(numbers, rounds, known) for _ in range(min(hosts, 6))]
    found |= _million(machines, _references(few), _references(many), quiet)
    return found | {"quiet": quiet.facts()}


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv), indent=2))
