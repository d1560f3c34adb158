"""Products of two tensors that are computed, as a layer that a model can have by name."""

from __future__ import annotations

import math

import torch
from torch import nn

from svetovid.offload.layers.bilinear import Maps, bilinear
from svetovid.offload.layers.registry import masks
from svetovid.offload.layers.seam import Call, Masked
from svetovid.offload.product import Product

__all__ = ["MaskedMatmul", "Matmul", "matmul"]


def matmul(
    call: Call, a: torch.Tensor, b: torch.Tensor, names: tuple[str, str, str] = ("a", "b", "dy")
) -> torch.Tensor:
    """:func:`torch.matmul`: a ``[..., M, K]`` and b ``[..., K, N]`` to ``[..., M, N]``; leading
    axes are broadcast, and a vector is one row of a or one column of b.

    Args:
        call: of the layer.
        a, b: see above.
        names: of a, b and the gradient, unlike others of this call.
    """
    if a.dim() == 1:
        return matmul(call, a.unsqueeze(0), b, names).squeeze(-2 if b.dim() > 1 else 0)
    if b.dim() == 1:
        return matmul(call, a, b.unsqueeze(1), names).squeeze(-1)
    if b.dim() == 2:  # all of a's rows at once
        lead, groups, rows = a.shape[:-2], 1, math.prod(a.shape[:-1])
    else:
        lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
        a, b = a.expand(*lead, *a.shape[-2:]), b.expand(*lead, *b.shape[-2:])
        groups, rows = math.prod(lead), a.shape[-2]
    left, right = (groups, rows, a.shape[-1]), (groups, *b.shape[-2:])
    y = (groups, rows, b.shape[-1])
    maps = Maps(
        Product("matmul", left, right, y),
        Product("matmul", y, right, left, transpose=(False, True)),
        Product("matmul", left, y, right, transpose=(True, False)),
        names=names,
    )
    return bilinear(call, maps, a, b).reshape(*lead, a.shape[-2], b.shape[-1])


class Matmul(nn.Module):
    """:func:`torch.matmul` of two tensors, as a layer: so that a plan can name it."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """a ``[..., M, K]`` and b ``[..., K, N]`` to ``[..., M, N]``."""
        return torch.matmul(a, b)


@masks(Matmul)
class MaskedMatmul(Masked, Matmul):
    """See :class:`Matmul`."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """a ``[..., M, K]`` and b ``[..., K, N]`` to ``[..., M, N]``."""
        return matmul(self.call(), a, b)
