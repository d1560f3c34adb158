"""Every kind of product brought down to matrix products of limbs.

Convolutions gather what their windows read, some images at a time, so that the gathered numbers
take at most :data:`GATHERED` bytes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svetovid.offload import packed_limbs
from svetovid.offload.limbs import Scheme
from svetovid.offload.product import Product
from svetovid.offload.windows import Window, forward, input_phases, padded, slid

__all__ = ["GATHERED", "compute"]

GATHERED = 2**28
"""Bytes of limbs that are gathered for one matrix product at the most, or one image's."""
_ROWS = 4096
"""Rows of a matrix product that are gathered at a time where each makes rows of the result: enough
that the other factor is not fetched too often."""
_NARROW, _SMALL = 64, 2**22
"""Columns, and products of residues, up to which digits stay packed."""
_WIDER = 8
"""Bytes of a packed product for each byte of its factors."""


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
    narrow = _narrow(by, product.out[1], product.out[2], end - low)
    each = _row_bytes(by, end - low)
    if narrow:
        each = _WIDER * _row_bytes(by, end - low + product.out[2])
    rows = max(1, GATHERED // each)
    for left, right, result in zip(a, b, out, strict=True):
        factor = right[low:end] if narrow else _cut(by, right[low:end], right=True)
        for i in range(0, len(left), rows):
            some = left[i : i + rows, low:end]
            if narrow:
                packed = packed_limbs.packed(some, by.p)
                result[i : i + rows] = packed_limbs.rows(by.matmul, packed, factor, by.p)
            else:
                cut = _cut(by, some, right=False)
                result[i : i + rows] = by.product(cut.movedim(0, 1), factor)


def _conv(
    by: Scheme, product: Product, x: Tensor, w: Tensor, low: int, end: int, y: Tensor
) -> None:
    weights = [group[:, low:end].movedim(0, -1) for group in w.chunk(product.groups)]
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
            weights.append(chosen.movedim(1, -1))
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
    """Correlate channels ``low`` to ``end`` of each group of x with its weights, ``[C, *k, O]``."""
    each = x.shape[1] // product.groups
    width = weights[0].shape[-1]
    flat = [w.movedim(0, -2).reshape(-1, width) for w in weights]
    outputs = math.prod(w.outputs for w in windows)
    k = len(flat[0])
    narrow = _narrow(by, len(x) * outputs, width, k)
    factors = flat if narrow else [_cut(by, w, right=True) for w in flat]
    images = max(1, min(_ROWS, GATHERED // _row_bytes(by, k)) // outputs)
    if narrow:
        images = max(1, GATHERED // (_WIDER * _row_bytes(by, k + width) * outputs))
    for i in range(0, len(x), images):
        some = x[i : i + images]
        for g, factor in enumerate(factors):
            channels = some[:, g * each + low : g * each + end]
            if narrow:
                rows = _slid_packed(by, channels, windows).reshape(-1, k)
                summed = packed_limbs.rows(by.matmul, rows, factor, by.p)
            else:
                seen = _slid_limbs(by, channels, windows, right=False)
                rows = seen.movedim(-2, 1 + len(windows)).reshape(-1, by.limbs, k)
                summed = by.product(rows, factor)
            shaped = summed.view(len(some), *out.shape[2:], width)
            out[i : i + images, g * width : (g + 1) * width] = shaped.movedim(-1, 1)


def _conv_weight(
    by: Scheme, product: Product, x: Tensor, dy: Tensor, low: int, end: int, dw: Tensor
) -> None:
    windows = forward(product)
    inputs, width = product.w[1], product.w[0] // product.groups
    k = inputs * math.prod(product.w[2:])
    images = max(1, GATHERED // (_row_bytes(by, k) * math.prod(product.y[2:])))
    total = torch.zeros(product.groups, width, k, dtype=torch.int64, device=x.device)
    packs = by.packs and width * k <= _SMALL // 16
    for i in range(low, end, images):
        some, back = x[i : min(i + images, end)], dy[i : min(i + images, end)]
        for g in range(product.groups):
            channels = some[:, g * inputs : (g + 1) * inputs]
            made = back[:, g * width : (g + 1) * width].movedim(1, 0)
            if packs:
                right = _slid_packed(by, channels, windows).reshape(-1, k)
                left = made.reshape(width, -1)
                total[g] += packed_limbs.columns(by.matmul, left, right, by.p)
            else:
                seen = _slid_limbs(by, channels, windows, right=True)
                rows = _cut(by, made, right=False).movedim(0, 1).reshape(width, by.limbs, -1)
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


def _slid_packed(by: Scheme, x: Tensor, windows: tuple[Window, ...]) -> Tensor:
    """``[N, C, *S]`` as what the windows read: ``[N, *S', *k, C]``, packed and not copied."""
    whole, inside = padded(x.movedim(1, -1), windows)
    return slid(packed_limbs.packed(whole, by.p), inside)


def _narrow(by: Scheme, m: int, n: int, k: int) -> bool:
    return by.packs and (n <= _NARROW or m * n * k <= _SMALL)


def _row_bytes(by: Scheme, k: int) -> int:
    return k * by.limbs * by.dtype.itemsize
