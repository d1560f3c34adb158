"""Reads the headers of ``wire``: any bytes in, a checked message or our error out."""

from __future__ import annotations

import math
from typing import Any

from svetovid.crypto import canonical
from svetovid.crypto.canonical import load_json
from svetovid.errors import InputError
from svetovid.offload.address import KEY_BYTES
from svetovid.offload.field import FIELDS
from svetovid.offload.product import Product
from svetovid.offload.wire import (
    MAX_FORGOTTEN,
    MAX_HEADER,
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
    bad,
    over,
)
from svetovid.offload.work import Side, Term, Work

__all__ = ["largest", "parse_product", "parse_reply", "parse_request"]

_MAX_INT = 2**53 - 1
_MAX_EXTENT = 2**31 - 1
_DEPTH = 5
_REASONS = ("worker.miss", "worker.limit")


def parse_request(header: bytes, limits: Limits) -> Request:
    """What the trusted side says, as the worker reads it.

    Raises:
        ParseError: ``worker.message``.
        LimitError: ``worker.limit``.
    """
    fields = _Fields(header)
    kind = fields.take("type")
    seq = fields.integer("seq", 1)
    message: Request
    if kind == "operand":
        count = _held(fields, limits)
        message = Operand(seq, fields.integer("operand"), count, fields.place())
    elif kind == "seed":
        count = _held(fields, limits)
        message = Seed(seq, fields.integer("operand"), count, fields.prime(), fields.key())
    elif kind == "memory":
        message = Memory(
            seq, fields.integer("memory"), fields.integer("size", 1), fields.truth("answers")
        )
        if message.size > limits.shared:
            raise over("bytes of a memory", limits.shared, message.size)
    elif kind == "work":
        message = Multiply(seq, _work(fields, limits), fields.place())
    elif kind == "drop":
        message = Drop(seq, fields.integers("memories", MAX_FORGOTTEN, _MAX_INT))
    elif kind == "ping":
        message = Ping(seq)
    else:
        raise bad("a known type of message")
    fields.end()
    return message


def parse_reply(header: bytes) -> Reply:
    """What a worker says, as the trusted side reads it.

    Raises:
        ParseError: ``worker.message``.
    """
    fields = _Fields(header)
    kind = fields.take("type")
    seq = fields.integer("seq", 1)
    message: Reply
    if kind == "answer":
        message = Answered(seq, fields.integer("count"))
    elif kind == "refused":
        reason = fields.take("reason")
        if reason not in _REASONS:
            raise bad("a known reason")
        message = Refused(seq, reason)
    else:
        raise bad("an answer or a refusal")
    fields.end()
    return message


class _Fields:
    """Members of a header, each taken once."""

    def __init__(self, header: bytes) -> None:
        try:
            value = load_json(header, max_bytes=MAX_HEADER, max_depth=_DEPTH)
            again = canonical(value)
        except InputError as e:
            raise bad("a header of strict JSON", e.code) from e
        if not isinstance(value, dict) or again != header:
            raise bad("a JSON object in canonical form")
        self._left: dict[str, Any] = value

    @classmethod
    def of(cls, value: object) -> _Fields:
        if not isinstance(value, dict):
            raise bad("an object")
        fields = cls.__new__(cls)
        fields._left = dict(value)
        return fields

    def take(self, name: str) -> Any:
        if name not in self._left:
            raise bad(f"a member {name}")
        return self._left.pop(name)

    def end(self) -> None:
        if self._left:
            raise bad("no other members")

    def integer(self, name: str, least: int = 0, most: int = _MAX_INT) -> int:
        return _integer(self.take(name), least, most)

    def integers(self, name: str, length: int, most: int = _MAX_EXTENT) -> tuple[int, ...]:
        return tuple(_integer(v, 0, most) for v in _list(self.take(name), 0, length))

    def truth(self, name: str) -> bool:
        return _truth(self.take(name))

    def place(self) -> Place | None:
        if "at" not in self._left:
            return None
        memory, offset = _list(self.take("at"), 2, 2)
        return Place(_integer(memory, 0, _MAX_INT), _integer(offset, 0, _MAX_INT))

    def prime(self) -> int:
        p = self.integer("p")
        if p not in FIELDS:
            raise bad("the prime of a known field", p)
        return p

    def key(self) -> bytes:
        text = self.take("key")
        if not isinstance(text, str) or len(text) != 2 * KEY_BYTES:
            raise bad(f"a key of {KEY_BYTES} bytes")
        if set(text) - set("0123456789abcdef"):
            raise bad("a key in hexadecimal")
        return bytes.fromhex(text)


def _integer(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise bad(f"an integer from {least} to {most}")
    return value


def _truth(value: object) -> bool:
    if type(value) is not bool:
        raise bad("true or false")
    return value


def _list(value: object, least: int, most: int) -> list[Any]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise bad(f"a list of {least} to {most}")
    return value


def _held(fields: _Fields, limits: Limits) -> int:
    count = fields.integer("count", 1)
    if count > limits.numbers:
        raise over("numbers of an operand", limits.numbers, count)
    return count


def _work(fields: _Fields, limits: Limits) -> Work:
    product = parse_product(fields.take("product"))
    terms = tuple(_term(v) for v in _list(fields.take("terms"), 1, 3))
    work = Work(product, fields.prime(), terms, fields.integer("parts", 1, product.reduction))
    numbers = largest(product, work.parts)
    if numbers > limits.numbers:
        raise over("numbers of a tensor", limits.numbers, numbers)
    if product.macs * len(terms) > limits.macs:
        raise over("multiplications of a work", limits.macs, product.macs * len(terms))
    return work


def parse_product(value: object) -> Product:
    """A product, from parsed JSON of any form.

    Raises:
        ParseError: ``worker.message``.
    """
    fields = _Fields.of(value)
    kind = fields.take("kind")
    if kind not in ("matmul", "conv", "conv_input", "conv_weight"):
        raise bad("a known kind of product")
    exchanged = _list(fields.take("transpose"), 2, 2)
    try:
        product = Product(
            kind=kind,
            a=fields.integers("a", 5),
            b=fields.integers("b", 5),
            out=fields.integers("out", 5),
            transpose=(_truth(exchanged[0]), _truth(exchanged[1])),
            stride=fields.integers("stride", 3),
            padding=fields.integers("padding", 3),
            dilation=fields.integers("dilation", 3),
            groups=fields.integer("groups", 1, _MAX_EXTENT),
        )
    except InputError as e:
        raise bad("shapes that fit one another", e.code) from e
    fields.end()
    spatial = (product.stride, product.padding, product.dilation, product.groups)
    if any(product.transpose) if kind != "matmul" else spatial != ((), (), (), 1):
        raise bad(f"only what {kind} has")
    return product


def largest(product: Product, parts: int) -> int:
    """Numbers of the largest tensor that a product takes: images may be padded to more, those of a
    gradient as far as a window reaches."""
    sizes = [math.prod(product.a), math.prod(product.b), math.prod(product.out) * parts]
    if product.kind != "matmul":
        n, c, *image = product.x
        reach = product.padding
        if product.kind == "conv_input":
            n, c, *image = product.y
            reach = tuple(d * (k - 1) for d, k in zip(product.dilation, product.w[2:], strict=True))
        sizes.append(n * c * math.prod(s + 2 * r for s, r in zip(image, reach, strict=True)))
    return max(sizes)


def _term(value: object) -> Term:
    sign, a, b = _list(value, 3, 3)
    return Term(_sign(sign), _side(a), _side(b))


def _side(value: object) -> Side:
    return tuple(
        (_integer(number, 0, _MAX_INT), _sign(sign))
        for number, sign in (_list(pair, 2, 2) for pair in _list(value, 1, 3))
    )


def _sign(value: object) -> int:
    if type(value) is not int or value not in (1, -1):
        raise bad("1 or -1")
    return value
