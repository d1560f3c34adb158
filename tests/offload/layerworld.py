"""A layer beside its masked form: on whole numbers, where quantising changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from svetovid.crypto import Secret
from svetovid.offload.plain import PlainMultiplier, PlainOperand
from svetovid.offload.product import Product
from svetovid.offload.protecting import protect


class Watched(PlainMultiplier):
    """The plain simulator, which keeps what it was asked."""

    def __init__(self, run: str = "run", step: int | None = 0) -> None:
        super().__init__(run, Secret(bytes(32)))
        self.operands: dict[str, PlainOperand] = {}
        self.asked: list[tuple[str, str, Product]] = []
        if step is not None:
            self.begin(step)

    def operand(self, name: str, value: torch.Tensor) -> PlainOperand:
        self.operands[name] = super().operand(name, value)
        return self.operands[name]

    def multiply(self, product: Product, a: PlainOperand, b: PlainOperand) -> torch.Tensor:
        names = {id(operand): name for name, operand in self.operands.items()}
        self.asked.append((names[id(a)], names[id(b)], product))
        flat = super().multiply(product, a, b).reshape(-1)
        return flat.view(product.out)  # as one that fills memory of its own

    def dequantised(self, name: str) -> torch.Tensor:
        """float64, of the shape that was handed over."""
        held = self.operands[name]
        return torch.from_numpy(held.integers.copy()).double() * 2.0**-held.shift


def whole(shape: Sequence[int], generator: torch.Generator, size: int = 9) -> torch.Tensor:
    """Whole numbers, which stay what they are when they are quantised."""
    return torch.randint(-size, size + 1, tuple(shape), generator=generator).float()


def make_whole(layer: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(parameter.shape, generator))


def assert_same(
    layer: nn.Module, inputs: Sequence[torch.Tensor], generator: torch.Generator, **kwargs: object
) -> Watched:
    """Forward and all gradients of a layer equal those of its masked form, to the last bit.

    Args:
        layer: plain, float32.
        inputs: whole numbers.
        generator: draws the weights and the gradient.
        kwargs: for the layer.
    """
    make_whole(layer, generator)
    exact = copy.deepcopy(layer).double()
    multiplier = Watched()
    masked = protect(copy.deepcopy(layer), multiplier)
    assert type(masked) is not type(layer)
    ins = [x.detach().requires_grad_() for x in inputs]
    expected_ins = [x.double().detach().requires_grad_() for x in inputs]
    y, expected = masked(*ins, **kwargs), exact(*expected_ins, **kwargs)
    assert y.dtype == torch.float32
    assert y.shape == expected.shape
    assert (y.double() == expected).all()
    dy = whole(y.shape, generator)
    y.backward(dy)
    expected.backward(dy.double())
    for x, other in zip(ins, expected_ins, strict=True):
        assert x.grad is not None
        assert other.grad is not None
        assert (x.grad.double() == other.grad).all()
    for parameter, other in zip(masked.parameters(), exact.parameters(), strict=True):
        assert parameter.grad is not None
        assert other.grad is not None
        assert parameter.grad.shape == parameter.shape
        assert (parameter.grad.double() == other.grad).all()
    return multiplier
