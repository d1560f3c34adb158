"""The guarantee card of masked mode: what it hides, from whom, computed from what is set up.

Nothing of it is typed by hand: the collusion bound comes from the scheme's own numbers and from who
runs which worker, the error of the checks from the field. It needs no library that multiplies, so
that a policy can be held against it and a receipt can repeat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

from svetovid.offload.field import Field
from svetovid.offload.protocols.scheme import Scheme
from svetovid.offload.soundness import bits

__all__ = ["Agreed", "GuaranteeCard", "Seat", "bound", "card"]


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
class Agreed:
    """How much a job's code may ask for in one run; see :class:`svetovid.policy.Offload`.

    Attributes:
        products: the most products of tensors.
        numbers: the most elements of tensors that are masked.
    """

    products: int
    numbers: int


@dataclass(frozen=True)
class GuaranteeCard:
    """What holds, against whom, and what does not.

    Attributes:
        operators: who runs workers, spare ones included.
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
    operators: tuple[str, ...]
    hidden: tuple[str, ...]
    collusion_bound: int
    integrity_bits: int
    sees: dict[str, str]
    leaks: tuple[str, ...]
    assumptions: tuple[str, ...]
    attacks: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def words(self) -> tuple[str, ...]:
        """All of it for people, a line each; the first says what the bound is."""
        return (
            f"{self.mode}, protocol {self.protocol}: {self._bound()}",
            *(f"worker {identity} sees {seen}" for identity, seen in self.sees.items()),
            f"hidden from workers: {', '.join(self.hidden) or 'nothing'}",
            *(f"not hidden: {leak}" for leak in self.leaks),
            *(f"assumed: {assumption}" for assumption in self.assumptions),
            *(f"known attack: {attack}" for attack in self.attacks),
        )

    def _bound(self) -> str:
        among = f"of the operators {', '.join(self.operators)}"
        if self.collusion_bound < 1:
            return f"collusion bound none: one {among}, or a reader of links, learns everything"
        n = self.collusion_bound
        return f"collusion bound {n}: any {n} {among}, working together, learn nothing"


def bound(scheme: Scheme, seats: Sequence[Seat], field: Field) -> int:
    """How many operators may collude; see :attr:`GuaranteeCard.collusion_bound`.

    Args:
        seats: in order of the scheme's workers; those beyond are spare, and may come to take the
            place of any other.
    """
    operators = sorted({seat.operator for seat in seats})
    for size in range(len(operators) + 1):
        for together in combinations(operators, size):
            if any(not scheme.hides(held, field.p) for held in _held(scheme, seats, together)):
                return size - 1
    return len(operators)


def _held(scheme: Scheme, seats: Sequence[Seat], together: Sequence[str]) -> list[set[int]]:
    """The sets of places that these operators, and whoever reads open links, may come to hold.

    Only the largest: whoever holds more learns no less.
    """
    places = range(len(scheme.workers))
    theirs = [i for i, s in enumerate(seats) if s.operator in together or s.link == "open"]
    first = {i for i in theirs if i in places}
    others = [i for i in places if i not in first]
    spare = min(len(theirs) - len(first), len(others))
    return [first | {*taken} for taken in combinations(others, spare)]


def card(
    scheme: Scheme,
    seats: Sequence[Seat],
    field: Field,
    *,
    checked: bool,
    trusted: str,
    agreed: Agreed | None = None,
) -> GuaranteeCard:
    """Compute the card.

    Args:
        seats: as for :func:`bound`.
        checked: whether every product is checked.
        trusted: what the trusted side runs in, for example ``simulated TEE``.
        agreed: where the code that asks for products is a job's, and not trusted either.
    """
    together = bound(scheme, seats, field)
    sure = bits(field) if checked else 0
    operators = tuple(sorted({seat.operator for seat in seats}))
    none = together < 1
    return GuaranteeCard(
        mode="masked",
        protocol=scheme.name,
        prime=field.p,
        operators=operators,
        hidden=() if none else ("inputs", "weights", "activations", "gradients", "labels", "loss"),
        collusion_bound=together,
        integrity_bits=sure,
        sees=_sees(scheme, seats),
        leaks=(
            "shapes of tensors, and so the layers' sizes and the batch size",
            "which products are asked for, in which order and how often: the number of steps",
            "how long the trusted side takes between two products",
            *_signals(agreed),
        ),
        assumptions=(
            f"the trusted side, {trusted}, keeps its memory and keys to itself",
            f"no {together + 1} of the operators {', '.join(operators)} work together"
            if not none
            else "none that would help: one operator alone, or a reader of the links, sees all",
            "AES-256 in counter mode cannot be told from random numbers",
            "each worker is run by the operator that is named for it: no evidence says so",
        ),
        attacks=(
            f"{together + 1} operators, or readers of as many links, learn {_told(scheme)}"
            if not none
            else "whoever runs the workers learns every tensor",
            "a wrong answer ends the step and is seen with all but 2^-"
            f"{sure}; answering never is a denial of service"
            if checked
            else "wrong answers go unnoticed: nothing is checked",
            "a host that reads the trusted side's memory learns everything",
            "the trained model still says what it learned: its outputs are not masked",
        ),
    )


def _told(scheme: Scheme) -> str:
    """What as many workers learn as are one too many."""
    if scheme.blocks == 1:
        return "every tensor"
    return f"a sum of every batch's blocks, and {scheme.blocks + 1} every tensor"


def _sees(scheme: Scheme, seats: Sequence[Seat]) -> dict[str, str]:
    """What each worker sees; a spare one what any of those sees whose place it takes."""
    points = len(scheme.masks) + len(scheme.shares)
    counts = [len(worker.points) for worker in scheme.workers]
    spare = [f"as a spare, at most {max(counts)}"] * (len(seats) - len(counts))
    return {
        seat.identity: f"{n} of {points} points of each tensor"
        f", run by {seat.operator}, over {seat.link}"
        for seat, n in zip(seats, [*map(str, counts), *spare], strict=True)
    }


def _signals(agreed: Agreed | None) -> list[str]:
    if agreed is None:
        return []
    return [
        "what the job's code signals by shapes, order, timing and counts: in one run, and anew in"
        f" each resume, it gets {agreed.products} products over {agreed.numbers} masked numbers,"
        " and no more"
    ]
