"""The guarantee card of masked mode: what it hides, from whom, computed from what is set up.

Nothing of it is typed by hand: the collusion bound comes from the scheme's own numbers and from who
runs which worker, the error of the checks from the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

from svetovid.offload.field import Field
from svetovid.offload.freivalds import ERROR, repeats
from svetovid.offload.protocols.scheme import Scheme

__all__ = ["GuaranteeCard", "Seat", "card"]


@dataclass(frozen=True)
class Seat:
    """One worker's place.

    Attributes:
        operator: who runs it (T17). Bounds count operators, never workers or addresses.
        link: ``memory`` on one machine, ``tls`` between two, ``open`` where others can read it.
    """

    identity: str
    operator: str
    link: str


@dataclass(frozen=True)
class GuaranteeCard:
    """What holds, against whom, and what does not.

    Attributes:
        hidden: what no worker learns anything of, as long as the bound holds.
        collusion_bound: so many operators together still learn nothing; -1: whoever reads the open
            links alone learns it all.
        integrity_bits: a wrong product passes with probability 2^-bits at most; 0: unchecked.
        sees: worker to what it sees.
        leaks: what is not hidden from workers.
        assumptions: what all of it rests on.
        attacks: known ones, and what they come to here.
    """

    mode: str
    protocol: str
    prime: int
    hidden: tuple[str, ...]
    collusion_bound: int
    integrity_bits: int
    sees: dict[str, str]
    leaks: tuple[str, ...]
    assumptions: tuple[str, ...]
    attacks: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def bound(scheme: Scheme, seats: Sequence[Seat], field: Field) -> int:
    """How many operators may collude; see :attr:`GuaranteeCard.collusion_bound`."""
    readable = {i for i, seat in enumerate(seats) if seat.link == "open"}
    operators = sorted({seat.operator for seat in seats})
    for size in range(len(operators) + 1):
        for together in combinations(operators, size):
            held = readable | {i for i, seat in enumerate(seats) if seat.operator in together}
            if not scheme.hides(held, field.p):
                return size - 1
    return len(operators)


def card(
    scheme: Scheme, seats: Sequence[Seat], field: Field, *, checked: bool, trusted: str
) -> GuaranteeCard:
    """Compute the card.

    Args:
        seats: one for each worker of the scheme, in order.
        checked: whether every product is checked.
        trusted: what the trusted side runs in, for example ``simulated TEE``.
    """
    together = bound(scheme, seats, field)
    bits = math.floor(repeats(field) * math.log2(field.p / 2)) if checked else 0
    assert not checked or 2.0**-bits <= ERROR
    operators = sorted({seat.operator for seat in seats})
    points = len(scheme.masks) + len(scheme.shares)
    none = together < 1
    return GuaranteeCard(
        mode="masked",
        protocol=scheme.name,
        prime=field.p,
        hidden=() if none else ("inputs", "weights", "activations", "gradients", "labels", "loss"),
        collusion_bound=together,
        integrity_bits=bits,
        sees={
            seat.identity: f"{len(worker.points)} of {points} points of each tensor"
            f", run by {seat.operator}, over {seat.link}"
            for seat, worker in zip(seats, scheme.workers, strict=True)
        },
        leaks=(
            "shapes of tensors, and so the layers' sizes and the batch size",
            "which products are asked for, in which order and how often: the number of steps",
            "how long the trusted side takes between two products",
        ),
        assumptions=(
            f"the trusted side, {trusted}, keeps its memory and keys to itself",
            f"no {together + 1} of the operators {', '.join(operators)} work together"
            if not none
            else "none that would help: one operator alone, or a reader of the links, sees all",
            "AES-256 in counter mode cannot be told from random numbers",
        ),
        attacks=(
            f"{together + 1} operators, or readers of as many links, learn every tensor"
            if not none
            else "whoever runs the workers learns every tensor",
            "a wrong answer ends the step and is seen with all but 2^-"
            f"{bits}; answering never is a denial of service"
            if checked
            else "wrong answers go unnoticed: nothing is checked",
            "a host that reads the trusted side's memory learns everything",
            "the trained model still says what it learned: its outputs are not masked",
        ),
    )
