"""Convolutions as windows that slide over a tensor: what to read for every number of a result."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from svetovid.offload.product import Product

__all__ = ["Phase", "Window", "forward", "input_phases", "padded", "slid"]


@dataclass(frozen=True)
class Window:
    """Along one axis, output ``m`` reads at ``start + m * step + t * spread`` for every tap ``t``;
    zeros outside.

    Attributes:
        outputs, taps: how many of each.
    """

    start: int
    step: int
    spread: int
    outputs: int
    taps: int

    @property
    def last(self) -> int:
        return self.start + (self.outputs - 1) * self.step + (self.taps - 1) * self.spread


@dataclass(frozen=True)
class Phase:
    """Positions of dx that the same taps of the weight reach.

    Attributes:
        target: of dx, along each axis.
        taps: of the weight, along each axis, in the order in which the windows read dy.
        windows: over dy.
    """

    target: tuple[slice, ...]
    taps: tuple[list[int], ...]
    windows: tuple[Window, ...]


def forward(product: Product) -> tuple[Window, ...]:
    """Over x, for y or for dw."""
    return tuple(
        Window(-product.padding[i], product.stride[i], product.dilation[i], y, k)
        for i, (y, k) in enumerate(zip(product.y[2:], product.w[2:], strict=True))
    )


def input_phases(product: Product) -> Iterator[Phase]:
    """How dx is made of dy: with a stride, not every tap reaches every position, and each phase of
    the stride is a convolution of its own. Positions that no tap reaches are in no phase."""
    axes = [list(_axis_phases(product, i)) for i in range(product.dims)]
    for chosen in itertools.product(*axes):
        target, taps, windows = zip(*chosen, strict=True)
        yield Phase(target, taps, windows)


def _axis_phases(product: Product, i: int) -> Iterator[tuple[slice, list[int], Window]]:
    stride, padding, dilation = product.stride[i], product.padding[i], product.dilation[i]
    size, kernel = product.x[2 + i], product.w[2 + i]
    # x[r + stride m] was read by y[j] at tap t where j stride - padding + t dilation is that.
    taps: dict[int, list[int]] = {}
    for t in reversed(range(kernel)):
        taps.setdefault((t * dilation - padding) % stride, []).append(t)
    for r in sorted(r for r in taps if r < size):
        reads = [(r + padding - t * dilation) // stride for t in taps[r]]
        spread = reads[1] - reads[0] if len(reads) > 1 else 1
        outputs = len(range(r, size, stride))
        yield slice(r, None, stride), taps[r], Window(reads[0], 1, spread, outputs, len(reads))


def padded(x: Tensor, windows: tuple[Window, ...]) -> tuple[Tensor, tuple[Window, ...]]:
    """``[N, *S, C]`` with zeros around it, and the same windows with all that they read inside."""
    dims = len(windows)
    before = [max(0, -w.start) for w in windows]
    sizes = [
        max(size, w.last + 1) + b
        for w, b, size in zip(windows, before, x.shape[1 : 1 + dims], strict=True)
    ]
    whole = x.new_zeros(x.shape[0], *sizes, *x.shape[1 + dims :])
    inside = tuple(slice(b, b + n) for b, n in zip(before, x.shape[1 : 1 + dims], strict=True))
    whole[(slice(None), *inside)] = x
    return whole, tuple(replace(w, start=w.start + b) for w, b in zip(windows, before, strict=True))


def slid(x: Tensor, windows: tuple[Window, ...]) -> Tensor:
    """What windows read that stay inside, not copied: ``[N, *S, ...]`` as ``[N, *S', *k, ...]``."""
    dims = len(windows)
    strides = x.stride()[1 : 1 + dims]
    first = sum(w.start * s for w, s in zip(windows, strides, strict=True))
    moves = [w.step * s for w, s in zip(windows, strides, strict=True)]
    spreads = [w.spread * s for w, s in zip(windows, strides, strict=True)]
    counts = [w.outputs for w in windows] + [w.taps for w in windows]
    return x.as_strided(
        (x.shape[0], *counts, *x.shape[1 + dims :]),
        (x.stride(0), *moves, *spreads, *x.stride()[1 + dims :]),
        x.storage_offset() + first,
    )
