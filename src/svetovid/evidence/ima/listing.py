"""Measured files against reference values, each entry looked at once per set of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svetovid.evidence.documents import ReferenceValues
from svetovid.evidence.ima.entries import BOOT_AGGREGATE, Entry

__all__ = ["Findings", "Listing", "Mismatch", "compare"]

_SHOWN = 32
"""Mismatches that are kept in full; the rest are counted."""
_SETS = 64
"""Sets of reference values one log is remembered against."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A measured file that no reference value covers.

    ``code`` is ``ima.unlisted`` (its path stands nowhere) or ``ima.digest`` (another digest).
    """

    code: str
    path: str
    observed: str
    expected: str


@dataclass(frozen=True, slots=True)
class Findings:
    """How many entries were compared, the first mismatches, and how many there are in all."""

    compared: int = 0
    mismatches: tuple[Mismatch, ...] = ()
    count: int = 0


def compare(
    entries: Sequence[Entry], references: Sequence[ReferenceValues], before: Findings | None = None
) -> Findings:
    """Compare the entries after those of ``before``; the first may be ``boot_aggregate``.

    A violation has no digest to compare and is counted where violations are.
    """
    before = before or Findings()
    if before.compared == len(entries):
        return before
    tables = [r.files for r in references]
    mismatches = list(before.mismatches)
    count = before.count
    for index, entry in enumerate(entries[before.compared :], before.compared):
        if entry.violation or (index == 0 and entry.path == BOOT_AGGREGATE):
            continue
        observed = entry.named_digest
        listed = [digests for table in tables if (digests := table.get(entry.path)) is not None]
        if any(observed in digests for digests in listed):
            continue
        count += 1
        if len(mismatches) < _SHOWN:
            expected = sorted({d for digests in listed for d in digests})
            code = "ima.digest" if listed else "ima.unlisted"
            wanted = ", ".join(expected) or "a path in the reference values"
            mismatches.append(Mismatch(code, entry.path, observed, wanted))
    return Findings(len(entries), tuple(mismatches), count)


class Listing:
    """Remembers the findings of a log that only grows, for each set of reference values."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: tuple[tuple[tuple[ReferenceValues, ...], Findings], ...] = ()

    def compare(self, entries: Sequence[Entry], references: Sequence[ReferenceValues]) -> Findings:
        """As :func:`compare`; ``entries`` begins with those of every earlier call, or is shorter.

        Documents are frozen, so an equal set gives equal findings. The tuple is replaced whole:
        of two threads one does the work again, and neither sees half of it.
        """
        wanted = tuple(references)
        before = next((f for known, f in self._known if _same(known, wanted)), None)
        if before is not None and before.compared > len(entries):
            return compare(entries, wanted)
        found = compare(entries, wanted, before)
        if found is not before:
            others = tuple(k for k in self._known if not _same(k[0], wanted))
            self._known = ((wanted, found), *others)[:_SETS]
        return found


def _same(a: tuple[ReferenceValues, ...], b: tuple[ReferenceValues, ...]) -> bool:
    return len(a) == len(b) and all(x is y or x == y for x, y in zip(a, b, strict=True))
