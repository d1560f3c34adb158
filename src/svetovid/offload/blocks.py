"""Products of blocks of a batch: which operand is cut where, and what becomes of the results.

A packed protocol shares blocks of the batch in the same points, so that every worker multiplies
operands of one block's size. What runs along the batch follows from the product's kind alone, and
lies so that a block is a stretch of memory; a batch that cannot be cut evenly is filled up with
zeros.

===============================  =========  =========  ==================
product                          a          b          out
===============================  =========  =========  ==================
``conv``, ``conv_input``         batch      the same   batch
``conv_weight``                  batch      batch      sum over the batch
``matmul`` of several groups     groups     groups     groups
``matmul``, one group            rows       the same   rows
the same, a transposed           axis of K  axis of K  sum over K
the same, both transposed        the same   the same   the same
===============================  =========  =========  ==================

A sum over the batch is one sum for all blocks: modulo p, where their reductions are together no
longer than one may be, so that each is cut into parts of a share of that; and where one image is
too large for it, of integers, once each block's parts were put together and checked: those are as
small as (p - 1) / 2 by themselves, so that 64 bits hold their sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from svetovid.offload.product import Product

__all__ = ["Blocks", "blocks_of"]

Axes = tuple[int | None, int | None, int | None]


@dataclass(frozen=True)
class Blocks:
    """How a product is made of products of blocks.

    Attributes:
        product: of one block.
        parts: in how many parts its reduction is answered.
        cut: whether a is, and b.
        results: the blocks whose products are summed up modulo p, for each of the results.
        join: what becomes of several: they lie one after the other, or are added as integers.
    """

    product: Product
    parts: int
    cut: tuple[bool, bool]
    results: tuple[tuple[int, ...], ...] = ((0,),)
    join: Literal["rows", "sum"] = "rows"


def blocks_of(product: Product, count: int, longest: int) -> Blocks:
    """Cut a product into so many.

    Args:
        longest: most products of operands whose sum cannot wrap.

    Raises:
        InputError: ``offload.shape``: see :meth:`svetovid.offload.product.Product.parts`.
    """
    a, b, out = axes = _axes(product) if count > 1 else (None, None, None)
    block = _cut(product, axes, count)
    cut = (a is not None, b is not None)
    if a is None:
        return Blocks(block, len(block.parts(longest)), cut)
    if out is None and block.least <= longest // count:
        parts = len(block.parts(longest // count))
        return Blocks(block, parts, cut, (tuple(range(count)),))
    each = tuple((k,) for k in range(count))
    return Blocks(block, len(block.parts(longest)), cut, each, "sum" if out is None else "rows")


def _axes(product: Product) -> Axes:
    """Along which axis of a, of b and of the result the batch runs."""
    if product.kind == "conv_weight":
        return 0, 0, None
    if product.kind != "matmul":
        return 0, None, 0
    if product.out[0] > 1:
        return 0, 0, 0
    if product.transpose[0]:
        return (None, None, None) if product.transpose[1] else (1, 1, None)
    return 1, None, 1


def _cut(product: Product, axes: Axes, count: int) -> Product:
    if axes == (None, None, None):
        return product
    shapes = [list(shape) for shape in (product.a, product.b, product.out)]
    for shape, axis in zip(shapes, axes, strict=True):
        if axis is not None:
            shape[axis] = -(-shape[axis] // count)
    a, b, out = (tuple(shape) for shape in shapes)
    return replace(product, a=a, b=b, out=out)
