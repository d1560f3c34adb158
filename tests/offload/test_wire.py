"""What crosses the seam: every message reads as it was written, and nothing else reads at all."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svetovid.errors import InputError, LimitError, ParseError
from svetovid.offload.field import FIELDS, M31
from svetovid.offload.product import Product
from svetovid.offload.reading import parse_reply, parse_request
from svetovid.offload.wire import (
    MAX_HEADER,
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
    header_length,
)
from svetovid.offload.work import Term, Work

LIMITS = Limits(numbers=10_000, macs=1_000_000, shared=40_000)
MATMUL = Product("matmul", (2, 3, 4), (2, 5, 4), (2, 3, 5), transpose=(False, True))
CONV = Product(
    "conv", (2, 4, 7), (6, 2, 3), (2, 6, 3), stride=(2,), padding=(1,), dilation=(2,), groups=2
)
TERM = Term(1, ((1, 1),), ((2, 1),))

numbers = st.integers(0, 2**53 - 1)
places = st.none() | st.builds(Place, numbers, numbers)
counts = st.integers(1, LIMITS.numbers)
primes = st.sampled_from(sorted(FIELDS))
sides = st.lists(st.tuples(numbers, st.sampled_from([1, -1])), min_size=1, max_size=3).map(tuple)
terms = st.builds(Term, st.sampled_from([1, -1]), sides, sides)


@st.composite
def products(draw: st.DrawFn) -> Product:
    """Of every kind, with every number drawn."""
    small = st.integers(1, 3)
    kind = draw(st.sampled_from(["matmul", "conv", "conv_input", "conv_weight"]))
    if kind == "matmul":
        g, m, k, n = (draw(small) for _ in range(4))
        t = draw(st.tuples(st.booleans(), st.booleans()))
        return Product(
            "matmul",
            (g, k, m) if t[0] else (g, m, k),
            (g, n, k) if t[1] else (g, k, n),
            (g, m, n),
            t,
        )
    dims = draw(small)
    each = [draw(st.lists(st.integers(low, 2), min_size=dims, max_size=dims)) for low in (1, 0, 1)]
    kernel = draw(st.lists(st.integers(1, 2), min_size=dims, max_size=dims))
    image = draw(st.lists(st.integers(3, 4), min_size=dims, max_size=dims))
    n, groups, inputs, outputs = (draw(st.integers(1, 2)) for _ in range(4))
    out = [
        (s + 2 * pad - d * (k - 1) - 1) // stride + 1
        for s, k, stride, pad, d in zip(image, kernel, *each, strict=True)
    ]
    x, w = (n, groups * inputs, *image), (groups * outputs, inputs, *kernel)
    y = (n, groups * outputs, *out)
    a, b, o = {"conv": (x, w, y), "conv_input": (y, w, x), "conv_weight": (x, y, w)}[kind]
    stride, padding, dilation = map(tuple, each)
    return Product(kind, a, b, o, (False, False), stride, padding, dilation, groups)


works = st.builds(
    Work, products(), primes, st.lists(terms, min_size=1, max_size=3).map(tuple), st.just(1)
)
seqs = st.integers(1, 2**53 - 1)
requests = st.one_of(
    st.builds(Operand, seqs, numbers, counts, places),
    st.builds(Seed, seqs, numbers, counts, primes, st.binary(min_size=32, max_size=32)),
    st.builds(Memory, seqs, numbers, counts, st.booleans()),
    st.builds(Multiply, seqs, works, places),
    st.builds(Drop, seqs, st.lists(numbers, max_size=4).map(tuple)),
    st.builds(Ping, seqs),
)
replies = st.one_of(
    st.builds(Answered, seqs, numbers),
    st.builds(Refused, seqs, st.sampled_from(["worker.miss", "worker.limit"])),
)


def header(message: Request | Reply) -> bytes:
    """The header of a frame, after its length was held against it."""
    data = encode(message)
    assert header_length(data[: PREFIX.size]) == len(data) - PREFIX.size
    return data[PREFIX.size :]


def changed(message: Request | Reply, **members: Any) -> bytes:
    """A header with other members; None takes one away."""
    fields = json.loads(header(message)) | members
    fields = {k: v for k, v in fields.items() if v is not None}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


@given(requests)
def test_a_request_reads_as_it_was_written(message: Request) -> None:
    assert parse_request(header(message), LIMITS) == message


@given(replies)
def test_a_reply_reads_as_it_was_written(message: Reply) -> None:
    assert parse_reply(header(message)) == message


@given(st.binary(max_size=300))
def test_any_bytes_give_our_errors_alone(data: bytes) -> None:
    for parse in (parse_reply, lambda d: parse_request(d, LIMITS)):
        with pytest.raises(InputError):
            parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**53) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=300)
@given(requests | replies, st.data())
def test_a_message_with_anything_in_a_members_place_gives_our_errors(
    message: Request | Reply, data: st.DataObject
) -> None:
    fields = json.loads(header(message))
    at: Any = fields
    while isinstance(at, dict | list) and at:
        keys = sorted(at) if isinstance(at, dict) else range(len(at))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(at[key], dict | list) or data.draw(st.booleans()):
            at[key] = data.draw(json_values)
            break
        at = at[key]
    changed = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    for parse in (parse_reply, lambda d: parse_request(d, LIMITS)):
        try:
            read = parse(changed)
        except InputError:
            continue
        assert header(read) == changed


@given(requests)
def test_a_header_cut_anywhere_is_refused(message: Request) -> None:
    whole = header(message)
    for end in range(len(whole)):
        with pytest.raises(ParseError, match=r"worker\.message"):
            parse_request(whole[:end], LIMITS)


@pytest.mark.parametrize("length", [0, MAX_HEADER + 1, 2**32 - 1])
def test_a_header_of_no_or_too_many_bytes_is_refused_before_it_is_read(length: int) -> None:
    with pytest.raises(ParseError, match=r"worker\.message"):
        header_length(PREFIX.pack(length))


def test_a_header_that_grows_too_long_is_not_sent() -> None:
    with pytest.raises(LimitError, match=r"worker\.limit"):
        encode(Drop(1, tuple(range(2**50, 2**50 + 5000))))


@pytest.mark.parametrize(
    "data",
    [
        header(Ping(1)).replace(b":", b": "),
        header(Ping(1)) + b"\n",
        b'{"type":"ping","seq":1}',
        b'{"seq":1,"seq":1,"type":"ping"}',
        b'{"seq":1.0,"type":"ping"}',
        b'{"seq":1e0,"type":"ping"}',
        b'[{"seq":1,"type":"ping"}]',
        b"[" * 60_000,
        changed(Ping(1), seq=0),
        changed(Ping(1), seq=True),
        header(Ping(1)).replace(b"1", b"9007199254740992"),
        changed(Ping(1), type="pong"),
        changed(Ping(1), type=["ping"]),
        changed(Ping(1), run="main"),
        changed(Ping(1), seq=None),
        changed(Operand(1, 2, 3), count=0),
        changed(Operand(1, 2, 3), operand=-1),
        changed(Operand(1, 2, 3), at=[1]),
        changed(Operand(1, 2, 3), at=[1, -4]),
        changed(Seed(1, 2, 3, M31.p, bytes(32)), p=2**31 + 11),
        changed(Seed(1, 2, 3, M31.p, bytes(32)), key="00" * 31),
        changed(Seed(1, 2, 3, M31.p, bytes(32)), key="0G" * 32),
        changed(Seed(1, 2, 3, M31.p, bytes(32)), key="AA" * 32),
        changed(Memory(1, 2, 3, True), answers=1),
        changed(Memory(1, 2, 3, True), size=0),
        changed(Drop(1), memories=[0] * 3001),
    ],
)
def test_what_is_not_of_the_closed_set_is_refused(data: bytes) -> None:
    with pytest.raises(ParseError, match=r"worker\.message"):
        parse_request(data, LIMITS)


def asked(product: dict[str, Any] | None = None, of: Product = MATMUL, **members: Any) -> bytes:
    """Work with other members, of its product too."""
    message = Multiply(1, Work(of, M31.p, (TERM,), 1))
    fields = json.loads(header(message))["product"] | (product or {})
    return changed(message, product=fields, **members)


@pytest.mark.parametrize(
    "data",
    [
        asked(p=7),
        asked(parts=0),
        asked(parts=5),
        asked(terms=[]),
        asked(terms=[[1, [[1, 1]], [[2, 1]]]] * 4),
        asked(terms=[[2, [[1, 1]], [[2, 1]]]]),
        asked(terms=[[True, [[1, 1]], [[2, 1]]]]),
        asked(terms=[[1, [], [[2, 1]]]]),
        asked(terms=[[1, [[1, 1]] * 4, [[2, 1]]]]),
        asked(terms=[[1, [[1, 0]], [[2, 1]]]]),
        asked(terms=[[1, [[1]], [[2, 1]]]]),
        asked(terms=[[1, [1], [[2, 1]]]]),
        asked(terms=[[1, [[1, 1]]]]),
        asked({"kind": "add"}),
        asked({"name": "features.3"}),
        asked({"out": [2, 3, 6]}),
        asked({"out": []}),
        asked({"a": [2, 3, -4]}),
        asked({"a": [1] * 6}),
        asked({"transpose": [0, 1]}),
        asked({"stride": [1]}),
        asked({"dilation": [1]}),
        asked({"groups": 2}),
        asked({"transpose": [True, False]}, CONV),
        asked({"groups": 3}, CONV),
        asked({"groups": 0}, CONV),
        asked({"stride": [0]}, CONV),
        asked({"stride": [2, 1]}, CONV),
    ],
)
def test_work_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ParseError, match=r"worker\.message"):
        parse_request(data, LIMITS)


def work(of: Product, parts: int = 1) -> bytes:
    return header(Multiply(1, Work(of, M31.p, (TERM, TERM), parts)))


@pytest.mark.parametrize(
    "data",
    [
        header(Operand(1, 2, LIMITS.numbers + 1)),
        header(Seed(1, 2, LIMITS.numbers + 1, M31.p, bytes(32))),
        header(Memory(1, 2, LIMITS.shared + 1, False)),
        work(Product("matmul", (1, 101, 100), (1, 100, 1), (1, 101, 1))),
        work(Product("matmul", (1, 1, 100), (1, 100, 101), (1, 1, 101))),
        work(Product("matmul", (1, 101, 1), (1, 1, 100), (1, 101, 100))),
        work(Product("matmul", (1, 50, 3), (1, 3, 100), (1, 50, 100)), parts=3),
        work(Product("matmul", (1, 80, 80), (1, 80, 80), (1, 80, 80))),
        work(
            Product(
                "conv",
                (1, 1, 1),
                (1, 1, 1),
                (1, 1, 1),
                stride=(2**31 - 1,),
                padding=(2**30 - 1,),
                dilation=(1,),
            )
        ),
    ],
)
def test_more_than_the_worker_takes_on_is_refused_by_its_header(data: bytes) -> None:
    with pytest.raises(LimitError, match=r"worker\.limit"):
        parse_request(data, LIMITS)


@given(works, st.integers(1, 200), st.integers(1, 2000))
def test_what_passes_is_within_the_limits(drawn: Work, most: int, macs: int) -> None:
    limits = Limits(numbers=most, macs=macs)
    try:
        parse_request(header(Multiply(1, drawn)), limits)
    except LimitError:
        return
    shapes = (drawn.product.a, drawn.product.b, drawn.product.out)
    assert max(map(math.prod, shapes)) <= most
    assert drawn.product.macs * len(drawn.terms) <= macs


@pytest.mark.parametrize(
    "data",
    [
        header(Ping(1)),
        changed(Answered(1, 2), count=-1),
        changed(Answered(1, 2), names=[]),
        changed(Refused(1, "worker.miss"), reason="worker.tired"),
        changed(Refused(1, "worker.miss"), reason=["worker.miss"]),
        b"x" * (MAX_HEADER + 1),
    ],
)
def test_a_reply_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ParseError, match=r"worker\.message"):
        parse_reply(data)


def test_a_key_is_not_shown() -> None:
    assert "ZZ" not in repr(Seed(1, 2, 3, M31.p, b"Z" * 32))
