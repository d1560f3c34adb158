"""Transposed convolutions of 1 to 3 spatial axes: the maps of a convolution, each in another's
place, with the weight's first two axes as PyTorch has them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.conv import _ConvTransposeNd

from svetovid.offload.layers.bilinear import Maps, bilinear
from svetovid.offload.layers.registry import masks
from svetovid.offload.layers.seam import Masked
from svetovid.offload.product import Product

__all__ = ["MaskedConvTranspose1d", "MaskedConvTranspose2d", "MaskedConvTranspose3d"]


def _maps(x: tuple[int, ...], layer: _ConvTransposeNd, beyond: tuple[int, ...]) -> Maps:
    w = tuple(layer.weight.shape)
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": layer.groups}
    spatial = (
        (x[i + 2] - 1) * stride[i]
        - 2 * int(padding[i])
        + dilation[i] * (w[i + 2] - 1)
        + beyond[i]
        + 1
        for i in range(len(stride))
    )
    y = (x[0], w[1] * layer.groups, *spatial)
    return Maps(
        Product("conv_input", x, w, y, **how),  # type: ignore[arg-type]
        Product("conv", y, w, x, **how),  # type: ignore[arg-type]
        Product("conv_weight", y, x, w, **how),  # type: ignore[arg-type]
        turned=True,
    )


class _MaskedConvTranspose(Masked, _ConvTransposeNd):
    def forward(
        self,
        input: torch.Tensor,  # noqa: A002
        output_size: list[int] | None = None,
    ) -> torch.Tensor:
        dims = len(self.stride)
        beyond = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            dims,
            self.dilation,  # type: ignore[arg-type]
        )
        single = input.dim() == dims + 1
        x = input.unsqueeze(0) if single else input
        # PyTorch lets the output go on for more than a stride where the kernel is dilated. A
        # convolution would have another input there: one that is zero.
        steps = [b // s for b, s in zip(beyond, self.stride, strict=True)]
        if any(steps):
            x = F.pad(x, [n for step in reversed(steps) for n in (0, step)])
        beyond = [b % s for b, s in zip(beyond, self.stride, strict=True)]
        maps = _maps(tuple(x.shape), self, tuple(beyond))
        y = bilinear(self.call(), maps, x, self.weight, self.bias)
        return y.squeeze(0) if single else y


@masks(nn.ConvTranspose1d)
class MaskedConvTranspose1d(_MaskedConvTranspose, nn.ConvTranspose1d):
    """See :class:`torch.nn.ConvTranspose1d`."""


@masks(nn.ConvTranspose2d)
class MaskedConvTranspose2d(_MaskedConvTranspose, nn.ConvTranspose2d):
    """See :class:`torch.nn.ConvTranspose2d`."""


@masks(nn.ConvTranspose3d)
class MaskedConvTranspose3d(_MaskedConvTranspose, nn.ConvTranspose3d):
    """See :class:`torch.nn.ConvTranspose3d`."""
