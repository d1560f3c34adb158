"""A tensor of one step, and its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from svetovid.offload.work import Term

if TYPE_CHECKING:
    import numpy as np

    from svetovid.offload.protocols.scheme import Scheme, Worker

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    Small = np.ndarray[tuple[int, ...], np.dtype[np.int16]]

__all__ = ["MaskedOperand", "terms"]


@dataclass
class MaskedOperand:
    """A tensor of this step.

    Attributes:
        value: until it was quantised, which is before anybody else may change it.
        q: what it was quantised to, ``q * 2**-shift``.
        begun: the step that it belongs to, as :attr:`Masker.begun` counts.
        numbers: point to the number under which workers hold it, once it was shared.
    """

    name: str
    value: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None
    shape: tuple[int, ...]
    shift: int
    q: Small
    rounding: bytes
    begun: int
    numbers: dict[str, int] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    times: int = 0

    def points(self, scheme: Scheme, summed: Sequence[tuple[int, str]], p: int) -> Integers:
        """A sum of points, as a worker has it: to see whether it did its work."""
        import numpy as np

        from svetovid.offload import kernels

        shares = {share.point: share for share in scheme.shares}
        total = np.zeros(self.q.size, np.int64)
        for sign, point in summed:
            share = shares.get(point)
            mask = np.empty(self.q.size, np.int32)
            kernels.expand(self.keys[share.mask if share else point], p, mask)
            value = mask.astype(np.int64)
            if share:
                value = share.alpha * value + share.beta * self.q
            total += sign * value
        return (total % p).astype(np.int32)


def terms(worker: Worker, a: MaskedOperand, b: MaskedOperand) -> tuple[Term, ...]:
    """A worker's part of the product of two operands that were shared."""
    return tuple(
        Term(
            sign,
            tuple((a.numbers[point], s) for s, point in left),
            tuple((b.numbers[point], s) for s, point in right),
        )
        for sign, left, right in worker.terms
    )
