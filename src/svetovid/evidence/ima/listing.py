"""Measured files against reference values, each entry looked at once per set of values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from svetovid.crypto.canonical import b64decode
from svetovid.errors import EvidenceError, ParseError
from svetovid.evidence.ima.entries import (
    BOOT_AGGREGATE,
    PREFIXES,
    VIOLATIONS,
    Entry,
    Plain,
)
from svetovid.evidence.ima.growing import Entries
from svetovid.evidence.ima.rules import Rules
from svetovid.evidence.ima.signatures import Signer, check_signature, load_signer
from svetovid.evidence.references import Current, ReferenceValues

__all__ = ["IMA_POLICY", "Findings", "Listing", "Mismatch", "Some", "compare", "merged"]

IMA_POLICY = "/etc/ima/ima-policy"
"""Where systemd takes a policy from, in place of the one that the kernel began with."""
_SHOWN = 32
"""Mismatches that are kept in full; the rest are counted. As many signatures may fail."""
_SETS = 64
"""Sets of reference values one log is remembered against."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An entry that no reference value covers.

    ``code`` is ``ima.unlisted`` (its path stands nowhere), ``ima.digest`` (another digest),
    ``ima.superseded`` (a digest that counts no more),
    ``ima.buf`` (a buffer that stands nowhere, or differs), ``ima.kexec`` (another kernel was
    started), or why the signature of a file that stands nowhere does not count (``ima.sig_*``).
    """

    code: str
    path: str
    observed: str
    expected: str


@dataclass(frozen=True, slots=True)
class Some:
    """So many entries, the first of them with this path."""

    count: int
    first: str

    def and_more(self, other: Some | None) -> Some:
        return Some(self.count + (other.count if other else 0), self.first)


@dataclass(frozen=True, slots=True)
class Findings:
    """How many entries were compared, the first mismatches, and how many there are in all.

    Attributes:
        seen: (path, digest) of those entries whose path the boot references ask for, and of
            :data:`IMA_POLICY`.
        unchecked: number of a path rule to what it covered.
        outgoing: entries whose digest is superseded from some later time on.
    """

    compared: int = 0
    mismatches: tuple[Mismatch, ...] = ()
    count: int = 0
    seen: frozenset[tuple[str, str]] = frozenset()
    unchecked: Mapping[int, Some] = field(default_factory=dict)
    outgoing: Some | None = None


def _listed(name: str, tables: Sequence[Mapping[str, tuple[str, ...]]]) -> list[tuple[str, ...]]:
    return [digests for table in tables if (digests := table.get(name)) is not None]


def _wanted(known: Sequence[tuple[str, ...]], what: str) -> str:
    expected = sorted({d for digests in known for d in digests})
    return ", ".join(expected) or f"{what} in the reference values"


def _one_more(some: Some | None, path: str) -> Some:
    return some.and_more(Some(1, path)) if some else Some(1, path)


def merged(before: Mapping[int, Some], more: Mapping[int, Some]) -> Mapping[int, Some]:
    """What each rule covered, before and after."""
    return {**more, **{number: some.and_more(more.get(number)) for number, some in before.items()}}


class _Judge:
    """One set of reference values, ready to look entries up in."""

    def __init__(self, current: Current) -> None:
        references = current.sets
        self._now = current.now
        self._files = [r.listed for r in references]
        self._superseded = [r.superseded for r in references if r.superseded]
        self._rules = Rules([rule for r in references for rule in r.unchecked])
        self._buffers = [r.buffers for r in references]
        self._references = references
        self._signers: list[tuple[int, Signer]] | None = None
        self._failed = 0
        self.wanted = {IMA_POLICY, *(p for r in references if r.boot for p in r.boot.measured)}
        self._asked = {BOOT_AGGREGATE, *self.wanted}
        self.unchecked: dict[int, Some] = {}
        self.outgoing: Some | None = None

    def unusual(self, entries: Iterable[Plain], start: int) -> Iterator[tuple[int, Entry]]:
        """Entries, numbered from ``start``, but for files that are listed and of which nothing
        else is asked: most are, so those are passed over in few steps."""
        asked, superseded = self._asked, self._superseded
        lookups = [files.get for files in self._files]
        for index, plain in enumerate(entries, start):
            path, digest, extension, detail = plain
            odd = detail is not None or path in asked or extension in VIOLATIONS
            if superseded and any(path in digests for digests in superseded):
                odd = True
            value = PREFIXES[len(digest)] + digest.hex()
            for lookup in () if odd else lookups:
                if value in lookup(path, ()):
                    break
            else:
                yield index, Entry(*plain)

    def mismatch(self, entry: Entry) -> Mismatch | None:
        """Why an entry is not good; None where it is after all."""
        value, detail = entry.named_digest, entry.detail
        if detail is not None and detail.buffer:
            listed = _listed(entry.path, self._buffers)
            if any(value in digests for digests in listed):
                return None
            return Mismatch("ima.buf", entry.path, value, _wanted(listed, "a name"))
        listed = _listed(entry.path, self._files)
        turns = [times for digests in self._superseded if (times := digests.get(entry.path))]
        if (until := min((t[value] for t in turns if value in t), default=None)) is not None:
            return self._superseded_at(entry, until, listed)
        if any(value in digests for digests in listed):
            return None
        known = [*listed, *(tuple(d for d, t in times.items() if self._now < t) for times in turns)]
        if known:
            return Mismatch("ima.digest", entry.path, value, self._expected(entry.path, known))
        if self._covered(entry.path):
            return None
        # Version 2 signs a file's own digest; over a fs-verity digest it would mean another file.
        signature = detail.signature if detail and not detail.verity else b""
        if signature and self._failed < _SHOWN:
            return self._signed(entry, signature)
        return Mismatch("ima.unlisted", entry.path, value, _wanted((), "a path"))

    def _superseded_at(
        self, entry: Entry, until: int, listed: Sequence[tuple[str, ...]]
    ) -> Mismatch | None:
        value = entry.named_digest
        if self._now < until:
            self.outgoing = _one_more(self.outgoing, entry.path)
            return None
        newer = [tuple(d for d in digests if d != value) for digests in listed]
        shown = f"{value}, superseded since {until}"
        return Mismatch("ima.superseded", entry.path, shown, self._expected(entry.path, newer))

    def _expected(self, path: str, known: Sequence[tuple[str, ...]]) -> str:
        origins = [origin for r in self._references for origin in r.origins(path)]
        return _wanted(known, "another file") + (f" ({', '.join(origins)})" if origins else "")

    def _covered(self, path: str) -> bool:
        """A rule is no word on what the boot is judged by, nor on a kernel's start."""
        number = None if path in self._asked else self._rules.first(path)
        if number is None:
            return False
        self.unchecked[number] = _one_more(self.unchecked.get(number), path)
        return True

    def _signed(self, entry: Entry, signature: bytes) -> Mismatch | None:
        if self._signers is None:
            self._signers = _signers(self._references)
        try:
            check_signature(signature, entry.digest, self._signers)
        except (EvidenceError, ParseError) as e:
            self._failed += 1
            r = e.reason
            return Mismatch(r.code, entry.path, f"{entry.named_digest}, {r.observed}", r.expected)
        return None


def _signers(references: Sequence[ReferenceValues]) -> list[tuple[int, Signer]]:
    """Keys that can be read; the appraisal names those that cannot."""
    found = []
    for reference in references:
        for key in reference.file_signers:
            try:
                found.append(load_signer(b64decode(key)))
            except ParseError:
                continue
    return found


def compare(
    entries: Entries | tuple[Entry, ...],
    current: Current,
    before: Findings | None = None,
    *,
    begins: bool = True,
) -> Findings:
    """Compare the entries after those of ``before``.

    Args:
        before: what the same sets of values gave, at the same stage of each.
        begins: whether ``entries`` begins with the log's first, which is ``boot_aggregate``.

    A violation has no digest to compare and is counted where violations are.
    """
    before = before or Findings()
    if before.compared == len(entries):
        return before
    judge = _Judge(current)
    mismatches, count, seen = list(before.mismatches), before.count, set(before.seen)
    start = before.compared
    new = entries.after(start) if isinstance(entries, Entries) else entries[start:]
    for index, entry in judge.unusual(new, start):
        if entry.violation or (begins and index == 0 and entry.aggregate):
            continue
        if entry.path in judge.wanted:
            seen.add((entry.path, entry.named_digest))
        found = _another_kernel(entry) if entry.aggregate else judge.mismatch(entry)
        if found is None:
            continue
        count += 1
        if len(mismatches) < _SHOWN:
            mismatches.append(found)
    return Findings(
        compared=len(entries),
        mismatches=tuple(mismatches),
        count=count,
        seen=frozenset(seen),
        unchecked=merged(before.unchecked, judge.unchecked),
        outgoing=before.outgoing.and_more(judge.outgoing) if before.outgoing else judge.outgoing,
    )


def _another_kernel(entry: Entry) -> Mismatch:
    return Mismatch("ima.kexec", entry.path, entry.named_digest, "one kernel since the power-on")


class Listing:
    """Remembers the findings of a log that only grows, for each set of reference values."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: tuple[tuple[Current, Findings], ...] = ()

    def compare(self, entries: Entries, current: Current) -> Findings:
        """As :func:`compare`; ``entries`` begins with those of every earlier call, or is shorter.

        Documents are frozen, so an equal set gives equal findings, as long as none of its digests
        turns from good to superseded. The tuple is replaced whole: of two threads one does the work
        again, and neither sees half of it.
        """
        before = next((f for known, f in self._known if _same(known, current)), None)
        if before is not None and before.compared > len(entries):
            return compare(entries, current)
        found = compare(entries, current, before)
        if found is not before:
            others = tuple(k for k in self._known if not _same(k[0], current))
            self._known = ((current, found), *others)[:_SETS]
        return found


def _same(a: Current, b: Current) -> bool:
    return (
        len(a.sets) == len(b.sets)
        and all(x is y or x == y for x, y in zip(a.sets, b.sets, strict=True))
        and a.stages == b.stages
    )
