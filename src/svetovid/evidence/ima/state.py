"""What is proven of a host's measurement log, and how new evidence carries it on.

Rules, each a refusal of its own:

1. A log begins at entry 0 with ``boot_aggregate``, which equals PCR 0-9 as quoted, or, in another
   bank than SHA-256, as the boot log gives them (``ima.boot_aggregate``). A log that kexec carried
   over names it again, with the same value: no firmware ran in between.
2. Evidence continues exactly where the proven log ends, in the same power-on (``ima.offset``).
3. The entries, replayed from the value carried on, reach the quoted PCR 10 (``ima.replay``).
4. The log is read after the quote, so it may hold more lines than PCR 10 does: the longest proven
   prefix counts, the lines after it are pending. They are appraised all the same, and the next
   evidence must prove them (``ima.no_progress``).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from svetovid.errors import EvidenceError, LimitError
from svetovid.evidence.ima.entries import (
    BOOT_AGGREGATE,
    MAX_ENTRIES,
    MAX_LOG_BYTES,
    VIOLATIONS,
    Entry,
    Plain,
    as_entries,
    boot_aggregate_digest,
    length_of,
    parse_plain,
    too_large,
)
from svetovid.evidence.ima.growing import Entries
from svetovid.evidence.ima.listing import Listing
from svetovid.evidence.tpm.constants import MEASUREMENT_PCR
from svetovid.evidence.tpm.structures import ClockInfo

__all__ = ["LogState", "advance", "replay"]


@dataclass(frozen=True, slots=True)
class LogState:
    """The proven part of one host's log since its power-on. Keep it, and pass it in next time.

    Attributes:
        entries: proven entries, ``boot_aggregate`` first.
        pcr: value of PCR 10 after them, in the bank of the quotes.
        pending: lines seen after the proven ones; not proven yet.
        boot: reset and restart count of the TPM: another power-on is another log.
        violations: violation entries among ``entries`` and ``pending``.
        kexecs: how often another kernel was started by kexec: the boot log says nothing of it.
        size: bytes of the log that ``entries`` and ``pending`` stand for. In memory they take about
            three times as many where paths are short, and less than that otherwise.
        pending_size: of these, bytes of ``pending``.
        listing: which entries were already held against which reference values. It only saves
            time: two equal states give equal appraisals.
    """

    entries: Entries
    pcr: bytes
    pending: tuple[Entry, ...]
    boot: tuple[int, int]
    violations: int
    kexecs: int = 0
    size: int = 0
    pending_size: int = 0
    listing: Listing = field(default_factory=Listing, compare=False, repr=False)

    @property
    def count(self) -> int:
        """Proven entries: what the next challenge's ``log_offset`` says."""
        return len(self.entries)


def replay(entries: Sequence[Plain], start: bytes, target: bytes, bank: str = "sha256") -> int:
    """How many entries, extended into a PCR holding ``start``, give ``target``.

    Args:
        entries: parsed for the same bank.
        start, target: values of PCR 10.
        bank: as :func:`parse_log` takes it.

    Raises:
        EvidenceError: ``ima.replay`` where no number of them does (M1, M3).
    """
    pcr, extend = start, getattr(hashlib, bank)
    if pcr == target:
        return 0
    for count, (_, _, extension, _) in enumerate(entries, 1):
        pcr = extend(pcr + extension).digest()
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


def _aggregate(observed: str, expected: str) -> EvidenceError:
    return EvidenceError(
        "ima.boot_aggregate",
        expected=expected,
        observed=observed,
        next_step="send the log of this boot from its first entry",
    )


def _check_aggregate(first: Entry, banks: Mapping[str, Mapping[int, bytes]]) -> None:
    """``first`` is a boot_aggregate of this boot, in a bank whose PCRs are known."""
    bank, _, value = first.named_digest.partition(":")
    if not first.aggregate or first.violation:
        raise _aggregate(f"entry {first.path}", "boot_aggregate, from PCR 0-9")
    if bank not in banks:
        raise _aggregate(
            f"{bank}, and no boot log of that bank", "boot_aggregate in SHA-256 (ima_hash=sha256)"
        )
    expected = boot_aggregate_digest(banks[bank], bank).hex()
    if not hmac.compare_digest(value, expected):
        raise _aggregate(first.named_digest, f"boot_aggregate {bank}:{expected}")


def _kexecs(entries: Sequence[Plain], first: Entry) -> int:
    """Further ``boot_aggregate`` entries; each one repeats the first (M14)."""
    found = [e for e in entries if e[0] == BOOT_AGGREGATE]
    for entry in as_entries(found):
        if entry.digest != first.digest or entry.violation:
            raise _aggregate(entry.named_digest, f"boot_aggregate {first.named_digest} again")
    return len(found)


def advance(
    state: LogState | None,
    data: bytes,
    *,
    offset: int,
    pcrs: Mapping[int, bytes],
    clock: ClockInfo,
    banks: Mapping[str, Mapping[int, bytes]] | None = None,
    bank: str = "sha256",
) -> LogState:
    """Carry the proven log on with new entries.

    Args:
        state: what was proven before, or None.
        data: ``binary_runtime_measurements`` from entry ``offset`` on.
        pcrs: quoted values, 0 to 10 at least.
        clock: the quote's clock information.
        banks: PCRs 0 to 9 of other banks by name, as a proven boot log gives them.
        bank: of the quoted values; the same in every call for one log.

    Raises:
        InputError, EvidenceError: ``ima.*`` as in the rules above and in :func:`parse_plain`.
        LimitError: ``ima.log_size`` where the whole log would be longer than a receipt can carry.
    """
    known = state.count if state else 0
    boot = (clock.reset_count, clock.restart_count)
    if offset != known:
        raise _offset(f"the log from entry {known} on", f"from entry {offset} on")
    if state and state.boot != boot:
        raise _offset(f"the same power-on {state.boot}", boot)
    size = (state.size - state.pending_size if state else 0) + len(data)
    if state and size > MAX_LOG_BYTES:
        raise LimitError(
            "ima.log_size",
            expected=f"a log of at most {MAX_LOG_BYTES} bytes since the power-on",
            observed=f"{size} bytes",
            next_step="restart the host, and measure less",
        )
    new = parse_plain(data, bank)
    old = state.entries if state else Entries()
    if len(old) + len(new) > MAX_ENTRIES:
        raise too_large(f"{len(old) + len(new)} entries")
    if not old and not new:
        raise _aggregate("an empty log", "boot_aggregate, from PCR 0-9")
    first = old[0] if old else next(as_entries(new))
    _check_aggregate(first, {**(banks or {}), bank: pcrs})
    target = pcrs[MEASUREMENT_PCR]
    proven = replay(new, state.pcr if state else bytes(len(target)), target, bank)
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
    # Pending lines are sent again, so what they count for is counted anew.
    kexecs = (state.kexecs - sum(e.aggregate for e in state.pending)) if state else 0
    return LogState(
        entries=old.plus(new[:proven]),
        pcr=target,
        pending=tuple(as_entries(new[proven:])),
        boot=boot,
        violations=counted + len([e for e in new if e[2] in VIOLATIONS]),
        kexecs=kexecs + _kexecs(new if old else new[1:], first),
        size=size,
        pending_size=len(data) - length_of(data, proven) if proven < len(new) else 0,
        listing=state.listing if state else Listing(),
    )


def _unmeasured(target: bytes) -> EvidenceError:
    return EvidenceError(
        "ima.replay",
        expected="boot_aggregate extended into PCR 10",
        observed=f"PCR 10 = {target.hex()}: nothing measured",
        next_step="start the launcher, or boot with an IMA policy",
    )
