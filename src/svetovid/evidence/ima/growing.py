"""A sequence of entries that only grows, made for a log that is carried on hundreds of times.

Carrying a log on copies the new entries, and a few of the old ones now and then; the states before
it keep what they have. The entries lie in it as plain tuples: Python's collector of cycles would
otherwise walk over every entry of every host again and again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import eq
from typing import overload

from svetovid.evidence.ima.entries import Entry, Plain, as_entries

__all__ = ["Entries"]


class Entries(Sequence[Entry]):
    """Immutable; equal where the entries are, however they came together."""

    __slots__ = ("_chunks", "_size")

    def __init__(self, entries: Sequence[Plain] = ()) -> None:
        self._chunks: tuple[tuple[Plain, ...], ...] = (tuple([e[:] for e in entries]),)
        self._size = len(entries)

    def plus(self, new: Sequence[Plain]) -> Entries:
        """These entries and ``new`` after them."""
        grown = Entries(new)
        chunks = [*self._chunks, *grown._chunks]
        # As a binary counter: each entry is copied once for each doubling of the log.
        while len(chunks) > 1 and len(chunks[-2]) <= len(chunks[-1]):
            last = chunks.pop()
            chunks[-1] += last
        grown._chunks, grown._size = tuple(chunks), self._size + len(new)
        return grown

    def after(self, count: int) -> Iterator[Plain]:
        """The entries from number ``count`` on, plain."""
        for chunk in self._chunks:
            if count < len(chunk):
                yield from chunk[count:] if count else chunk
            count = max(count - len(chunk), 0)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Entry]:
        return as_entries(self.after(0))

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, index: int | slice) -> Entry | tuple[Entry, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        at = index + self._size if index < 0 else index
        if not 0 <= at < self._size:
            raise IndexError(index)
        return next(as_entries(self.after(at)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entries):
            return NotImplemented
        return self._size == other._size and all(map(eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))
