"""One bilinear map in PyTorch's autograd: three products, of three operands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch

from svetovid.errors import InputError
from svetovid.offload.layers.seam import Call
from svetovid.offload.multiplier import Operand
from svetovid.offload.product import Product

__all__ = ["Maps", "bilinear"]


@dataclass(frozen=True)
class Maps:
    """A bilinear map of a and b, and those that their gradients are.

    Attributes:
        forward: of a and b.
        grad_a: of dy and b.
        grad_b: of a and dy; of dy and a where ``turned`` says so.
        axis: of the result, which a bias runs along.
        names: of a, b and dy.
    """

    forward: Product
    grad_a: Product
    grad_b: Product
    turned: bool = False
    axis: int = 1
    names: tuple[str, str, str] = ("x", "w", "dy")


def bilinear(
    call: Call,
    maps: Maps,
    a: torch.Tensor,
    b: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """The map of two tensors, with gradients: each of the three products is asked for where
    somebody needs it, and a and b are quantised once for all of them.

    Args:
        call: of the layer.
        maps: the products.
        a, b: float32 on the processor, of any strides, with as many numbers as ``maps`` says.
        bias: float32 ``[maps.forward.out[maps.axis]]``, added inside.

    Returns:
        float32 ``maps.forward.out``.

    Raises:
        InputError: ``offload.dtype``, ``offload.shape``; in the backward pass ``offload.twice``.
    """
    for given, shape in ((a, maps.forward.a), (b, maps.forward.b)):
        if given.numel() != math.prod(shape):
            raise InputError(
                "offload.shape",
                expected=f"{math.prod(shape):,} numbers in {call.name}, as {shape}",
                observed=f"{given.numel():,}, as {tuple(given.shape)}",
                next_step="look at what is fed to this layer",
            )
    y = _Bilinear.apply(call, maps, a, b, bias)  # type: ignore[no-untyped-call]
    return cast(torch.Tensor, y)


def _operand(call: Call, name: str, value: torch.Tensor) -> Operand:
    full = call.operand(name)
    dense = value.layout == torch.strided and not value.is_nested
    if value.dtype != torch.float32 or value.device.type != "cpu" or not dense:
        raise InputError(
            "offload.dtype",
            expected=f"dense float32 on the processor for {full}",
            observed=f"{value.dtype} on {value.device}",
            next_step="use float32 outside of autocast; only masked numbers leave the processor",
        )
    found: Operand = call.multiplier.operand(full, value.detach())
    return found


class _Bilinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        maps: Maps,
        a: torch.Tensor,
        b: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        left = _operand(call, maps.names[0], a)
        right = _operand(call, maps.names[1], b)
        # Detached: autograd lets no layer after this one change a view in place.
        y = call.multiplier.multiply(maps.forward, left, right).detach()
        if bias is not None:
            others = y.dim() - maps.axis - 1
            y += bias.view(-1, *[1] * others)
        ctx.call, ctx.maps, ctx.shapes = call, maps, (a.shape, b.shape)
        ctx.operands = (left, right)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "offload.twice",
                expected=f"first derivatives of {ctx.call.name}",
                observed="a backward pass that is to be differentiated (create_graph=True)",
                next_step="keep layers inside that second derivatives are taken of",
            )
        maps, multiplier = ctx.maps, ctx.call.multiplier
        left, right = ctx.operands
        _, _, needs_a, needs_b, needs_bias = ctx.needs_input_grad
        da = db = None
        if needs_a or needs_b:
            gradient = _operand(ctx.call, maps.names[2], dy)
            pair = (gradient, left) if maps.turned else (left, gradient)
            # Both are asked for before one is taken: workers go on while it is checked.
            asked_a = multiplier.ask(maps.grad_a, gradient, right) if needs_a else None
            asked_b = multiplier.ask(maps.grad_b, *pair) if needs_b else None
            da = asked_a().reshape(ctx.shapes[0]) if asked_a else None
            db = asked_b().reshape(ctx.shapes[1]) if asked_b else None
        others = [i for i in range(dy.dim()) if i != maps.axis]
        return None, None, da, db, dy.sum(others) if needs_bias else None
