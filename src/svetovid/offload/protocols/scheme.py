"""The form of a protocol: which masks a tensor takes, who gets what, and what each multiplies.

Every operand x, quantised to q, is turned into *points*: masks, uniform modulo p, and shares, each
``alpha * mask + beta * q``. A worker holds some of an operand's points, and sums up products of
sums of them; the trusted side adds up the answers, each times a number, and has q_a * q_b.

A packed protocol shares several blocks q_0, q_1, ... of a batch at once: a share has a beta for
each, a point is as large as a block, and the same answers come to every q_a,k * q_b,k, each time
with other numbers. An operand that is the same for the whole batch is each of its blocks.

A protocol is private where the points of one worker are, for whatever q, uniform and independent.
:meth:`Scheme.learned` decides that by the rank of their coefficients, and
:meth:`Scheme.multiplies` whether the answers come to the products, both by arithmetic alone. Blocks
that are all the same are a case of blocks that are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from svetovid.errors import InputError

__all__ = ["Point", "Scheme", "Share", "Worker"]

Point = str
Sum = tuple[tuple[int, Point], ...]
"""Points of one operand with signs."""


@dataclass(frozen=True)
class Share:
    """``alpha * mask`` plus each beta times its block, modulo p."""

    point: Point
    mask: Point
    alpha: int
    betas: tuple[int, ...]


@dataclass(frozen=True)
class Worker:
    """One worker's part.

    Attributes:
        points: what it holds of every operand; masks come as keys.
        terms: sign, points of a, points of b: what it multiplies.
        coefficients: of its answer in the sum that each block's product is; 0 for one that only
            checks.
    """

    points: tuple[Point, ...]
    terms: tuple[tuple[int, Sum, Sum], ...]
    coefficients: tuple[int | Fraction, ...]


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
    def blocks(self) -> int:
        """Into how many blocks a batch is cut."""
        return len(self.workers[0].coefficients)

    @property
    def at_once(self) -> bool:
        """Whether a tensor is shared when it is quantised, whatever it is multiplied with."""
        return self.blocks == 1 and not self.per_product

    @property
    def products(self) -> float:
        """Bilinear maps of whole tensors that all workers together compute for one."""
        return sum(len(w.terms) for w in self.workers) / self.blocks

    @property
    def sent(self) -> float:
        """Numbers that are sent for each number of an operand, one that has the batch."""
        return sum(p not in self.masks for w in self.workers for p in w.points) / self.blocks

    def row(self, point: Point) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Coefficients of a point: of each mask, and of each block."""
        for share in self.shares:
            if share.point == point:
                return tuple(share.alpha * (m == share.mask) for m in self.masks), share.betas
        return tuple(int(m == point) for m in self.masks), (0,) * self.blocks

    def answers(self, blocks: Sequence[int], p: int) -> list[int]:
        """Coefficients of the workers' answers whose sum is the products of these blocks, summed
        up. A worker whose coefficient is 0 need not be asked."""
        found = []
        for worker in self.workers:
            n = sum(worker.coefficients[k] for k in blocks)
            if isinstance(n, int):  # and small: it stays as it is
                found.append(n)
            else:
                found.append(n.numerator * pow(n.denominator, -1, p) % p)
        return found

    def learned(self, workers: Iterable[int], p: int) -> int:
        """How many independent sums of a tensor's blocks these workers together know: the sums of
        their points that are free of masks and not of q."""
        points = sorted({p for i in workers for p in self.workers[i].points})
        rows = [self.row(point) for point in points]
        return _rank([(*masks, *qs) for masks, qs in rows], p) - _rank([m for m, _ in rows], p)

    def hides(self, workers: Iterable[int], p: int) -> bool:
        """Whether what these workers hold together says nothing of a tensor."""
        return self.learned(workers, p) == 0

    def multiplies(self, p: int) -> bool:
        """Whether the answers, each times its coefficient, sum up to each block's product."""
        size = len(self.masks) + self.blocks
        for block in range(self.blocks):
            total: Counter[tuple[int, int]] = Counter()
            for worker, times in zip(self.workers, self.answers([block], p), strict=True):
                for sign, a, b in worker.terms:
                    left, right = self._summed(a), self._summed(b)
                    for i in range(size):
                        for j in range(size):
                            total[i, j] += times * sign * left[i] * right[j]
            wanted = (len(self.masks) + block,) * 2
            if any(n % p != (key == wanted) for key, n in total.items()):
                return False
        return True

    def require(self, workers: int, p: int) -> None:
        """See that it can be run.

        Raises:
            InputError: ``offload.workers``: by another number of workers than it has;
                ``offload.scheme``: it does not multiply, or one worker could learn something.
        """
        if workers != len(self.workers):
            raise InputError(
                "offload.workers",
                expected=f"{len(self.workers)} workers for {self.name}",
                observed=f"{workers}",
                next_step="name as many workers as the protocol needs",
            )
        alone = all(self.hides([place], p) for place in range(workers))
        if not alone or not self.multiplies(p):
            raise InputError(
                "offload.scheme",
                expected=f"a protocol that multiplies modulo {p} and hides from each worker",
                observed=self.name,
                next_step="take a protocol of svetovid.offload.protocols",
            )

    def _summed(self, points: Sum) -> list[int]:
        rows = [[sign * n for n in sum(self.row(point), ())] for sign, point in points]
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
