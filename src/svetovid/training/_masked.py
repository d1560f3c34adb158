"""Masked mode inside a sandbox: the host masks tensors, has them multiplied, checks the answers.

A tensor lies in memory that both sides see, one at a time. Operands are numbers, counted from 0 in
the order in which a step makes them; masks, shares and workers have no name here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from svetovid.errors import InputError, RefusalError
from svetovid.training._state import random_state, set_random_state

if TYPE_CHECKING:
    import torch

    from svetovid.offload.product import Product

__all__ = ["Again", "HostMultiplier", "HostOperand", "StepMultiplier", "run_step"]

T = TypeVar("T")


class Again(BaseException):
    """A worker failed and was replaced: the step is to be done once more.

    No ``Exception``: a script that catches its own errors must not catch this.
    """


class StepMultiplier(Protocol):
    """A :class:`svetovid.offload.multiplier.Multiplier` that numbers its steps.

    Attributes:
        steps: how many have begun; a checkpoint keeps it, so that a run that goes on has the
            roundings that it would have had.
    """

    steps: int

    def start(self) -> None:
        """Begin the next step, or the same one again."""
        ...

    def finish(self) -> None:
        """End it."""
        ...


@dataclass(frozen=True, eq=False)
class HostOperand:
    """A tensor that the host holds for this step."""

    shape: tuple[int, ...]
    number: int
    begun: int


class HostMultiplier:
    """A :class:`svetovid.offload.multiplier.Multiplier` whose other half is the host.

    Args:
        ask: sends a message of this type with these members; the type of the answer.
        memory: that the host reads operands from and writes products to.
    """

    def __init__(self, ask: Callable[..., str], memory: memoryview) -> None:
        import torch

        self._ask = ask
        self._room = torch.frombuffer(memory, dtype=torch.float32)
        self._under_way = self._again = False
        self._names: set[str] = set()
        self._begun = 0
        self.steps = 0

    @property
    def begun(self) -> int:
        """How many steps have begun, those that were done again counted."""
        return self._begun

    def _tell(self, type_: str, **members: object) -> None:
        self._again = self._ask(type_, **members) == "again"
        if self._again:
            raise Again

    def start(self) -> None:
        """Begin the next step, or the same one after :class:`Again`."""
        self._begun += 1
        self.steps += not self._again
        self._names.clear()
        self._under_way = True
        self._tell("begin", step=self.steps - 1)

    def finish(self) -> None:
        """End the step; its operands are void."""
        self._under_way = False
        self._tell("end")

    def operand(self, name: str, value: torch.Tensor) -> HostOperand:
        """See :meth:`svetovid.offload.multiplier.Multiplier.operand`.

        Raises:
            InputError: ``offload.room``: it is larger than the memory that the host gave.
            RefusalError: ``offload.reuse``, ``offload.step``.
        """
        self._in_step(self._begun)
        if name in self._names:
            raise RefusalError(
                "offload.reuse",
                expected="a name that was not used in this step",
                observed=name,
                next_step="call backward once a forward pass, and give layers names of their own",
            )
        self._fits(value.numel(), name)
        number = len(self._names)
        self._names.add(name)
        self._room[: value.numel()].view(value.shape).copy_(value.detach())
        self._tell("operand", count=value.numel())
        return HostOperand(tuple(value.shape), number, self._begun)

    def ask(self, product: Product, a: HostOperand, b: HostOperand) -> Callable[[], torch.Tensor]:
        """See :meth:`svetovid.offload.multiplier.Multiplier.ask`: computed when it is taken."""
        return lambda: self.multiply(product, a, b)

    def multiply(self, product: Product, a: HostOperand, b: HostOperand) -> torch.Tensor:
        """See :meth:`svetovid.offload.multiplier.Multiplier.multiply`; raises as :meth:`operand`,
        where the product is larger."""
        self._in_step(a.begun, b.begun)
        size = math.prod(product.out)
        self._fits(size, product.kind)
        self._tell("multiply", a=a.number, b=b.number, product=dict(vars(product)))
        return self._room[:size].clone().view(product.out)

    def _in_step(self, *begun: int) -> None:
        if not self._under_way or set(begun) != {self._begun}:
            raise RefusalError(
                "offload.step",
                expected="a step under way, and its own operands",
                observed="none, or those of another",
                next_step="do forward and backward of a step in what svetovid.training.step calls",
            )

    def _fits(self, count: int, what: str) -> None:
        if not 0 < count <= len(self._room):
            raise InputError(
                "offload.room",
                expected=f"1 to {len(self._room):,} numbers for {what}",
                observed=f"{count:,}",
                next_step="make the batch smaller, or agree on more limits.memory_mib: one tensor "
                "has a quarter of it",
            )


def run_step(multiplier: StepMultiplier, body: Callable[[], T], model: torch.nn.Module) -> T:
    """Do one step, as often as it takes; buffers, gradients and random numbers are put back before
    it is done again."""
    import torch

    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    gradients = [(p, _copied(p.grad)) for p in model.parameters()]
    chance = random_state()
    while True:
        try:
            multiplier.start()
            done = body()
            multiplier.finish()
        except Again:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for parameter, gradient in gradients:
                parameter.grad = _copied(gradient)
            set_random_state(chance)
        else:
            return done


def _copied(gradient: Any) -> Any:
    return None if gradient is None else gradient.detach().clone()
