"""The plain 8-bit simulator: what every masked way must equal bit for bit.

Quantises with numpy, draws roundings with ``cryptography``'s AES and multiplies with PyTorch in
float64, in which sums of up to 2**39 products of two numbers in [-128, 128] are exact (2**53): more
than fit in memory. Nothing of it is masked, checked or native.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from svetovid.crypto import Secret
from svetovid.errors import InputError, RefusalError
from svetovid.offload.address import Rounding
from svetovid.offload.product import Product
from svetovid.offload.quantise import greatest, quantised, shift_of

__all__ = ["PlainMultiplier", "PlainOperand", "exact"]

Small = np.ndarray[tuple[int, ...], np.dtype[np.int16]]


@dataclass(frozen=True, eq=False)
class PlainOperand:
    """Integers that stand for a tensor: ``integers * 2**-shift``.

    Attributes:
        shape: of the tensor.
        integers: in [-128, 128].
        begun: the step that it belongs to, as :attr:`PlainMultiplier.begun` counts.
    """

    shape: tuple[int, ...]
    integers: Small
    shift: int
    begun: int


class PlainMultiplier:
    """A :class:`svetovid.offload.multiplier.Multiplier` that multiplies in this process.

    Args:
        run: names the run.
        master: key that roundings are derived from.
    """

    def __init__(self, run: str, master: Secret) -> None:
        self._run = run
        self._master = master
        self._step: int | None = None
        self._begun = 0
        self._names: set[str] = set()

    @property
    def begun(self) -> int:
        """How many steps have begun."""
        return self._begun

    def begin(self, step: int) -> None:
        """Begin a step, for the first time or again.

        Raises:
            RefusalError: ``offload.step``: another has not ended.
        """
        if self._step is not None:
            raise _no_step("no step under way", f"step {self._step}")
        self._step = step
        self._begun += 1

    def end(self) -> None:
        """End the step; its operands are void."""
        self._step = None
        self._names.clear()

    def operand(self, name: str, value: torch.Tensor) -> PlainOperand:
        """Quantise a tensor; see :class:`svetovid.offload.multiplier.Multiplier`."""
        if self._step is None:
            raise _no_step("a step under way", "none")
        if name in self._names:
            raise RefusalError(
                "offload.reuse",
                expected="a name that was not used in this step",
                observed=name,
                next_step="call backward once a forward pass, and give layers names of their own",
            )
        self._names.add(name)
        x = value.numpy(force=True)
        shift = shift_of(greatest(x))
        key = Rounding(self._run, self._step, name).key(self._master)
        return PlainOperand(tuple(value.shape), quantised(x, shift, key), shift, self._begun)

    def ask(self, product: Product, a: PlainOperand, b: PlainOperand) -> Callable[[], torch.Tensor]:
        """See :meth:`svetovid.offload.multiplier.Multiplier.ask`: computed when it is taken."""
        return lambda: self.multiply(product, a, b)

    def multiply(self, product: Product, a: PlainOperand, b: PlainOperand) -> torch.Tensor:
        """The product scaled back, rounded to float32 once."""
        if self._step is None or {a.begun, b.begun} != {self._begun}:
            raise _no_step("operands of the step under way", "operands of another")
        scale = 2.0 ** -(a.shift + b.shift)  # at most 242 in size: float64 holds all it scales
        # Of sums of zeros with signs as of others, there is one zero: integers have no other.
        return (exact(product, a.integers, b.integers) * scale + 0.0).to(torch.float32)


def _no_step(expected: str, observed: str) -> RefusalError:
    return RefusalError(
        "offload.step",
        expected=expected,
        observed=observed,
        next_step="put forward and backward of one step between its begin and its end",
    )


def exact(product: Product, a: Small, b: Small) -> torch.Tensor:
    """The product of integers in [-128, 128], exact: float64, ``product.out``.

    Raises:
        InputError: ``offload.shape``: one has not as many numbers as the product says.
    """
    for given, shape in ((a, product.a), (b, product.b)):
        if given.size != math.prod(shape):
            raise InputError(
                "offload.shape",
                expected=f"{math.prod(shape):,} numbers for {product.kind} of {shape}",
                observed=f"{given.size:,}",
                next_step="say which layer this came from: a layer asks for no such product",
            )
    left = torch.from_numpy(a.astype(np.float64).reshape(product.a))
    right = torch.from_numpy(b.astype(np.float64).reshape(product.b))
    if product.kind == "matmul":
        left = left.mT if product.transpose[0] else left
        right = right.mT if product.transpose[1] else right
        return left @ right
    return _convolution(product, left, right)


def _convolution(product: Product, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    how = (product.stride, product.padding, product.dilation)
    if product.kind == "conv":
        plain = (torch.conv1d, torch.conv2d, torch.conv3d)[product.dims - 1]
        return plain(a, b, None, *how, product.groups)
    # PyTorch wants the tensor of which it makes the gradient, and looks at its shape alone.
    x = a if product.kind == "conv_weight" else a.new_empty(()).expand(product.x)
    w = b if product.kind == "conv_input" else b.new_empty(()).expand(product.w)
    dy = a if product.kind == "conv_input" else b
    wanted = [product.kind == "conv_input", product.kind == "conv_weight", False]
    found: tuple[torch.Tensor, ...] = torch.ops.aten.convolution_backward(
        dy, x, w, None, *how, False, [0] * product.dims, product.groups, wanted
    )
    return found[0] if wanted[0] else found[1]
