"""Linear layers of any leading axes."""

from __future__ import annotations

import math

import torch
from torch import nn

from svetovid.offload.layers.bilinear import Maps, bilinear
from svetovid.offload.layers.registry import masks
from svetovid.offload.layers.seam import Call, Masked
from svetovid.offload.product import Product

__all__ = ["MaskedLinear", "by_rows", "linear"]


def by_rows(groups: int, rows: int, inner: int, outer: int) -> Maps:
    """``x @ w.T`` for each of some groups: x ``[G, rows, inner]``, w ``[G, outer, inner]``."""
    x, w, y = (groups, rows, inner), (groups, outer, inner), (groups, rows, outer)
    return Maps(
        Product("matmul", x, w, y, transpose=(False, True)),
        Product("matmul", y, w, x),
        Product("matmul", y, x, w, transpose=(True, False)),
        turned=True,
        axis=2,
    )


def linear(
    call: Call, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """:func:`torch.nn.functional.linear`: x ``[..., I]``, w ``[O, I]`` to ``[..., O]``.

    Args:
        call: of the layer.
        x, w: see above.
        bias: ``[O]``.
    """
    outer, inner = w.shape
    maps = by_rows(1, math.prod(x.shape[:-1]), inner, outer)
    return bilinear(call, maps, x, w, bias).reshape(*x.shape[:-1], outer)


@masks(nn.Linear)
class MaskedLinear(Masked, nn.Linear):
    """See :class:`torch.nn.Linear`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return linear(self.call(), input, self.weight, self.bias)
