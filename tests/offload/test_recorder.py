"""A record of all that a worker sees: the same from both ends, and complete."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload.linkworld import Transport, transport
from offload.memory_link import expanded
from svetovid.offload import wire
from svetovid.offload.field import M31
from svetovid.offload.links import FramedLink
from svetovid.offload.product import Product
from svetovid.offload.recorder import Recorder
from svetovid.offload.work import Term, Work

TINY = Product("matmul", (1, 1, 2), (1, 2, 1), (1, 1, 1))
WORK = Work(TINY, M31.p, (Term(1, ((1, 1),), ((2, 1),)),), 1)
KEY = bytes(range(32))


@pytest.fixture(params=["local", "tls"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    with transport(request.param, tmp_path) as made:
        yield made


def step(link: FramedLink) -> int:
    """What every kind of message takes part in."""
    link.send(1, 2, lambda out: np.copyto(out, [3, 4]))
    link.seed(2, 2, KEY, M31.p)
    got = int(link.ask(WORK).wait()[0])
    link.drop()
    link.ping(10)
    return got


def frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Headers and payloads of a file, told apart by the sizes in the headers."""
    at = 0
    while at < len(data):
        (length,) = wire.PREFIX.unpack(data[at : at + 4])
        header = data[at + 4 : at + 4 + length]
        message: dict[str, Any] = json.loads(header)
        inline = message["type"] in ("operand", "answer")
        size = 4 * message["count"] if inline else 0
        at += 4 + length + size
        yield header, data[at - size : at]


def test_both_ends_record_the_same(way: Transport) -> None:
    trusted, worker = Recorder(), Recorder()
    link = way.served(seen=worker, observer=trusted)
    step(link)
    link.close()
    way.close()
    assert [s.header for s in trusted.seen] == [s.header for s in worker.seen]
    assert [s.sent for s in trusted.seen] == [s.sent for s in worker.seen]
    for ours, theirs in zip(trusted.seen, worker.seen, strict=True):
        assert np.array_equal(ours.numbers, theirs.numbers)
    assert trusted.frames == worker.frames
    assert trusted.sent_bytes == worker.sent_bytes
    assert trusted.received_bytes == worker.received_bytes


def test_it_records_every_kind_and_expands_seeds(way: Transport) -> None:
    recorder = Recorder()
    got = step(way.served(observer=recorder))
    by_kind = {seen.kind: seen for seen in recorder.seen}
    assert set(by_kind) - {"memory"} == {"operand", "seed", "work", "answer", "drop", "ping"}
    answers = [seen for seen in recorder.seen if seen.numbers is not None and not seen.sent]
    assert [seen.numbers.tolist() for seen in answers] == [[got]]  # type: ignore[union-attr]
    assert by_kind["operand"].numbers.tolist() == [3, 4]  # type: ignore[union-attr]
    assert np.array_equal(by_kind["seed"].numbers, expanded(KEY, M31.p, 2))
    assert by_kind["seed"].message["key"] == KEY.hex()
    assert by_kind["operand"].sent


def test_what_was_recorded_does_not_change_with_the_memory(way: Transport) -> None:
    recorder = Recorder()
    link = way.served(observer=recorder)
    step(link)
    link.send(1, 2, lambda out: np.copyto(out, [7, 8]))
    operands = [s.numbers.tolist() for s in recorder.seen if s.kind == "operand"]  # type: ignore[union-attr]
    assert operands == [[3, 4], [7, 8]]


def test_a_file_has_it_as_it_stands_on_the_wire(way: Transport) -> None:
    file = io.BytesIO()
    recorder = Recorder(file=file)
    step(way.served(observer=recorder))
    found = list(frames(file.getvalue()))
    assert [header for header, _ in found] == [seen.header for seen in recorder.seen]
    for (_, payload), seen in zip(found, recorder.seen, strict=True):
        if payload:
            assert seen.numbers is not None
            assert payload == seen.numbers.tobytes()
    total = recorder.sent_bytes + recorder.received_bytes
    assert len(file.getvalue()) == total.total()


def test_counting_alone_keeps_nothing(way: Transport) -> None:
    recorder = Recorder(keep=False)
    step(way.served(observer=recorder))
    assert recorder.seen == []
    operand = wire.encode(wire.Operand(1, 1, 2, wire.Place(0, 0) if way.shared else None))
    assert recorder.sent_bytes["operand"] == len(operand) + 2 * 4
    assert recorder.frames["work"] == 1
    assert recorder.received_bytes["answer"] > 4


def test_nothing_but_numbers_and_shapes_goes_to_a_worker(way: Transport) -> None:
    """Every word of every header is one of the protocol's own."""
    recorder = Recorder()
    link = way.served(observer=recorder)
    step(link)
    known = {
        *("type", "seq", "operand", "count", "at", "p", "key", "memory", "size", "answers"),
        *("product", "terms", "parts", "kind", "a", "b", "out", "transpose", "stride", "padding"),
        *("dilation", "groups", "memories", "seed", "work", "drop", "ping", "answer", "matmul"),
        KEY.hex(),
    }

    def words(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from value
            value = list(value.values())
        if isinstance(value, str):
            yield value
        for inner in value if isinstance(value, list) else []:
            yield from words(inner)

    said = {word for seen in recorder.seen for word in words(seen.message)}
    assert said <= known
