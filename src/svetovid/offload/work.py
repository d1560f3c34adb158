"""What crosses the seam to a worker: operands by number, and sums of products of sums of them.

One form for all protocols. With e for E, f for F and so on, Goten's first worker as published does
``a0*f + e*b0 - e*f``, the improved one ``(a0-e)*f + e*b0``, a worker of coded sharing ``x*w``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from svetovid.offload.product import Product

if TYPE_CHECKING:
    import numpy as np

    Residues = np.ndarray[tuple[int, ...], np.dtype[np.int32]]

__all__ = ["Answer", "Link", "Side", "Term", "Work"]

Side = tuple[tuple[int, int], ...]
"""Operands by number, each with the sign 1 or -1: what they sum up to is multiplied."""


@dataclass(frozen=True)
class Term:
    """``sign * product(a, b)``."""

    sign: int
    a: Side
    b: Side


@dataclass(frozen=True)
class Work:
    """A sum of products of one kind, each reduced modulo ``p``; 1 to 3 of them.

    Attributes:
        parts: in how many parts every reduction is answered (:meth:`Product.parts`).
    """

    product: Product
    p: int
    terms: tuple[Term, ...]
    parts: int


class Answer(Protocol):
    """Work under way."""

    def wait(self) -> Residues:
        """Residues as the worker says they are, flat ``[parts * out]``: in memory that it may still
        write to, so that each is to be read once, and any 32 bits may stand there.

        Raises:
            TransportError: ``worker.silent``, ``worker.gone``.
            IntegrityError: ``worker.answer``: not in the form that was asked for.
        """
        ...


class Link(Protocol):
    """One worker, as the trusted side sees it. Of one thread.

    Attributes:
        identity: of the worker, by its certificate or as the configuration names it.
        operator: who runs it, as the job names it (T17).
    """

    identity: str
    operator: str

    def send(self, operand: int, count: int, fill: Callable[[Residues], None]) -> None:
        """Give the worker ``count`` residues under a number.

        Args:
            fill: writes them, once, into memory that the worker is sent or sees afterwards.
        """
        ...

    def seed(self, operand: int, count: int, key: bytes, p: int) -> None:
        """The same, as the key that the worker expands them from."""
        ...

    def ask(self, work: Work) -> Answer: ...

    def drop(self) -> None:
        """The worker forgets all operands: a step has ended."""
        ...

    def close(self) -> None: ...
