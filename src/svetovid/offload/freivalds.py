"""Freivalds' check (1977) of a product, modulo a prime, both sides contracted at random.

Of ``C = A B`` it compares ``u C v`` with ``(u A)(B v)``. Where C is wrong by E in any number,
``u E v`` is a polynomial of degree 2 in the random numbers that is not zero, and vanishes for at
most 2 in p of them (Schwartz and Zippel). It is done as often as :data:`.soundness.ERROR` asks for.

For a convolution, u and v run over the channels of a group, or over the batch, whichever axes the
result and one operand have in common; what is left to multiply is one channel of one image, or of
one batch. Integers are compared modulo p as well: a wrong result must not differ from the right one
by a multiple of p, so each part of a reduction is checked by itself, and both are at most
(p - 1) / 2 in size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from svetovid.offload.field import Field
from svetovid.offload.product import Product
from svetovid.offload.soundness import repeats

if TYPE_CHECKING:
    import numpy as np

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    Small = np.ndarray[tuple[int, ...], np.dtype[np.int16]]
    Pair = tuple[int, Integers | Small, Integers | Small]

__all__ = ["holds", "repeats"]


def holds(
    product: Product,
    terms: Sequence[Pair],
    out: Integers,
    parts: int,
    field: Field,
    *,
    threads: int = 1,
) -> bool:
    """Whether ``out`` is the sum of products, but for :data:`.soundness.ERROR`.

    Args:
        terms: sign, a and b: C-contiguous, integers or residues.
        out: ``[parts, *product.out]``, residues or centred ones, in memory of one's own.
    """
    check = _Check(product, out, parts, field.p, threads)
    return all(check.once(terms) for _ in range(repeats(field)))


class _Check:
    def __init__(self, product: Product, out: Integers, parts: int, p: int, threads: int) -> None:
        self._product, self._out, self._parts = product, out, parts
        self._p, self._threads = p, threads

    def _over(
        self, values: Integers | Small, shape: tuple[int, int, int], by: Integers
    ) -> Integers:
        """Contract the middle axis."""
        from svetovid.offload import kernels

        return kernels.contract(values.reshape(shape), None, by, self._p, threads=self._threads)

    def once(self, terms: Sequence[Pair]) -> bool:
        import numpy as np

        u, v = self._drawn()
        found = self._contracted(u, v)
        total = np.zeros(found.shape, np.int64)
        for sign, a, b in terms:
            total += sign * self._multiplied(a, b, u, v)
        return bool(np.array_equal(total % self._p, found))

    def _extents(self) -> tuple[int, int]:
        """How many numbers u and v are."""
        p, g = self._product, self._product.groups
        if p.kind == "matmul":
            return p.out[1], p.out[2]
        if p.kind == "conv_weight":
            return p.w[1], p.w[0] // g
        return p.a[0], p.out[1] // g

    def _drawn(self) -> tuple[Integers, Integers]:
        """Residues that nobody can have known: drawn after the answer came."""
        u, v = self._extents()
        return _residues(u, self._p), _residues(v, self._p)

    def _contracted(self, u: Integers, v: Integers) -> Integers:
        p, g, out, over = self._product, self._product.groups, self._out, self._over
        parts, taps = self._parts, math.prod(p.out[2:])
        if p.kind == "matmul":
            groups, m, n = p.out
            lost = over(over(out, (parts * groups, m, n), u), (parts * groups, n, 1), v)
        elif p.kind == "conv_weight":
            c, o = p.w[1], p.w[0]
            lost = over(over(out, (parts * g, o // g, c * taps), v), (parts * g, c, taps), u)
        else:
            n, made = p.out[:2]
            lost = over(out, (parts * n * g, made // g, taps), v)
            lost = over(lost, (parts, n, g * taps), u)
        return lost.reshape(-1)

    def _multiplied(
        self, a: Integers | Small, b: Integers | Small, u: Integers, v: Integers
    ) -> Integers:
        import torch

        from svetovid.offload import exact

        p, g, over = self._product, self._product.groups, self._over
        if p.kind == "matmul":
            groups, m, n = p.out
            k = math.prod(p.a[1:]) // m
            left = over(a, (groups * k, m, 1) if p.transpose[0] else (groups, m, k), u)
            right = over(b, (groups, n, k) if p.transpose[1] else (groups * k, n, 1), v)
            small = Product("matmul", (groups, 1, k), (groups, k, 1), (groups, 1, 1))
        elif p.kind == "conv_weight":
            n, c, o = p.x[0], p.w[1], p.w[0]
            left = over(a, (n * g, c, math.prod(p.x[2:])), u)
            right = over(b, (n * g, o // g, math.prod(p.y[2:])), v)
            small = replace(p, a=(n, g, *p.x[2:]), b=(n, g, *p.y[2:]), out=(g, 1, *p.w[2:]))
        else:
            given, made, taps = p.a[1], p.out[1], math.prod(p.w[2:])
            left = over(a, (1, p.a[0], math.prod(p.a[1:])), u)
            if p.kind == "conv":
                right = over(b, (g, made // g, given // g * taps), v)
                w = (g, given // g, *p.w[2:])
            else:
                right = over(b, (given, made // g, taps), v)
                w = (given, 1, *p.w[2:])
            small = replace(p, a=(1, *p.a[1:]), b=w, out=(1, g, *p.out[2:]))
        found = exact.multiply(
            small,
            torch.from_numpy(left.reshape(small.a)),
            torch.from_numpy(right.reshape(small.b)),
            self._p,
            self._parts,
        )
        return found.numpy().reshape(-1).astype("int64")


def _residues(count: int, p: int) -> Integers:
    import numpy as np

    limit = (1 << 32) - (1 << 32) % p
    kept = np.empty(0, np.uint32)
    while kept.size < count:
        drawn = np.frombuffer(os.urandom(4 * (count - kept.size)), "<u4")
        kept = np.concatenate([kept, drawn[drawn < limit] % p])
    return kept.astype(np.int32)
