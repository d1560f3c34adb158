"""What a layer asks for: tensors are made operands of a step, and operands are multiplied."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from svetovid.offload.product import Product

if TYPE_CHECKING:
    import torch

__all__ = ["Multiplier", "Operand"]


class Operand(Protocol):
    """A tensor that was quantised for this step. The same one serves forward and backward."""

    @property
    def shape(self) -> tuple[int, ...]: ...


OperandT = TypeVar("OperandT", bound=Operand)


class Multiplier(Protocol[OperandT]):
    """Products of quantised tensors, exact as integers, as float32: masked, or plain for tests."""

    @property
    def begun(self) -> int:
        """How many steps have begun, those that were done again counted.

        A layer that is used several times in a step numbers its calls; when this changes it begins
        anew, so that a step that is done again has the same names, and with them roundings.
        """
        ...

    def operand(self, name: str, value: torch.Tensor) -> OperandT:
        """Quantise a tensor for this step.

        Args:
            name: unlike every other of this step: the layer, ``#`` and a number from its second
                call on, ``/`` and which of its tensors, for example ``features.3#1/x``.
            value: float32, of any strides.

        Raises:
            InputError: ``offload.nonfinite``: it holds NaN or an infinity.
            RefusalError: ``offload.reuse``: the name was used in this step.
        """
        ...

    def multiply(self, product: Product, a: OperandT, b: OperandT) -> torch.Tensor:
        """The product of what the two were quantised to, scaled back: float32, ``product.out``.

        Operands are flat: one of as many numbers does where its shape is another.
        """
        ...

    def ask(self, product: Product, a: OperandT, b: OperandT) -> Callable[[], torch.Tensor]:
        """As :meth:`multiply`, but the product is what the returned function gives: it may be
        computed while others are asked for. Products are taken in the order they were asked in."""
        ...
