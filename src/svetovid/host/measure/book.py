"""A measurement log held in memory, so that any tail of it is one slice."""

from __future__ import annotations

import struct

from svetovid.crypto import digest
from svetovid.errors import InputError

__all__ = ["Book"]

_HEAD = struct.Struct("<I20sI")
_U32 = struct.Struct("<I")


class Book:
    """Raw entries, one after the other, and where each begins."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = [0]

    @property
    def count(self) -> int:
        return len(self._ends) - 1

    @property
    def size(self) -> int:
        return len(self._data)

    def append(self, entry: bytes) -> None:
        self._data += entry
        self._ends.append(len(self._data))

    def extend(self, data: bytes) -> None:
        """Append entries that are known to be whole and well-formed."""
        at = 0
        while at < len(data):
            name_end = at + _HEAD.size + _HEAD.unpack_from(data, at)[2]
            end = name_end + 4 + _U32.unpack_from(data, name_end)[0]
            self.append(data[at:end])
            at = end

    def keep(self, count: int) -> None:
        """Forget all entries after the first ``count``."""
        del self._ends[count + 1 :]
        del self._data[self._ends[-1] :]

    def since(self, offset: int) -> bytes:
        """Entries from number ``offset`` on.

        Raises:
            InputError: ``ima.offset`` where there are not so many.
        """
        if not 0 <= offset <= self.count:
            raise InputError(
                "ima.offset",
                expected=f"0 to {self.count}",
                observed=offset,
                next_step="ask for the log from entry 0 on",
            )
        return bytes(self._data[self._ends[offset] :])

    @property
    def digest(self) -> str:
        return digest(bytes(self._data))
