"""What is proven of a host's measurement log, and how new evidence carries it on.

Rules, each a refusal of its own:

1. A log begins at entry 0 with ``boot_aggregate``, which equals PCR 0-9 as quoted, and names it
   once (``ima.boot_aggregate``).
2. Evidence continues exactly where the proven log ends, in the same power-on (``ima.offset``).
3. The entries, replayed from the value carried on, reach the quoted PCR 10 (``ima.replay``).
4. The log is read after the quote, so it may hold more lines than PCR 10 does: the longest proven
   prefix counts, the lines after it are pending. They are appraised all the same, and the next
   evidence must prove them (``ima.no_progress``).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from svetovid.errors import EvidenceError
from svetovid.evidence.ima.entries import (
    BOOT_AGGREGATE,
    MAX_ENTRIES,
    Entry,
    boot_aggregate_digest,
    parse_log,
    too_large,
)
from svetovid.evidence.ima.listing import Listing
from svetovid.evidence.tpm.constants import MEASUREMENT_PCR
from svetovid.evidence.tpm.structures import ClockInfo

__all__ = ["LogState", "advance", "replay"]

_ZERO = bytes(32)


@dataclass(frozen=True, slots=True)
class LogState:
    """The proven part of one host's log since its power-on. Keep it, and pass it in next time.

    Attributes:
        entries: proven entries, ``boot_aggregate`` first.
        pcr: SHA-256 bank value of PCR 10 after them.
        pending: lines seen after the proven ones; not proven yet.
        boot: reset and restart count of the TPM: another power-on is another log.
        violations: violation entries among ``entries`` and ``pending``.
        listing: which entries were already held against which reference values. It only saves
            time: two equal states give equal appraisals.
    """

    entries: tuple[Entry, ...]
    pcr: bytes
    pending: tuple[Entry, ...]
    boot: tuple[int, int]
    violations: int
    listing: Listing = field(default_factory=Listing, compare=False, repr=False)

    @property
    def count(self) -> int:
        """Proven entries: what the next challenge's ``log_offset`` says."""
        return len(self.entries)


def replay(entries: tuple[Entry, ...], start: bytes, target: bytes) -> int:
    """How many entries, extended into a PCR holding ``start``, give ``target``.

    Raises:
        EvidenceError: ``ima.replay`` where no number of them does (M1, M3).
    """
    pcr, sha256 = start, hashlib.sha256
    if pcr == target:
        return 0
    for count, entry in enumerate(entries, 1):
        pcr = sha256(pcr + entry.extension).digest()
        if pcr == target:
            return count
    raise EvidenceError(
        "ima.replay",
        expected=f"PCR {MEASUREMENT_PCR} = {target.hex()}",
        observed=f"{pcr.hex()} after {len(entries)} entries",
        next_step="send the whole log; if it stays, restart the host",
    )


def _offset(expected: str, observed: object) -> EvidenceError:
    return EvidenceError(
        "ima.offset",
        expected=expected,
        observed=observed,
        next_step="ask for a challenge with log_offset 0 and send the whole log",
    )


def _check_aggregate(entries: tuple[Entry, ...], pcrs: Mapping[int, bytes]) -> None:
    expected = boot_aggregate_digest(pcrs)
    if not entries:
        observed = "an empty log"
    elif entries[0].path != BOOT_AGGREGATE or entries[0].violation:
        observed = f"first entry {entries[0].path}"
    elif not hmac.compare_digest(entries[0].digest, expected):
        observed = entries[0].named_digest
    else:
        return
    raise EvidenceError(
        "ima.boot_aggregate",
        expected=f"first entry boot_aggregate sha256:{expected.hex()} (PCR 0-9)",
        observed=observed,
        next_step="send the log of this boot from its first entry",
    )


def _once(entries: tuple[Entry, ...]) -> None:
    if any(e.path == BOOT_AGGREGATE for e in entries):
        raise EvidenceError(
            "ima.boot_aggregate",
            expected="boot_aggregate once, first",
            observed="another one",
            next_step="restart the host and attest again",
        )


def advance(
    state: LogState | None,
    data: bytes,
    *,
    offset: int,
    pcrs: Mapping[int, bytes],
    clock: ClockInfo,
) -> LogState:
    """Carry the proven log on with new entries.

    Args:
        state: what was proven before, or None.
        data: ``binary_runtime_measurements`` from entry ``offset`` on.
        pcrs: quoted SHA-256 bank values, 0 to 10 at least.
        clock: the quote's clock information.

    Raises:
        InputError, EvidenceError: ``ima.*`` as in the rules above and in :func:`parse_log`.
    """
    known = state.count if state else 0
    boot = (clock.reset_count, clock.restart_count)
    if offset != known:
        raise _offset(f"the log from entry {known} on", f"from entry {offset} on")
    if state and state.boot != boot:
        raise _offset(f"the same power-on {state.boot}", boot)
    new = parse_log(data)
    old = state.entries if state else ()
    if len(old) + len(new) > MAX_ENTRIES:
        raise too_large(f"{len(old) + len(new)} entries")
    _check_aggregate(old or new, pcrs)
    _once(new if old else new[1:])
    target = pcrs[MEASUREMENT_PCR]
    proven = replay(new, state.pcr if state else _ZERO, target)
    if not old and proven == 0:
        raise _unmeasured(target)
    if state and proven < len(state.pending):
        raise EvidenceError(
            "ima.no_progress",
            expected=f"{len(state.pending)} lines of the last evidence, proven by now",
            observed=f"{proven} proven",
            next_step="find out why the log runs ahead of PCR 10, then restart the host",
        )
    counted = (state.violations - sum(e.violation for e in state.pending)) if state else 0
    return LogState(
        entries=old + new[:proven],
        pcr=target,
        pending=new[proven:],
        boot=boot,
        violations=counted + sum(e.violation for e in new),
        listing=state.listing if state else Listing(),
    )


def _unmeasured(target: bytes) -> EvidenceError:
    return EvidenceError(
        "ima.replay",
        expected="boot_aggregate extended into PCR 10",
        observed=f"PCR 10 = {target.hex()}: nothing measured",
        next_step="start the launcher, or boot with an IMA policy",
    )
