"""What a worker reads of the trusted side, and the trusted side of a worker."""

from __future__ import annotations

from collections.abc import Iterable

from fuzz.targets import Target
from svetovid.offload.field import M31
from svetovid.offload.product import Product
from svetovid.offload.reading import parse_reply, parse_request
from svetovid.offload.wire import (
    PREFIX,
    Answered,
    Drop,
    Limits,
    Memory,
    Multiply,
    Operand,
    Ping,
    Place,
    Refused,
    Reply,
    Request,
    Seed,
    encode,
)
from svetovid.offload.work import Term, Work

_MATMUL = Product("matmul", (1, 3, 4), (1, 4, 2), (1, 3, 2), transpose=(False, False))
_CONV = Product(
    "conv_weight",
    (2, 4, 5, 5),
    (2, 6, 5, 5),
    (6, 2, 3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    groups=2,
)
_TERM = Term(1, ((1, 1), (2, -1)), ((3, 1),))


def _headers(messages: Iterable[Request | Reply]) -> list[bytes]:
    return [encode(message)[PREFIX.size :] for message in messages]


def _requests() -> list[bytes]:
    return _headers(
        [
            Operand(1, 1, 12),
            Operand(2, 2, 12, Place(1, 4096)),
            Seed(3, 3, 8, M31.p, bytes(range(32))),
            Memory(4, 1, 1 << 20, answers=False),
            Multiply(5, Work(_MATMUL, M31.p, (_TERM,), 1), Place(2, 0)),
            Multiply(6, Work(_CONV, M31.p, (_TERM, _TERM), 2)),
            Drop(7, (1, 2)),
            Ping(8),
        ]
    )


def _replies() -> list[bytes]:
    return _headers([Answered(1, 24), Refused(2, "worker.miss"), Refused(3, "worker.limit")])


_MODULES = ("svetovid.offload.reading", "svetovid.offload.wire", "svetovid.offload.product")
TARGETS = (
    Target("work", lambda data: parse_request(data, Limits()), _MODULES, _requests),
    Target("answer", parse_reply, _MODULES, _replies),
)
