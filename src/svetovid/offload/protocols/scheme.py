"""The form of a protocol: which masks a tensor takes, who gets what, and what each multiplies.

Every operand x, quantised to q, is turned into *points*: masks, uniform modulo p, and shares, each
``alpha * mask + beta * q``. A worker holds some of an operand's points, and sums up products of
sums of them; the trusted side adds up the answers, each times a small number, and has q_a * q_b.

A protocol is private where the points of one worker are, for whatever q, uniform and independent.
:meth:`Scheme.hides` decides that by the rank of their coefficients, and
:meth:`Scheme.multiplies` whether the answers come to the product, both by arithmetic alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Point", "Scheme", "Share", "Worker"]

Point = str
Sum = tuple[tuple[int, Point], ...]
"""Points of one operand with signs."""


@dataclass(frozen=True)
class Share:
    """``alpha * mask + beta * q`` modulo p."""

    point: Point
    mask: Point
    alpha: int
    beta: int


@dataclass(frozen=True)
class Worker:
    """One worker's part.

    Attributes:
        points: what it holds of every operand; masks come as keys.
        terms: sign, points of a, points of b: what it multiplies.
        coefficient: of its answer in the sum; 0 for one that only checks.
    """

    points: tuple[Point, ...]
    terms: tuple[tuple[int, Sum, Sum], ...]
    coefficient: int


@dataclass(frozen=True)
class Scheme:
    """A protocol.

    Attributes:
        masks: points that are drawn for each tensor.
        per_product: a tensor is masked anew for every product, not once a step.
        parity: coefficients of all answers that sum up to 0 modulo p; empty where there are none.
    """

    name: str
    masks: tuple[Point, ...]
    shares: tuple[Share, ...]
    workers: tuple[Worker, ...]
    per_product: bool = False
    parity: tuple[int, ...] = ()

    @property
    def products(self) -> int:
        """Bilinear maps that all workers compute for one."""
        return sum(len(w.terms) for w in self.workers)

    @property
    def sent(self) -> int:
        """Numbers that are sent for each number of an operand."""
        return sum(p not in self.masks for w in self.workers for p in w.points)

    def _row(self, point: Point) -> tuple[int, ...]:
        """Coefficients of a point: of each mask, then of q."""
        for share in self.shares:
            if share.point == point:
                return (*(share.alpha * (m == share.mask) for m in self.masks), share.beta)
        return (*(int(m == point) for m in self.masks), 0)

    def hides(self, workers: Iterable[int], p: int) -> bool:
        """Whether what these workers hold together says nothing of a tensor.

        It does so exactly where no sum of their points is free of masks and not of q.
        """
        points = sorted({p for i in workers for p in self.workers[i].points})
        rows = [self._row(point) for point in points]
        return _rank([row[:-1] for row in rows], p) == _rank(rows, p)

    def multiplies(self, p: int) -> bool:
        """Whether the answers, each times its coefficient, sum up to the product of a and b."""
        size = len(self.masks) + 1
        total: Counter[tuple[int, int]] = Counter()
        for worker in self.workers:
            for sign, a, b in worker.terms:
                left, right = self._summed(a), self._summed(b)
                for i in range(size):
                    for j in range(size):
                        total[i, j] += worker.coefficient * sign * left[i] * right[j]
        return all(n % p == (key == (size - 1, size - 1)) for key, n in total.items())

    def _summed(self, points: Sum) -> list[int]:
        rows = [[sign * n for n in self._row(point)] for sign, point in points]
        return [sum(column) for column in zip(*rows, strict=True)]


def _rank(rows: list[tuple[int, ...]], p: int) -> int:
    left = [[n % p for n in row] for row in rows]
    rank = 0
    for column in range(len(left[0]) if left else 0):
        pivot = next((r for r in left[rank:] if r[column]), None)
        if pivot is None:
            continue
        left.remove(pivot)
        inverse = pow(pivot[column], -1, p)
        pivot = [n * inverse % p for n in pivot]
        left = [
            [(n - row[column] * m) % p for n, m in zip(row, pivot, strict=True)] for row in left
        ]
        left.insert(rank, pivot)
        rank += 1
    return rank
