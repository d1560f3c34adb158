"""A tensor of one step, and its points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from svetovid.errors import InputError
from svetovid.offload.work import Term

if TYPE_CHECKING:
    import numpy as np
    import torch

    from svetovid.offload.protocols.scheme import Scheme, Worker
    from svetovid.offload.store import Kept, TensorStore

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    Small = np.ndarray[tuple[int, ...], np.dtype[np.int16]]

__all__ = ["MaskedOperand", "require_numbers", "terms"]


@dataclass
class MaskedOperand:
    """A tensor of this step.

    Attributes:
        integers: what it was quantised to, or where a store keeps it: see :attr:`q`.
        begun: the step that it belongs to, as :attr:`Masker.begun` counts.
        size: numbers of one block; 0 before that is known.
        cut: whether it is cut into blocks, or all of it is each of them.
        numbers: point to the number under which workers hold it, once it was shared.
    """

    name: str
    shape: tuple[int, ...]
    shift: int
    integers: Small | Kept
    begun: int
    size: int = 0
    cut: bool = False
    numbers: dict[str, int] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    times: int = 0
    store: TensorStore | None = None

    @property
    def q(self) -> Small:
        """What it was quantised to, ``q * 2**-shift``; once it is cut, filled up with zeros."""
        if self.store is None:
            return cast("Small", self.integers)
        return cast("Small", self.store.take(cast("Kept", self.integers)).numpy())

    @q.setter
    def q(self, integers: Small) -> None:
        store = self.store
        self.forget()
        self.integers = integers
        if store is not None:
            self.keep(store)

    def keep(self, store: TensorStore) -> None:
        """Hand the integers to a store, within its limit of memory.

        Raises:
            LimitError, HostError: as of :meth:`svetovid.offload.store.TensorStore.put`.
        """
        import torch

        self.integers = store.put(torch.from_numpy(self.q))
        self.store = store

    def forget(self) -> None:
        """The store has it no longer."""
        if self.store is not None:
            self.store.drop(cast("Kept", self.integers))
            self.store = None

    def take(self, whole: tuple[int, ...], size: int, cut: bool, count: int) -> None:
        """Be what a product needs: the same in every product of a step, as its points are.

        Args:
            whole: shape in the product.
            size: of a block.
            cut: whether the operand is cut, into ``count`` blocks.

        Raises:
            InputError: ``offload.shape``: it has another number of elements, or is cut in another
                way already.
        """
        held = math.prod(self.shape)
        if held != math.prod(whole) or (self.size and (self.size, self.cut) != (size, cut)):
            was = f", in blocks of {self.size:,}" if self.cut else ""
            raise InputError(
                "offload.shape",
                expected=f"{self.name} as {math.prod(whole):,} numbers"
                + (f", in blocks of {size:,}" if cut else ""),
                observed=f"{held:,}{was}",
                next_step="make another operand of the tensor: one is shared in one form alone",
            )
        if not self.size and cut and count * size > held:
            import numpy as np

            self.q = np.concatenate([self.q, np.zeros(count * size - held, np.int16)])
        self.size, self.cut = size, cut

    def block(self, number: int) -> Small:
        return self.q[number * self.size : (number + 1) * self.size] if self.cut else self.q

    def blocks(self, betas: Sequence[int]) -> list[tuple[int, Small]]:
        """What a share has of the tensor: coefficients, and integers of a block's size."""
        if self.cut:
            return [(beta, self.block(k)) for k, beta in enumerate(betas)]
        return [(sum(betas), self.q)]

    def points(self, scheme: Scheme, summed: Sequence[tuple[int, str]], p: int) -> Integers:
        """A sum of points, as a worker has it: to see whether it did its work."""
        import numpy as np

        from svetovid.offload import kernels

        total = np.zeros(self.size, np.int64)
        mask = np.empty(self.size, np.int32)
        for sign, point in summed:
            alphas, betas = scheme.row(point)
            for role, alpha in zip(scheme.masks, alphas, strict=True):
                kernels.expand(self.keys[role], p, mask)
                total += sign * alpha * mask.astype(np.int64)
            for beta, block in self.blocks(betas):
                total += sign * beta * block.astype(np.int64)
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


def require_numbers(name: str, value: torch.Tensor) -> None:
    """See that a tensor is not empty.

    Raises:
        InputError: ``offload.shape``.
    """
    if not value.numel():
        raise InputError(
            "offload.shape",
            expected="a number at least",
            observed=f"{name} of shape {tuple(value.shape)}",
            next_step="leave empty batches out",
        )
