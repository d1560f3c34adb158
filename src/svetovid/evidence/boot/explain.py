"""A closed world: every event before the kernel is one that the owner's reference values name.

Events are known by their digests, which the quote proves. What an event's type or text says is
shown to people and decides nothing: an event that is relabelled, inserted or taken out is either
unlisted or breaks the replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from svetovid.evidence.boot.describe import describe
from svetovid.evidence.boot.log import SEPARATORS, BootEvent, hash_data
from svetovid.evidence.boot.replay import Boot
from svetovid.evidence.claims import Claim
from svetovid.evidence.documents import BootReferences

__all__ = [
    "CODE_PCRS",
    "KERNEL_PCRS",
    "LINE_PCRS",
    "kernels",
    "line_digests",
    "pcr_claims",
    "unlisted",
]

CODE_PCRS = (0, 2, 4, 8, 9, 11, 12, 13)
"""Firmware, option ROMs, boot applications, grub, what the kernel's stub and systemd's measure."""
KERNEL_PCRS = (4, 9, 11)
LINE_PCRS = (8, 9, 11, 12)
_SHOWN = 32
_SECTIONS = (
    *(".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".dtbauto"),
    *(".hwids", ".uname", ".sbat", ".pcrpkey", ".profile", ".efifw"),
)
"""Names that systemd-stub measures, with their NUL, before each section of a unified image."""


def _named(data: bytes, bank: str) -> str:
    return f"{bank}:{hash_data(bank, data).hex()}"


@cache
def _everywhere(bank: str) -> Mapping[int, frozenset[str]]:
    """What may stand in a PCR, once, on any machine; each by its digest, so by its meaning.

    ``Returning from EFI Application`` is not among them: what had control then could have started
    a listed kernel on terms of its own.
    """
    known = {pcr: [_named(s, bank) for s in SEPARATORS] for pcr in range(8)}
    known[4].append(_named(b"Calling EFI Application from Boot Option", bank))
    known[5].append(_named(b"Exit Boot Services Invocation", bank))
    known[5].append(_named(b"Exit Boot Services Returned with Success", bank))
    known[11] = [_named(name.encode() + b"\0", bank) for name in _SECTIONS]
    return {pcr: frozenset(digests) for pcr, digests in known.items()}


def line_digests(line: str, pcr: int, bank: str) -> set[str]:
    """How a command line is hashed: by grub in PCR 8, Linux in 9, systemd-stub in 11 and 12."""
    if pcr in (9, 12):
        wide = line.encode("utf-16-le")
        return {_named(wide, bank), _named(wide + b"\0\0", bank)}
    return {_named(line.encode("ascii"), bank)}


def kernels(edition: BootReferences) -> set[str]:
    """Every digest that an edition's kernels may have."""
    return {d for digests in edition.kernels.values() for d in digests}


def _allowed(edition: BootReferences, pcr: int, bank: str) -> set[str]:
    """Every digest that an edition allows in a PCR."""
    found = {d for digests in edition.events.get(str(pcr), {}).values() for d in digests}
    if pcr in KERNEL_PCRS:
        found |= kernels(edition)
    if pcr in LINE_PCRS:
        for line in edition.command_lines:
            found |= line_digests(line, pcr, bank)
    return found


def _unlisted(boot: Boot, pcr: int, allowed: set[str]) -> Iterator[tuple[BootEvent, str]]:
    once = set(_everywhere(boot.bank).get(pcr, ()))
    for event, value in boot.events.get(pcr, ()):
        if value in allowed:
            continue
        if value in once:
            once.remove(value)
            continue
        yield event, value


def unlisted(boot: Boot, editions: Sequence[BootReferences]) -> Iterator[tuple[BootEvent, str]]:
    """Every event of the PCRs that hold code which no edition names, with its digest."""
    for pcr in CODE_PCRS:
        allowed: set[str] = set().union(*(_allowed(e, pcr, boot.bank) for e in editions))
        yield from _unlisted(boot, pcr, allowed)


def _events(boot: Boot, pcr: int, allowed: set[str], source: str) -> Iterator[Claim]:
    for event, value in _unlisted(boot, pcr, allowed):
        yield Claim(
            name="boot.event",
            ok=False,
            value=event.number,
            observed=f"PCR {pcr}, event {event.number}, {value}: {describe(event, boot.bank)}",
            expected="an event in the reference values",
            source=source,
            code="boot.unlisted",
            next_step="boot without it, or have its digest added to the reference values",
        )


def _pcr(boot: Boot, pcr: int, editions: Sequence[BootReferences], source: str) -> Iterator[Claim]:
    """Nothing where the whole value is listed, or every event; otherwise what is wrong."""
    whole = sorted({v for edition in editions for v in edition.pcrs.get(str(pcr), ())})
    allowed: set[str] = set().union(*(_allowed(edition, pcr, boot.bank) for edition in editions))
    if pcr not in boot.quoted:
        if whole or any(str(pcr) in edition.events for edition in editions):
            yield Claim(
                name=f"boot.pcr{pcr}",
                ok=False,
                value=pcr,
                observed="not quoted",
                expected=f"PCR {pcr} in the quote",
                source=source,
                code="pcr.missing",
                next_step=f"quote PCR {pcr} as well",
            )
    elif boot.value(pcr) in whole:
        return
    elif whole and not allowed:
        yield Claim(
            name=f"boot.pcr{pcr}",
            ok=False,
            value=pcr,
            observed=boot.value(pcr),
            expected=", ".join(whole),
            source=source,
            code="boot.pcr",
            next_step="boot what the reference values describe, or have this value added",
        )
    else:
        yield from _events(boot, pcr, allowed, source)


def pcr_claims(boot: Boot, editions: Sequence[BootReferences], source: str) -> list[Claim]:
    """What of the code before the kernel, or of what else is listed, no reference value covers."""
    listed = {int(pcr) for edition in editions for pcr in (*edition.pcrs, *edition.events)}
    wrong = [
        claim
        for pcr in sorted(listed.union(CODE_PCRS))
        for claim in _pcr(boot, pcr, editions, source)
    ]
    summary = Claim(
        name="boot.pcrs",
        ok=not wrong,
        value=len(wrong),
        observed=f"{len(wrong)} events or values not covered",
        expected="everything before the kernel in the reference values",
        source=source,
        code=wrong[0].code if wrong else "",
        next_step=wrong[0].next_step if wrong else "",
    )
    return [*wrong[:_SHOWN], summary]
