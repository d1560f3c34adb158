"""Matrix products modulo p from products of limbs that fit the arithmetic at hand exactly.

A residue is cut into digits, digits are multiplied as matrices without any rounding, and their
products are put together modulo p. What makes that exact is three bounds, from which follows how
many terms a sum may have before it is reduced (:attr:`Scheme.longest`):

- the digits of a residue, taken from a representative of it, have at most the size 2^(bits - 1);
- a sum of their products stays within what the arithmetic holds exactly (2^53 for FP64, 2^31 - 1
  for int32), in whatever order it is added up;
- those sums times their weights, added up, stay below 2^62 in int64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["SCHEMES", "Scheme", "aligned_matmul"]

_BLOCK = 2**19
"""Numbers that are cut, or put together, at a time: they should stay in a cache."""
_ROWS = 256
"""Rows of a matrix product that are computed at a time at the least: the other factor is fetched
for each."""


@dataclass(frozen=True)
class _Term:
    """A matrix product of some neighbouring limbs of a with as many of b, and its weight.

    Attributes:
        size: greatest size of a sum of its products, for each term of the reduction.
    """

    weight: int
    a: slice
    b: slice
    size: int


@dataclass(frozen=True)
class Scheme:
    """One way to cut residues of one field, and to multiply.

    Attributes:
        p: the field's prime.
        bits: of a digit.
        digits: how many make up a residue.
        dtype: that limbs are held in.
        exact: greatest size of a sum that ``matmul`` gives exactly.
        matmul: of limbs, two matrices at a time.
        packs: whether :mod:`.packed_limbs` computes what is narrow, with the same ``matmul``.
    """

    p: int
    bits: int
    digits: int
    dtype: torch.dtype
    exact: int
    matmul: Callable[[Tensor, Tensor], Tensor]
    packs: bool = False

    @property
    def _karatsuba(self) -> bool:
        """Whether there is a third limb, the sum of both digits, which saves a product of four.
        Of bytes it would be too large."""
        return self.digits == 2

    @property
    def limbs(self) -> int:
        return 3 if self._karatsuba else self.digits

    @cached_property
    def _terms(self) -> list[_Term]:
        one = 4 ** (self.bits - 1)
        high = 2**self.bits
        if self._karatsuba:
            # (a0 + a1 h)(b0 + b1 h) = a0 b0 (1 - h) + a1 b1 (h^2 - h) + (a0 + a1)(b0 + b1) h
            weights, sizes = (1 - high, high**2 - high, high), (one, one, 4 * one)
            return [
                _Term(self._centred(w), slice(i, i + 1), slice(i, i + 1), size)
                for i, (w, size) in enumerate(zip(weights, sizes, strict=True))
            ]
        # All pairs of digits of one weight are one product: digits of a side by side, those of b
        # one below the other in the opposite order.
        terms = []
        for s in range(2 * self.digits - 1):
            low, end = max(0, s - self.digits + 1), min(s, self.digits - 1) + 1
            shift = self.digits - 1 - s
            b = slice(shift + low, shift + end)
            terms.append(_Term(self._centred(high**s), slice(low, end), b, one * (end - low)))
        return terms

    def _centred(self, weight: int) -> int:
        return (weight + self.p // 2) % self.p - self.p // 2

    @cached_property
    def longest(self) -> int:
        """Most products of residues that may be summed up before the sum is reduced."""
        arithmetic = self.exact // max(term.size for term in self._terms)
        together = 2**62 // sum(term.size * abs(term.weight) for term in self._terms)
        return min(arithmetic, together)

    @property
    def ends(self) -> tuple[int, int]:
        """The residues with the lowest and the highest digits."""
        return -self._above % self.p, (self.p - 1 - self._above) % self.p

    @property
    def _above(self) -> int:
        """The residue that all digits at their lowest fall short of zero."""
        half = 1 << self.bits - 1
        return sum(half << self.bits * i for i in range(self.digits)) % self.p

    def cut(self, residues: Tensor, out: Tensor, *, right: bool) -> Tensor:
        """Limbs of residues.

        Args:
            residues: int32 in [0, p), any shape.
            out: of the scheme's dtype, of that shape with an axis of the limbs in front.
            right: for the right factor of a product.
        """
        rows = max(1, _BLOCK * len(residues) // max(1, residues.numel()))
        for i in range(0, len(residues), rows):
            self._cut(residues[i : i + rows], out[:, i : i + rows], right)
        return out

    def _cut(self, residues: Tensor, out: Tensor, right: bool) -> None:
        half = 1 << self.bits - 1
        # u = sum of (digit + half) * 2^(bits i), so that digits are bits of u without carries.
        # u - p is in int32 where u may not be.
        u = residues - (self.p - self._above)
        u += (u >> 31) & self.p
        for i in range(self.digits):
            digit = (u >> self.bits * i) & (2 * half - 1)
            out[self.digits - 1 - i if right and not self._karatsuba else i] = digit.sub_(half)
        if self._karatsuba:
            torch.add(out[0], out[1], out=out[2])

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``[M, N]`` int64 in [0, p), from limbs: a ``[M, limbs, K]``, b ``[limbs, K, N]``."""
        m, _, k = a.shape
        n = b.shape[2]
        if k > self.longest:
            total = torch.zeros(m, n, dtype=torch.int64, device=a.device)
            for i in range(0, k, self.longest):
                total += self.product(a[..., i : i + self.longest], b[:, i : i + self.longest])
            return total.remainder_(self.p)
        a, b = a.contiguous().view(m, -1), b.contiguous().view(-1, n)
        out = torch.empty(m, n, dtype=torch.int64, device=a.device)
        rows = max(_ROWS, _BLOCK // n)
        for i in range(0, m, rows):
            self._block(a[i : i + rows], b, k, out[i : i + rows])
        return out

    def _block(self, a: Tensor, b: Tensor, k: int, out: Tensor) -> None:
        out.zero_()
        for term in self._terms:
            left = a[:, term.a.start * k : term.a.stop * k]
            summed = self.matmul(left, b[term.b.start * k : term.b.stop * k])
            out.add_(summed.to(torch.int64), alpha=term.weight)
        out.remainder_(self.p)


def _fp64(p: int) -> Scheme:
    """Residues as they are, or two digits of 16 bits and three products of them: M31's would
    be exact in two terms only."""
    digits = 1 if p < 2**26 else 2
    bits = p.bit_length() if digits == 1 else 16
    return Scheme(p, bits, digits, torch.float64, 2**53, torch.matmul)


def _int8(p: int) -> Scheme:
    digits = -(-p.bit_length() // 8)
    return Scheme(p, 8, digits, torch.int8, 2**31 - 1, _bytes_matmul, packs=True)


def _bytes_matmul(a: Tensor, b: Tensor) -> Tensor:
    """int32 sums of products of int8."""
    if a.device.type == "cpu":
        return torch._int_mm(a, b)
    return aligned_matmul(a, b)


def aligned_matmul(a: Tensor, b: Tensor) -> Tensor:
    """The same as a GPU has it: in multiples of 8, and of more than 16 rows."""
    (m, k), n = a.shape, b.shape[1]
    a = functional.pad(a, (0, -k % 8, 0, max(-m % 8, 24 - m)))
    return torch._int_mm(a, functional.pad(b, (0, -n % 8, 0, -k % 8)))[:m, :n]


SCHEMES: dict[str, Callable[[int], Scheme]] = {"fp64": _fp64, "int8": _int8}
