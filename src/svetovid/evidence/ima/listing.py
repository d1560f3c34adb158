"""Measured files against reference values, each entry looked at once per set of values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from svetovid.crypto.canonical import b64decode
from svetovid.errors import EvidenceError, ParseError
from svetovid.evidence.documents import ReferenceValues
from svetovid.evidence.ima.entries import (
    BOOT_AGGREGATE,
    PREFIXES,
    VIOLATIONS,
    Entry,
    Plain,
)
from svetovid.evidence.ima.growing import Entries
from svetovid.evidence.ima.signatures import Signer, check_signature, load_signer

__all__ = ["IMA_POLICY", "Findings", "Listing", "Mismatch", "compare"]

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
    ``ima.buf`` (a buffer that stands nowhere, or differs), ``ima.kexec`` (another kernel was
    started), or why the signature of a file that stands nowhere does not count (``ima.sig_*``).
    """

    code: str
    path: str
    observed: str
    expected: str


@dataclass(frozen=True, slots=True)
class Findings:
    """How many entries were compared, the first mismatches, and how many there are in all.

    Attributes:
        seen: (path, digest) of those entries whose path the boot references ask for, and of
            :data:`IMA_POLICY`.
    """

    compared: int = 0
    mismatches: tuple[Mismatch, ...] = ()
    count: int = 0
    seen: frozenset[tuple[str, str]] = frozenset()


def _listed(name: str, tables: Sequence[Mapping[str, tuple[str, ...]]]) -> list[tuple[str, ...]]:
    return [digests for table in tables if (digests := table.get(name)) is not None]


class _Judge:
    """One set of reference values, ready to look entries up in."""

    def __init__(self, references: Sequence[ReferenceValues]) -> None:
        self._files = [r.files for r in references]
        self._buffers = [r.buffers for r in references]
        self._references = references
        self._signers: list[tuple[int, Signer]] | None = None
        self._failed = 0
        self.wanted = {IMA_POLICY, *(p for r in references if r.boot for p in r.boot.measured)}
        self._asked = {BOOT_AGGREGATE, *self.wanted}

    def unusual(self, entries: Iterable[Plain], start: int) -> Iterator[tuple[int, Entry]]:
        """Entries, numbered from ``start``, but for files that are listed and of which nothing
        else is asked: most are, so those are passed over in few steps."""
        asked, lookups = self._asked, [files.get for files in self._files]
        for index, plain in enumerate(entries, start):
            path, digest, extension, detail = plain
            odd = detail is not None or path in asked or extension in VIOLATIONS
            value = PREFIXES[len(digest)] + digest.hex()
            for lookup in () if odd else lookups:
                if value in lookup(path, ()):
                    break
            else:
                yield index, Entry(*plain)

    def mismatch(self, entry: Entry) -> Mismatch | None:
        """Why an entry is not good; None where it is after all."""
        value, detail = entry.named_digest, entry.detail
        buffer = detail is not None and detail.buffer is not None
        listed = _listed(entry.path, self._buffers if buffer else self._files)
        if any(value in digests for digests in listed):
            return None
        # Version 2 signs a file's own digest; over a fs-verity digest it would mean another file.
        signature = detail.signature if detail and not detail.verity else b""
        if signature and not listed and self._failed < _SHOWN:
            return self._signed(entry, signature)
        expected = sorted({d for digests in listed for d in digests})
        code = "ima.buf" if buffer else "ima.digest" if listed else "ima.unlisted"
        what = "a name" if buffer else "a path"
        wanted = ", ".join(expected) or f"{what} in the reference values"
        return Mismatch(code, entry.path, value, wanted)

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
    references: Sequence[ReferenceValues],
    before: Findings | None = None,
    *,
    begins: bool = True,
) -> Findings:
    """Compare the entries after those of ``before``.

    Args:
        begins: whether ``entries`` begins with the log's first, which is ``boot_aggregate``.

    A violation has no digest to compare and is counted where violations are.
    """
    before = before or Findings()
    if before.compared == len(entries):
        return before
    judge = _Judge(references)
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
    return Findings(len(entries), tuple(mismatches), count, frozenset(seen))


def _another_kernel(entry: Entry) -> Mismatch:
    return Mismatch("ima.kexec", entry.path, entry.named_digest, "one kernel since the power-on")


class Listing:
    """Remembers the findings of a log that only grows, for each set of reference values."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: tuple[tuple[tuple[ReferenceValues, ...], Findings], ...] = ()

    def compare(self, entries: Entries, references: Sequence[ReferenceValues]) -> Findings:
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
