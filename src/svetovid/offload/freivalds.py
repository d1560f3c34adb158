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

__all__ = ["holds", "proven", "repeats"]


def proven() -> None:
    """See, once in a process, that the products by which others are checked are exact here.

    Raises:
        HostError: ``worker.kernel``: they are not.
    """
    import torch

    from svetovid.offload import exact

    exact.proven(torch.device("cpu"))


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
    import numpy as np

    check = _Check(product, parts, field.p, threads)
    times = range(repeats(field))
    us, vs = ([_residues(size, field.p) for _ in times] for size in check.extents())
    found = check.contracted(out, us, vs)
    total = np.zeros(found.shape, np.int64)
    for sign, a, b in terms:
        total += sign * check.multiplied(a, b, us, vs)
    return bool(np.array_equal(total % field.p, found))


class _Check:
    """Both sides for every u with every v, in one small product: more than what is asked for, and
    cheaper than one after another."""

    def __init__(self, product: Product, parts: int, p: int, threads: int) -> None:
        self._product, self._parts = product, parts
        self._p, self._threads = p, threads

    def _over(
        self, values: Integers | Small, shape: tuple[int, int, int], by: Integers
    ) -> Integers:
        """Contract the middle axis."""
        from svetovid.offload import kernels

        return kernels.contract(values.reshape(shape), None, by, self._p, threads=self._threads)

    def extents(self) -> tuple[int, int]:
        """How many numbers a u and a v are."""
        p, g = self._product, self._product.groups
        if p.kind == "matmul":
            return p.out[1], p.out[2]
        if p.kind == "conv_weight":
            return p.w[1], p.w[0] // g
        return p.a[0], p.out[1] // g

    def contracted(self, out: Integers, us: Sequence[Integers], vs: Sequence[Integers]) -> Integers:
        """The claimed result: flat, axes as :meth:`multiplied` has them."""
        import numpy as np

        p, g, over = self._product, self._product.groups, self._over
        parts, taps = self._parts, math.prod(p.out[2:])
        if p.kind == "matmul":
            groups, m, n = p.out
            rows = [over(out, (parts * groups, m, n), u) for u in us]
            found = [[over(r, (parts * groups, n, 1), v) for v in vs] for r in rows]
            return np.stack([np.stack(f, 1) for f in found], 1).reshape(-1)
        if p.kind == "conv_weight":
            c, o = p.w[1], p.w[0]
            rows = [over(out, (parts * g, o // g, c * taps), v) for v in vs]
            found = [[over(r, (parts * g, c, taps), u) for u in us] for r in rows]
            return np.stack([np.stack(f, 1) for f in found], 1).reshape(-1)
        n, made = p.out[:2]
        rows = [over(out, (parts * n * g, made // g, taps), v) for v in vs]
        found = [
            [over(r, (parts, n, g * taps), u).reshape(parts, g, taps) for r in rows] for u in us
        ]
        return np.stack([np.stack(f, 2) for f in found], 1).reshape(-1)

    def multiplied(
        self,
        a: Integers | Small,
        b: Integers | Small,
        us: Sequence[Integers],
        vs: Sequence[Integers],
    ) -> Integers:
        """The product of contracted operands: flat."""
        import numpy as np
        import torch

        from svetovid.offload import exact

        p, g, over, r = self._product, self._product.groups, self._over, len(us)
        if p.kind == "matmul":
            groups, m, n = p.out
            k = math.prod(p.a[1:]) // m
            rows = (groups * k, m, 1) if p.transpose[0] else (groups, m, k)
            columns = (groups, n, k) if p.transpose[1] else (groups * k, n, 1)
            left = np.stack([over(a, rows, u).reshape(groups, k) for u in us], 1)
            right = np.stack([over(b, columns, v).reshape(groups, k) for v in vs], 2)
            small = Product("matmul", (groups, r, k), (groups, k, r), (groups, r, r))
        elif p.kind == "conv_weight":
            n, c, o = p.x[0], p.w[1], p.w[0]
            left = np.stack([over(a, (n * g, c, math.prod(p.x[2:])), u) for u in us], 1)
            right = np.stack([over(b, (n * g, o // g, math.prod(p.y[2:])), v) for v in vs], 1)
            x, y = (n, g * r, *p.x[2:]), (n, g * r, *p.y[2:])
            small = replace(p, a=x, b=y, out=(g * r, r, *p.w[2:]))
        else:
            given, made, taps = p.a[1], p.out[1], math.prod(p.w[2:])
            left = np.stack([over(a, (1, p.a[0], math.prod(p.a[1:])), u) for u in us])
            if p.kind == "conv":
                held = (g, made // g, given // g * taps)
                w: tuple[int, ...] = (g * r, given // g, *p.w[2:])
            else:
                held = (given, made // g, taps)
                w = (given, r, *p.w[2:])
            right = np.stack([over(b, held, v) for v in vs], 1)
            small = replace(p, a=(r, *p.a[1:]), b=w, out=(r, g * r, *p.out[2:]))
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
