"""What a worker is asked to multiply: four bilinear maps, from which every layer is made.

=============  ====================  =====================  =====================
kind           a                     b                      out
=============  ====================  =====================  =====================
``matmul``     ``[G, M, K]`` ¹       ``[G, K, N]`` ¹        ``[G, M, N]``
``conv``       x ``[N, C, *S]``      w ``[O, C/g, *k]``     y ``[N, O, *S']``
``conv_input``  dy ``[N, O, *S']``   w ``[O, C/g, *k]``     dx ``[N, C, *S]``
``conv_weight``  x ``[N, C, *S]``    dy ``[N, O, *S']``     dw ``[O, C/g, *k]``
=============  ====================  =====================  =====================

¹ the last two axes the other way round where ``transpose`` says so. Padding is with zeros.
A transposed convolution is ``conv_input`` forward, ``conv`` for its input's gradient and
``conv_weight`` with its operands exchanged for its weight's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from svetovid.errors import InputError

__all__ = ["Kind", "Product"]

_MOST_PIECES = 1 << 14
"""Each costs some milliseconds, however small it is."""

Kind = Literal["matmul", "conv", "conv_input", "conv_weight"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """One bilinear map, with all shapes.

    Attributes:
        a, b, out: shapes; see the table above.
        transpose: of ``matmul``, which of a and b have their last two axes exchanged.
        stride, padding, dilation: of convolutions, one number for each of 1 to 3 spatial axes.
        groups: of convolutions.

    Raises:
        InputError: ``offload.shape``: the shapes do not fit one another, or make too many pieces.
    """

    kind: Kind
    a: Shape
    b: Shape
    out: Shape
    transpose: tuple[bool, bool] = (False, False)
    stride: Shape = ()
    padding: Shape = ()
    dilation: Shape = ()
    groups: int = 1

    def __post_init__(self) -> None:
        if self.kind == "matmul":
            self._require(self._matmul_fits())
        else:
            self._require(self._conv_fits())
        if self.pieces > _MOST_PIECES:
            raise InputError(
                "offload.shape",
                expected=f"a product of at most {_MOST_PIECES:,} products of matrices",
                observed=f"{self.pieces:,} in {self.kind} of {self.a} and {self.b}",
                next_step="keep this layer inside, or make the batch smaller",
            )

    def _require(self, fits: bool) -> None:
        if not fits:
            raise InputError(
                "offload.shape",
                expected="shapes that fit one another",
                observed=repr(self),
                next_step="say which layer this came from: a layer makes no such product",
            )

    def _matmul_fits(self) -> bool:
        shapes = (self.a, self.b, self.out)
        if any(len(s) != 3 or min(s) < 1 for s in shapes):
            return False
        (m, ka), (kb, n) = self.a[1:], self.b[1:]
        if self.transpose[0]:
            m, ka = ka, m
        if self.transpose[1]:
            kb, n = n, kb
        return ka == kb and self.out[1:] == (m, n) and len({s[0] for s in shapes}) == 1

    @property
    def pieces(self) -> int:
        """Products of matrices that it is computed by, one after another."""
        if self.kind == "matmul":
            return self.out[0]
        if self.kind != "conv_input":
            return self.groups
        phases = map(min, self.stride, self.w[2:], self.x[2:])
        return self.groups * math.prod(phases)

    @property
    def canonical(self) -> Product:
        """The same map, with nothing in it that changes nothing: a stride where there is one
        position, or a dilation where there is one tap, would tell a worker whatever one likes."""
        if self.kind == "matmul":
            return self
        free = [
            x + 2 * pad - d * (k - 1)
            for x, k, pad, d in zip(
                self.x[2:], self.w[2:], self.padding, self.dilation, strict=True
            )
        ]
        return replace(
            self,
            stride=tuple(
                f if y == 1 else s for f, y, s in zip(free, self.y[2:], self.stride, strict=True)
            ),
            dilation=tuple(
                1 if k == 1 else d for k, d in zip(self.w[2:], self.dilation, strict=True)
            ),
        )

    @property
    def dims(self) -> int:
        """Spatial axes of a convolution."""
        return len(self.stride)

    @property
    def x(self) -> Shape:
        """Of a convolution, the shape of its input."""
        return {"conv": self.a, "conv_input": self.out, "conv_weight": self.a}[self.kind]

    @property
    def w(self) -> Shape:
        """Of a convolution, the shape of its weight."""
        return {"conv": self.b, "conv_input": self.b, "conv_weight": self.out}[self.kind]

    @property
    def y(self) -> Shape:
        """Of a convolution, the shape of what it puts out."""
        return {"conv": self.out, "conv_input": self.a, "conv_weight": self.b}[self.kind]

    def _conv_fits(self) -> bool:
        dims = self.dims
        each = (self.padding, self.dilation)
        if not 1 <= dims <= 3 or any(len(v) != dims for v in each) or self.groups < 1:
            return False
        if min(self.stride) < 1 or min(self.dilation) < 1 or min(self.padding) < 0:
            return False
        x, w, y = self.x, self.w, self.y
        if any(len(s) != dims + 2 or min(s) < 1 for s in (x, w, y)):
            return False
        if x[0] != y[0] or y[1] != w[0] or x[1] != w[1] * self.groups or w[0] % self.groups:
            return False
        return y[2:] == tuple(
            (x[2 + i] + 2 * self.padding[i] - self.dilation[i] * (w[2 + i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in range(dims)
        )

    @property
    def reduction(self) -> int:
        """Most products that any number of the result may sum up: those with padding are counted,
        and those with taps that a stride leaves out."""
        return self._axis * self.least

    @property
    def _axis(self) -> int:
        """Extent of the axis along which a reduction is split into parts."""
        if self.kind == "matmul":
            return self.a[1] if self.transpose[0] else self.a[2]
        if self.kind == "conv_weight":
            return self.x[0]
        return self.w[1] if self.kind == "conv" else self.w[0] // self.groups

    @property
    def least(self) -> int:
        """Products that a part of the reduction sums up at least: the axes that are not split."""
        if self.kind == "matmul":
            return 1
        return math.prod(self.y[2:] if self.kind == "conv_weight" else self.w[2:])

    def parts(self, longest: int) -> list[tuple[int, int]]:
        """Ranges of an axis, in order, so that no part of the reduction is longer than ``longest``.

        The axis is that of K, of the channels that a group sums over (``conv``: those of x;
        ``conv_input``: those of dy), or of the batch (``conv_weight``). It follows from shapes
        alone: how a product is split tells a worker nothing else.

        Raises:
            InputError: ``offload.shape``: one step along that axis is longer already.
        """
        size = longest // self.least
        if size < 1:
            raise InputError(
                "offload.shape",
                expected=f"at most {longest:,} products along the axes that are not split",
                observed=f"{self.least:,} in {self.kind} of {self.a} and {self.b}",
                next_step="keep this layer inside, or make its images smaller",
            )
        return self.split(-(-self._axis // size))

    def split(self, parts: int) -> list[tuple[int, int]]:
        """The same by number: of all ways to make so many parts, the one whose longest is shortest.

        Raises:
            InputError: ``offload.shape``: no length makes so many parts.
        """
        size = -(-self._axis // max(parts, 1))
        ranges = [(i, min(i + size, self._axis)) for i in range(0, self._axis, size)]
        if len(ranges) != parts:
            raise InputError(
                "offload.shape",
                expected=f"as many parts as an axis of {self._axis:,} can be cut into",
                observed=f"{parts:,} parts",
                next_step="ask for the number of parts that Product.parts gives",
            )
        return ranges

    @property
    def macs(self) -> int:
        """Multiplications, those with padding counted."""
        if self.kind == "matmul":
            return math.prod(self.out) * self._axis
        return math.prod(self.y) * self.w[1] * math.prod(self.w[2:])
