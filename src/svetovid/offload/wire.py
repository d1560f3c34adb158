"""What trusted side and worker say to each other: bytes in, checked messages or our errors out.

A frame is ``<u32 header length, little-endian> header payload``. The header is canonical JSON
(RFC 8785) of at most 64 KiB, one of a closed set of messages; the payload is little-endian int32
numbers, exactly as many as the header says. Where both sides share memory there is no payload: the
header names a place in memory that was handed over before.

Rules:

1. The trusted side numbers its messages 1, 2, 3, and so on; another number is refused.
2. Of these ``work`` and ``ping`` are answered, in the order they came, under their number.
3. Sizes and the cost of a product are held against the worker's limits before memory is taken.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from svetovid.errors import LimitError, ParseError
from svetovid.offload.work import Work

__all__ = [
    "MAX_FORGOTTEN",
    "MAX_HEADER",
    "NUMBER_BYTES",
    "PREFIX",
    "Answered",
    "Drop",
    "Limits",
    "Memory",
    "Multiply",
    "Operand",
    "Ping",
    "Place",
    "Refused",
    "Reply",
    "Request",
    "Seed",
    "bad",
    "encode",
    "header_length",
    "operands",
    "over",
]

PREFIX = struct.Struct("<I")
MAX_HEADER = 64 << 10
NUMBER_BYTES = 4
MAX_FORGOTTEN = 3000
"""Memories that one ``drop`` names."""


@dataclass(frozen=True)
class Limits:
    """What one worker takes on.

    Attributes:
        numbers: of all operands that it holds together, and of one answer.
        macs: multiplications of one work.
        shared: bytes of memory that it maps at once.
    """

    numbers: int = 1 << 30
    macs: int = 1 << 45
    shared: int = 1 << 36


@dataclass(frozen=True)
class Place:
    """In memory that both sides share, from a byte on."""

    memory: int
    offset: int


@dataclass(frozen=True)
class Operand:
    """Residues under a number, as the payload or at a place."""

    seq: int
    operand: int
    count: int
    at: Place | None = None


@dataclass(frozen=True)
class Seed:
    """Residues as the key that they are expanded from."""

    seq: int
    operand: int
    count: int
    p: int
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Memory:
    """A descriptor came with this frame: memory of so many bytes, of operands or of answers."""

    seq: int
    memory: int
    size: int
    answers: bool


@dataclass(frozen=True)
class Multiply:
    """Work; its answer goes to a place, or is the reply's payload."""

    seq: int
    work: Work
    at: Place | None = None


@dataclass(frozen=True)
class Drop:
    """Forget all operands, and these memories."""

    seq: int
    memories: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ping:
    """Say that you are there: answered with no numbers."""

    seq: int


@dataclass(frozen=True)
class Answered:
    """What was asked under ``seq`` is done; so many numbers follow, or stand in memory."""

    seq: int
    count: int


@dataclass(frozen=True)
class Refused:
    """Why not: an operand is not held any more, or a limit."""

    seq: int
    reason: Literal["worker.miss", "worker.limit"]


Request = Operand | Seed | Memory | Multiply | Drop | Ping
Reply = Answered | Refused


def header_length(prefix: bytes) -> int:
    """Bytes of the header that follows.

    Raises:
        ParseError: ``worker.message``.
    """
    (length,) = PREFIX.unpack(prefix)
    if not 0 < length <= MAX_HEADER:
        raise bad(f"a header of 1 to {MAX_HEADER:,} bytes", length)
    return int(length)


def bad(expected: str, observed: object = "") -> ParseError:
    return ParseError(
        "worker.message",
        expected=expected,
        observed=observed,
        next_step="run one and the same release on both sides",
    )


def over(what: str, limit: int, observed: int) -> LimitError:
    return LimitError(
        "worker.limit",
        expected=f"at most {limit:,} {what}",
        observed=f"{observed:,}",
        next_step="make the batch smaller, or give the worker larger limits",
    )


def operands(work: Work) -> Iterator[tuple[int, int]]:
    """Numbers of the operands that a work takes, and how many numbers each has."""
    for term in work.terms:
        for side, shape in ((term.a, work.product.a), (term.b, work.product.b)):
            for number, _ in side:
                yield number, math.prod(shape)


def encode(message: Request | Reply) -> bytes:
    """The frame of a message, but for its payload.

    Raises:
        LimitError: ``worker.limit``: the header is longer than one may be.
    """
    # Whole numbers and ASCII only: the canonical form of both, in a tenth of the time.
    header = json.dumps(_json(message), sort_keys=True, separators=(",", ":")).encode()
    if len(header) > MAX_HEADER:
        raise over("bytes of a header", MAX_HEADER, len(header))
    return PREFIX.pack(len(header)) + header


def _json(message: Request | Reply) -> dict[str, Any]:
    fields: dict[str, Any] = {k: v for k, v in vars(message).items() if v is not None}
    if isinstance(message, Operand | Multiply) and message.at is not None:
        fields["at"] = [message.at.memory, message.at.offset]
    if isinstance(message, Seed):
        fields["key"] = message.key.hex()
    if isinstance(message, Multiply):
        work = fields.pop("work")
        fields |= {"p": work.p, "parts": work.parts}
        fields["product"] = dict(vars(work.product))
        fields["terms"] = [[t.sign, t.a, t.b] for t in work.terms]
    return {"type": _NAMES[type(message)], **fields}


_NAMES: dict[type[Request | Reply], str] = {
    Operand: "operand",
    Seed: "seed",
    Memory: "memory",
    Multiply: "work",
    Drop: "drop",
    Ping: "ping",
    Answered: "answer",
    Refused: "refused",
}
