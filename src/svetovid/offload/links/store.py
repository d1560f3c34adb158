"""Where the numbers of one link lie: in memory that the worker sees as well, or in our own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from svetovid.offload.links.memory import Arena, Shared
from svetovid.offload.wire import Place

if TYPE_CHECKING:
    from svetovid.offload.work import Residues

__all__ = ["Room", "SharedStore", "Store"]


@dataclass(frozen=True)
class Room:
    """Of one operand or answer, until the store is used again.

    Attributes:
        at, memory: where a worker on this machine finds it.
    """

    numbers: Residues
    at: Place | None = None
    memory: Shared | None = None


class Store(Protocol):
    """Of one link alone."""

    def take(self, count: int, *, answers: bool) -> Room:
        """Room for so many numbers."""
        ...

    def reuse(self) -> list[int]:
        """A step has ended. Gives the numbers of shared memories that are let go of."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class SharedStore:
    """Memory files that the worker maps.

    Args:
        rest: bytes that are kept from one step to the next.
    """

    def __init__(self, rest: int) -> None:
        numbers = itertools.count()
        self._arenas = {
            answers: Arena(numbers, answers=answers, most=rest // 2) for answers in (False, True)
        }

    def take(self, count: int, *, answers: bool) -> Room:
        memory, place = self._arenas[answers].take(count)
        return Room(memory.numbers(place.offset, count), place, memory)

    def reuse(self) -> list[int]:
        return [number for arena in self._arenas.values() for number in arena.reuse()]

    def close(self) -> None:
        for arena in self._arenas.values():
            arena.close()
