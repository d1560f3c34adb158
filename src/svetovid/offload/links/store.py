"""Where the numbers of one link lie: in memory that the worker sees as well, or in our own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from svetovid.offload.links.memory import Arena, Own, Shared
from svetovid.offload.wire import Place

if TYPE_CHECKING:
    from svetovid.offload.work import Residues

__all__ = ["OwnStore", "Room", "SharedStore", "Store"]


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

        def make(answers: bool) -> Callable[[int], Shared]:
            return lambda size: Shared(next(numbers), size, answers=answers)

        self._arenas = {answers: Arena(make(answers), rest // 2) for answers in (False, True)}

    def take(self, count: int, *, answers: bool) -> Room:
        memory, offset = self._arenas[answers].take(count)
        return Room(memory.numbers(offset, count), Place(memory.number, offset), memory)

    def reuse(self) -> list[int]:
        return [number for arena in self._arenas.values() for number in arena.reuse()]

    def close(self) -> None:
        for arena in self._arenas.values():
            arena.close()


class OwnStore:
    """Our own memory, of which bytes are sent and into which they are read.

    Args:
        rest: bytes that are kept from one step to the next.
    """

    def __init__(self, rest: int) -> None:
        self._arena = Arena(Own, rest)

    def take(self, count: int, *, answers: bool) -> Room:
        memory, offset = self._arena.take(count)
        return Room(memory.numbers(offset, count))

    def reuse(self) -> list[int]:
        return self._arena.reuse()

    def close(self) -> None:
        self._arena.close()
