"""Every kind of product brought down to matrix products of limbs.

Convolutions gather what their windows read, some images at a time, so that the gathered numbers
take at most :data:`GATHERED` bytes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svetovid.offload.limbs import Scheme
from svetovid.offload.product import Product
from svetovid.offload.windows import Window, forward, input_phases, padded, slid

__all__ = ["GATHERED", "compute"]

GATHERED = 2**28
"""Bytes of limbs that are gathered for one matrix product at the most, or one image's."""
_ROWS = 4096
"""Rows of a matrix product that are gathered at a time where each makes rows of the result: enough
that the other factor is not fetched too often."""


def compute(
    by: Scheme, product: Product, a: Tensor, b: Tensor, part: tuple[int, int], out: Tensor
) -> None:
    """One part of a product, into ``out``, int32 zeros of the product's shape.

    Args:
        a, b: int32 residues, of the product's shapes.
        part: a range of the axis that :meth:`Product.split` cuts.
    """
    form = {
        "matmul": _matmul,
        "conv": _conv,
        "conv_input": _conv_input,
        "conv_weight": _conv_weight,
    }[product.kind]
    form(by, product, a, b, *part, out)


def _cut(by: Scheme, residues: Tensor, *, right: bool) -> Tensor:
    """``[limbs, ...]``."""
    out = torch.empty(by.limbs, *residues.shape, dtype=by.dtype, device=residues.device)
    return by.cut(residues, out, right=right)


def _matmul(
    by: Scheme, product: Product, a: Tensor, b: Tensor, low: int, end: int, out: Tensor
) -> None:
    if product.transpose[0]:
        a = a.mT
    if product.transpose[1]:
        b = b.mT
    rows = max(1, GATHERED // (_row_bytes(by, end - low)))
    for left, right, result in zip(a, b, out, strict=True):
        limbs = _cut(by, right[low:end], right=True)
        for i in range(0, len(left), rows):
            cut = _cut(by, left[i : i + rows, low:end], right=False)
            result[i : i + rows] = by.product(cut.movedim(0, 1), limbs)


def _conv(
    by: Scheme, product: Product, x: Tensor, w: Tensor, low: int, end: int, y: Tensor
) -> None:
    weights = [
        _cut(by, group[:, low:end].movedim(0, -1), right=True)  # [limbs, C, *k, O]
        for group in w.chunk(product.groups)
    ]
    _slide(by, product, x, weights, forward(product), low, end, y)


def _conv_input(
    by: Scheme, product: Product, dy: Tensor, w: Tensor, low: int, end: int, dx: Tensor
) -> None:
    for phase in input_phases(product):
        weights = []
        for group in w.chunk(product.groups):
            chosen = group[low:end]
            for axis, taps in enumerate(phase.taps):
                chosen = chosen.index_select(2 + axis, torch.tensor(taps, device=w.device))
            weights.append(_cut(by, chosen.movedim(1, -1), right=True))  # [limbs, O, *k, C]
        where = (slice(None), slice(None), *phase.target)
        _slide(by, product, dy, weights, phase.windows, low, end, dx[where])


def _slide(
    by: Scheme,
    product: Product,
    x: Tensor,
    weights: list[Tensor],
    windows: tuple[Window, ...],
    low: int,
    end: int,
    out: Tensor,
) -> None:
    """Correlate channels ``low`` to ``end`` of each group of x with its weights."""
    each = x.shape[1] // product.groups
    width = weights[0].shape[-1]
    flat = [w.movedim(1, -2).reshape(by.limbs, -1, width) for w in weights]
    outputs = math.prod(w.outputs for w in windows)
    k = flat[0].shape[1]
    images = max(1, min(_ROWS, GATHERED // _row_bytes(by, k)) // outputs)
    for i in range(0, len(x), images):
        some = x[i : i + images]
        for g, weight in enumerate(flat):
            seen = _slid_limbs(by, some[:, g * each + low : g * each + end], windows, right=False)
            rows = seen.movedim(-2, 1 + len(windows)).reshape(-1, by.limbs, k)
            summed = by.product(rows, weight).view(len(some), *out.shape[2:], width)
            out[i : i + images, g * width : (g + 1) * width] = summed.movedim(-1, 1)


def _conv_weight(
    by: Scheme, product: Product, x: Tensor, dy: Tensor, low: int, end: int, dw: Tensor
) -> None:
    windows = forward(product)
    inputs, width = product.w[1], product.w[0] // product.groups
    k = inputs * math.prod(product.w[2:])
    images = max(1, GATHERED // (_row_bytes(by, k) * math.prod(product.y[2:])))
    total = torch.zeros(product.groups, width, k, dtype=torch.int64, device=x.device)
    for i in range(low, end, images):
        some, back = x[i : min(i + images, end)], dy[i : min(i + images, end)]
        for g in range(product.groups):
            seen = _slid_limbs(by, some[:, g * inputs : (g + 1) * inputs], windows, right=True)
            left = _cut(by, back[:, g * width : (g + 1) * width].movedim(1, 0), right=False)
            rows = left.movedim(0, 1).reshape(width, by.limbs, -1)
            total[g] += by.product(rows, seen.movedim(-2, 0).reshape(by.limbs, -1, k))
    shape = (product.w[0], *product.w[2:], inputs)
    dw.copy_((total % by.p).view(shape).movedim(-1, 1))


def _slid_limbs(by: Scheme, x: Tensor, windows: tuple[Window, ...], *, right: bool) -> Tensor:
    """``[N, C, *S]`` as what the windows read: ``[N, *S', *k, limbs, C]``, not copied."""
    # Numbers of one limb that one row of a window reads lie side by side, to be copied together.
    whole, inside = padded(x.movedim(1, -1), windows)
    shape = (whole.shape[0], by.limbs, *whole.shape[1:])
    limbs = torch.empty(shape, dtype=by.dtype, device=x.device)
    by.cut(whole, limbs.movedim(1, 0), right=right)
    return slid(limbs.movedim(1, -2), inside)


def _row_bytes(by: Scheme, k: int) -> int:
    return k * by.limbs * by.dtype.itemsize
