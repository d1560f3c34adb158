"""Holds a boot log against the PCRs that it must explain.

Rules, each a refusal of its own:

1. PCR 0 begins at the startup locality: one EV_NO_ACTION event before anything was extended into
   PCR 0 says it, and the replay proves or refutes it (``boot.locality``).
2. Extended in the order of the log, the digests of the quoted bank give every quoted value of
   PCR 0 to 9 and 11 to 14. One of these that the log extends and the quote lacks is
   ``pcr.missing``: a story about it would go unchecked. PCR 11 may hold the phases of a systemd
   boot on top.
3. PCR 0 to 7 have one separator each, recognised by its digest, and none says that the firmware
   met an error (``boot.separator``). A bank that nothing extended therefore proves nothing.

PCR 10 is the measurement log's; 15 and above are extended at run time, or may be reset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from svetovid.errors import EvidenceError
from svetovid.evidence.boot.log import (
    BANKS,
    NO_ACTION,
    SEPARATORS,
    BootEvent,
    BootLog,
    hash_data,
    parse_boot_log,
)
from svetovid.evidence.boot.variables import SecureBoot, secure_boot

__all__ = ["BOOT_PCRS", "QUOTED_BANK", "Boot", "prove_boot", "replay"]

QUOTED_BANK = "sha256"
BOOT_PCRS = frozenset({*range(10), *range(11, 15)})
"""What firmware, loaders and the kernel's stub extend before the kernel runs."""
_SEPARATED = range(8)
_LOCALITY = b"StartupLocality\0"
_LOCALITIES = (0, 3, 4)
_ERROR_SEPARATOR = b"\1\0\0\0"
_SEPARATOR_KIND = 4
_PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready")
"""What systemd-pcrphase extends into PCR 11 after the boot, in this order, without the log."""


@dataclass(frozen=True, slots=True)
class Boot:
    """A boot log that explains the quoted PCRs. Made by :func:`prove_boot` only.

    Attributes:
        bank: of the quote.
        events: by PCR, those that were extended, in order, each with its proven digest as
            reference values write it (the bank's name, a colon and hex).
        values: bank to PCR to value, for every bank of the log; that of the quote as quoted.
        quoted: PCRs of the quote.
        secure_boot: what PCR 7 proves.
    """

    bank: str
    events: Mapping[int, tuple[tuple[BootEvent, str], ...]]
    values: Mapping[str, Mapping[int, bytes]]
    quoted: frozenset[int]
    secure_boot: SecureBoot

    def value(self, pcr: int) -> str:
        """The quoted value, as reference values write it."""
        return _named(self.values[self.bank][pcr], self.bank)


def _named(value: bytes, bank: str) -> str:
    return f"{bank}:{value.hex()}"


def _locality(log: BootLog) -> int:
    step = "send the log unchanged; if it is, update the firmware"
    found: list[int] = []
    extended = False
    for event in log.events:
        if event.kind == NO_ACTION and event.data.startswith(_LOCALITY):
            value = event.data[len(_LOCALITY) :]
            if event.pcr or extended or found or len(value) != 1 or value[0] not in _LOCALITIES:
                raise EvidenceError(
                    "boot.locality",
                    expected=f"one startup locality of {_LOCALITIES}, before PCR 0 is extended",
                    observed=f"{value.hex()} in PCR {event.pcr}, event {event.number}",
                    next_step=step,
                )
            found.append(value[0])
        extended = extended or (event.extends and event.pcr == 0)
    return found[0] if found else 0


def replay(log: BootLog, bank: str) -> dict[int, bytes]:
    """The values that the log gives the PCRs it extends, in one of its banks.

    Raises:
        EvidenceError: ``boot.locality``.
    """
    algorithm = BANKS[bank]
    size = len(hash_data(bank, b""))
    values: dict[int, bytes] = {}
    start = _locality(log).to_bytes(size, "big")
    for event in log.events:
        if event.extends:
            before = values.get(event.pcr, bytes(size) if event.pcr else start)
            values[event.pcr] = hash_data(bank, before + event.digests[algorithm])
    return values


def _agrees(pcr: int, replayed: bytes, quoted: bytes, bank: str) -> bool:
    if replayed == quoted:
        return True
    if pcr == 11:
        for phase in _PHASES:
            replayed = hash_data(bank, replayed + hash_data(bank, phase.encode()))
            if replayed == quoted:
                return True
    return False


def _check_values(values: Mapping[int, bytes], pcrs: Mapping[int, bytes], bank: str) -> None:
    missing = sorted(((values.keys() & BOOT_PCRS) | set(range(10))) - pcrs.keys())
    if missing:
        raise EvidenceError(
            "pcr.missing",
            expected="PCR 0 to 9 and each of 11 to 14 that the boot log extends",
            observed=f"without {missing}",
            next_step=f"quote PCRs {missing} as well",
        )
    for pcr in sorted(BOOT_PCRS & pcrs.keys()):
        replayed = values.get(pcr, bytes(len(hash_data(bank, b""))))
        if not _agrees(pcr, replayed, pcrs[pcr], bank):
            raise EvidenceError(
                "boot.replay",
                expected=f"PCR {pcr} = {pcrs[pcr].hex()}, as quoted",
                observed=f"{replayed.hex()} from the boot log",
                next_step="send this boot's own log, whole; if it is, restart the host",
            )


def _check_separators(events: Mapping[int, Sequence[BootEvent]], bank: str) -> None:
    algorithm = BANKS[bank]
    good = {hash_data(bank, data) for data in SEPARATORS}
    failed = hash_data(bank, _ERROR_SEPARATOR)
    for pcr in _SEPARATED:
        digests = [e.digests[algorithm] for e in events.get(pcr, ())]
        said = [e.digests[algorithm] for e in events.get(pcr, ()) if e.kind == _SEPARATOR_KIND]
        count = sum(d in good for d in digests)
        if count == 1 and failed not in digests and all(d in good for d in said):
            continue
        raise EvidenceError(
            "boot.separator",
            expected=f"one separator in PCR {pcr}, without an error",
            observed="the firmware met an error" if failed in digests else f"{count} separators",
            next_step="restart the host; if it stays, update or repair the firmware",
        )


def prove_boot(data: bytes, pcrs: Mapping[int, bytes], bank: str = QUOTED_BANK) -> Boot:
    """Read a boot log and prove it by the values of a verified quote.

    Args:
        data: ``binary_bios_measurements``.
        pcrs: every value of the quote.
        bank: of these values.

    Raises:
        InputError, EvidenceError: ``boot.*`` as in the rules above and in
            :func:`~.log.parse_boot_log`; ``boot.bank`` for a log without that bank;
            ``pcr.missing``.
    """
    log = parse_boot_log(data)
    if bank not in log.banks:
        raise EvidenceError(
            "boot.bank",
            expected=f"a log of the {bank} bank",
            observed=log.banks,
            next_step=f"switch on the {bank} bank of the TPM in the firmware's settings",
        )
    replayed = {name: replay(log, name) for name in log.banks}
    _check_values(replayed[bank], pcrs, bank)
    events: dict[int, list[BootEvent]] = {pcr: [] for pcr in replayed[bank]}
    for event in log.events:
        if event.extends:
            events[event.pcr].append(event)
    _check_separators(events, bank)
    values: dict[str, Mapping[int, bytes]] = {}
    for name in log.banks:  # a PCR that nothing extended is still what the kernel found in it
        untouched = dict.fromkeys(BOOT_PCRS, bytes(len(hash_data(name, b""))))
        values[name] = {**untouched, **replayed[name]}
    values[bank] = dict(pcrs)
    algorithm = BANKS[bank]
    return Boot(
        bank=bank,
        events={
            p: tuple((e, _named(e.digests[algorithm], bank)) for e in es)
            for p, es in events.items()
        },
        values=values,
        quoted=frozenset(pcrs),
        secure_boot=secure_boot(events[7], bank),
    )
