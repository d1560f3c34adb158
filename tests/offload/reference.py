"""The four bilinear maps by definition, in whole numbers, one position of a window at a time.

Shares no line with what it is held against. ``dtype=object`` computes with Python's integers, so
that nothing can wrap.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from svetovid.offload.product import Product

Array = np.ndarray[Any, np.dtype[Any]]


def product_of(product: Product, a: npt.ArrayLike, b: npt.ArrayLike, dtype: Any = object) -> Array:
    """``product(a, b)`` over the integers.

    Args:
        a, b: whole numbers, in the product's shapes or flat.
        dtype: ``object``, or ``np.int64`` where the caller knows that no sum is larger.
    """
    left = np.asarray(a).astype(dtype).reshape(product.a)
    right = np.asarray(b).astype(dtype).reshape(product.b)
    out = np.zeros(product.out, dtype=dtype)
    if product.kind == "matmul":
        if product.transpose[0]:
            left = left.swapaxes(1, 2)
        if product.transpose[1]:
            right = right.swapaxes(1, 2)
        for g in range(len(out)):
            out[g] = left[g].dot(right[g])
        return out
    outputs, inputs = product.w[0] // product.groups, product.w[1]
    for g, tap in itertools.product(range(product.groups), np.ndindex(tuple(product.w[2:]))):
        to, of = slice(g * outputs, (g + 1) * outputs), slice(g * inputs, (g + 1) * inputs)
        for y_at in np.ndindex(tuple(product.y[2:])):
            x_at = tuple(
                y * s - pad + t * d
                for y, s, pad, t, d in zip(
                    y_at, product.stride, product.padding, tap, product.dilation, strict=True
                )
            )
            if not all(0 <= v < size for v, size in zip(x_at, product.x[2:], strict=True)):
                continue
            x, w, y = (slice(None), of, *x_at), (to, slice(None), *tap), (slice(None), to, *y_at)
            if product.kind == "conv":
                out[y] += left[x].dot(right[w].T)
            elif product.kind == "conv_input":
                out[x] += left[y].dot(right[w])
            else:
                out[w] += right[y].T.dot(left[x])
    return out


def terms_of(product: Product) -> int:
    """Most products that a number of the result sums up: products of ones are counted."""
    ones = np.ones(product.a, dtype=np.int64), np.ones(product.b, dtype=np.int64)
    return int(product_of(product, *ones, dtype=np.int64).max())
