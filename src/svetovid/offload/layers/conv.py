"""Convolutions of 1 to 3 spatial axes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.conv import _ConvNd

from svetovid.offload.layers.bilinear import Maps, bilinear
from svetovid.offload.layers.registry import masks
from svetovid.offload.layers.seam import Masked
from svetovid.offload.product import Product

__all__ = ["MaskedConv1d", "MaskedConv2d", "MaskedConv3d"]


def _maps(x: tuple[int, ...], layer: _ConvNd, padding: tuple[int, ...]) -> Maps:
    w = tuple(layer.weight.shape)
    how = {
        "stride": layer.stride,
        "padding": padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    spatial = (
        (size + 2 * pad - gap * (kernel - 1) - 1) // stride + 1
        for size, kernel, pad, gap, stride in zip(
            x[2:], w[2:], padding, layer.dilation, layer.stride, strict=True
        )
    )
    y = (x[0], w[0], *spatial)
    return Maps(
        Product("conv", x, w, y, **how),  # type: ignore[arg-type]
        Product("conv_input", y, w, x, **how),  # type: ignore[arg-type]
        Product("conv_weight", x, y, w, **how),  # type: ignore[arg-type]
    )


def _padded(layer: _ConvNd, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The tensor padded by what a product cannot do, and the padding with zeros that it can."""
    if layer.padding_mode != "zeros":
        around = layer._reversed_padding_repeated_twice
        return F.pad(x, around, layer.padding_mode), (0,) * len(layer.stride)
    if not isinstance(layer.padding, str):
        return x, layer.padding
    if layer.padding == "valid":
        return x, (0,) * len(layer.stride)
    extents = zip(layer.dilation, layer.weight.shape[2:], strict=True)
    totals = [gap * (kernel - 1) for gap, kernel in extents]
    rest = [n for total in reversed(totals) for n in (0, total % 2)]  # F.pad: last axis first
    return (F.pad(x, rest) if any(rest) else x), tuple(total // 2 for total in totals)


class _MaskedConv(Masked, _ConvNd):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        single = input.dim() == len(self.stride) + 1
        x, padding = _padded(self, input.unsqueeze(0) if single else input)
        maps = _maps(tuple(x.shape), self, padding)
        y = bilinear(self.call(), maps, x, self.weight, self.bias)
        return y.squeeze(0) if single else y


@masks(nn.Conv1d)
class MaskedConv1d(_MaskedConv, nn.Conv1d):
    """See :class:`torch.nn.Conv1d`."""


@masks(nn.Conv2d)
class MaskedConv2d(_MaskedConv, nn.Conv2d):
    """See :class:`torch.nn.Conv2d`."""


@masks(nn.Conv3d)
class MaskedConv3d(_MaskedConv, nn.Conv3d):
    """See :class:`torch.nn.Conv3d`."""
