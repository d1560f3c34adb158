"""Whom a masked job sends masked numbers to, and what that comes to (T17).

The workers prove nothing of themselves. What a job's choice of them is worth is computed from it,
by the clause ``grant.collusion``, for conditions, for whoever consents and for a receipt's reader.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from svetovid.crypto.canonical import Digest, Document
from svetovid.offload import card
from svetovid.offload.field import M31
from svetovid.offload.protocols import SCHEMES

__all__ = ["Offload", "OffloadWorker", "collusion_bound", "guarantees", "strongest"]

Protocol = Literal["coded", "coded-4", "goten", "goten-published", "packed"]
Operator = Annotated[str, StringConstraints(max_length=128, pattern=r"^[!-~]+( [!-~]+)*$")]
"""ASCII only, so that no two look alike."""
WorkerUrl = Annotated[
    str,
    StringConstraints(
        max_length=300, pattern=r"^tls://([a-z0-9.-]+|\[[0-9a-f:.]+\]):[1-9][0-9]{0,4}$"
    ),
]


class OffloadWorker(Document):
    """A machine that multiplies masked numbers, and that nobody attests.

    Attributes:
        certificate: SHA-256 of its TLS certificate in DER, by which the host knows it.
        operator: who runs it, as the proposer says; whoever consents agrees to that.
        url: where it listens.
    """

    certificate: Digest
    operator: Operator
    url: WorkerUrl

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("tls://").rpartition(":")
        return host.strip("[]"), int(port)

    @model_validator(mode="after")
    def _port(self) -> OffloadWorker:
        if self.address[1] > 0xFFFF:
            raise ValueError("no such port")
        return self


class Offload(Document):
    """The workers of a masked job, by which protocol they multiply, and how much (T17).

    Attributes:
        protocol: how an operand is shared between workers; ``docs/spec/masked.md``.
        workers: the first ones hold the protocol's points, in order; the others are spare.
        products: the most products of tensors that the code may ask for in one run, all attempts
            counted.
        numbers: the most elements of tensors that may be masked for it, counted alike.
    """

    protocol: Protocol
    workers: Annotated[tuple[OffloadWorker, ...], Field(min_length=3, max_length=16)]
    products: Annotated[int, Field(ge=1, lt=2**53)]
    numbers: Annotated[int, Field(ge=1, lt=2**53)]

    @model_validator(mode="after")
    def _enough_and_different(self) -> Offload:
        if len(self.workers) < (needed := len(SCHEMES[self.protocol].workers)):
            raise ValueError(f"protocol {self.protocol} takes {needed} workers")
        for member in ("certificate", "url"):
            if len({getattr(w, member) for w in self.workers}) < len(self.workers):
                raise ValueError(f"two workers of one {member}")
        return self

    @property
    def operators(self) -> tuple[str, ...]:
        """Who runs workers, each once, sorted."""
        return tuple(sorted({w.operator for w in self.workers}))

    @property
    def seats(self) -> tuple[card.Seat, ...]:
        """The workers as a card counts them: between machines every link is TLS."""
        return tuple(card.Seat(w.certificate, w.operator, "tls") for w in self.workers)


@lru_cache(maxsize=64)
def collusion_bound(offload: Offload) -> int:
    """So many operators of these workers may work together and still learn nothing."""
    return card.bound(SCHEMES[offload.protocol], offload.seats, M31)


@lru_cache(maxsize=1)
def strongest() -> int:
    """The best collusion bound of any protocol: where every worker has an operator of its own."""
    return max(
        card.bound(s, [card.Seat(f"{i}", f"{i}", "tls") for i in range(len(s.workers))], M31)
        for s in SCHEMES.values()
    )


def guarantees(offload: Offload, *, trusted: str) -> card.GuaranteeCard:
    """The guarantee card of a job with these workers: every product is checked.

    Args:
        offload: of the job.
        trusted: what the job's host is, as far as is known.
    """
    return card.card(
        SCHEMES[offload.protocol],
        offload.seats,
        M31,
        checked=True,
        trusted=trusted,
        agreed=card.Agreed(offload.products, offload.numbers),
    )
