"""How a layer finds its multiplier, and the names that it gives to operands."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from svetovid.errors import InputError
from svetovid.offload.multiplier import Multiplier

__all__ = ["Around", "Call", "Masked", "Seam"]


class Seam:
    """What the protected layers of a model and of its deep copies share.

    A pickle of it is empty: a model that was loaded must be protected again.
    """

    def __init__(self, multiplier: Multiplier[Any] | None = None) -> None:
        self._multiplier = multiplier
        self._begun = -1
        self._calls: Counter[str] = Counter()

    def __deepcopy__(self, memo: object) -> Seam:
        return self

    def __reduce__(self) -> tuple[type[Seam], tuple[()]]:
        return Seam, ()

    def call(self, layer: str) -> Call:
        """One more use of a layer in this step.

        Raises:
            InputError: ``offload.unbound``, ``offload.checkpoint``.
        """
        if self._multiplier is None:
            raise InputError(
                "offload.unbound",
                expected=f"a multiplier for {layer}",
                observed="a model that was loaded",
                next_step="call svetovid.offload.protect(model, multiplier) again",
            )
        if torch._C._current_graph_task_id() != -1:
            raise InputError(
                "offload.checkpoint",
                expected=f"one forward pass of {layer}, before the backward pass",
                observed="a forward pass inside a backward pass: an activation checkpoint",
                next_step="leave protected layers out of activation checkpoints",
            )
        if self._begun != self._multiplier.begun:
            self._begun = self._multiplier.begun
            self._calls.clear()
        number = self._calls[layer]
        self._calls[layer] += 1
        return Call(self._multiplier, f"{layer}#{number}" if number else layer)


class Call:
    """One use of a layer in a step.

    Attributes:
        multiplier: multiplies for it.
        name: unlike that of every other use in the step.
    """

    def __init__(self, multiplier: Multiplier[Any], name: str, map_: str = "") -> None:
        self.multiplier = multiplier
        self.name = name
        self._map = map_

    def part(self, map_: str) -> Call:
        """For one of several maps of which a layer is made."""
        return Call(self.multiplier, self.name, f"{map_}.")

    def operand(self, which: str) -> str:
        """The name of an operand."""
        return f"{self.name}/{self._map}{which}"


if TYPE_CHECKING:
    _Base = nn.Module
else:
    _Base = object


class Masked(_Base):
    """A layer whose products are asked of a multiplier. Comes before the plain layer's class."""

    _seam: Seam
    _layer: str

    def call(self) -> Call:
        """To be asked for once in each forward pass."""
        return self._seam.call(self._layer)


class Around(Masked):
    """A module that, as it is, goes round the layers in it: replaced where one of those is."""
