"""The host's end of a sandbox's channel, with a hostile other end."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svetovid.errors import LimitError, RefusalError, SvetovidError
from svetovid.host import channel as module
from svetovid.host.channel import Channel, Message
from svetovid.training._wire import KINDS, Wire, kind_of


def room(kind: str, name: str) -> int:
    if name == "unknown":
        raise RefusalError("output.unknown")
    return 100


Pair = tuple[Channel, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, room, stall_s=0.1)
    with theirs:
        yield channel, theirs
    channel.close()


def frame(header: Any, payload: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(payload) if length is None else length
    return struct.pack("<IQ", len(text), size) + text + payload


def code_of(pair: Pair, data: bytes, *, close: bool = False) -> str:
    channel, theirs = pair
    theirs.sendall(data)
    if close:
        theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(SvetovidError) as e:
        channel.receive()
    return e.value.code


GOOD = [
    ({"type": "ready"}, b"", Message("ready")),
    ({"type": "progress", "done": 1, "total": 2}, b"", Message("progress", done=1, total=2)),
    ({"type": "metric", "name": "n", "value": 0.5}, b"", Message("metric", name="n", value=0.5)),
    ({"type": "output", "name": "m"}, b"x", Message("output", name="m", payload=b"x")),
    ({"type": "checkpoint"}, b"y" * 100, Message("checkpoint", payload=b"y" * 100)),
    ({"type": "failed", "kind": "ValueError"}, b"", Message("failed", kind="ValueError")),
    ({"type": "done"}, b"", Message("done")),
]


def test_every_message(pair: Pair) -> None:
    channel, theirs = pair
    theirs.sendall(b"".join(frame(h, p) for h, p, _ in GOOD))
    theirs.shutdown(socket.SHUT_WR)
    for _, _, message in GOOD:
        assert channel.receive() == message
    assert channel.receive() is None


@pytest.mark.parametrize(
    "header",
    [
        {"type": "shell"},
        {"type": ["ready"]},
        {},
        [],
        1,
        {"type": "ready", "free": "text"},
        {"type": "progress", "done": 1},
        {"type": "progress", "done": -1, "total": 1},
        {"type": "progress", "done": 1.5, "total": 1},
        {"type": "progress", "done": True, "total": 1},
        {"type": "metric", "name": "n", "value": "text"},
        {"type": "metric", "name": "n", "value": [1]},
        {"type": "metric", "name": "n" * 65, "value": 1},
        {"type": "metric", "name": "", "value": 1},
        {"type": "metric", "name": 1, "value": 1},
        {"type": "failed", "kind": "LEAK"},
        {"type": "failed", "kind": ["ValueError"]},
        b'{"type": "metric", "name": "n", "value": NaN}',
        b'{"type": "ready", "type": "done"}',
        b"{" * 200,
        b"\xff\xfe",
        b"x",
    ],
)
def test_headers_of_another_form(pair: Pair, header: Any) -> None:
    assert code_of(pair, frame(header)) == "sandbox.protocol"


def test_header_sizes(pair: Pair) -> None:
    assert code_of(pair, struct.pack("<IQ", 0, 0)) == "sandbox.protocol"


@pytest.mark.parametrize("length", [513, 1 << 20, 2**32 - 1])
def test_oversize_header_is_refused_before_it_is_read(pair: Pair, length: int) -> None:
    assert code_of(pair, struct.pack("<IQ", length, 0)) == "sandbox.protocol"


@pytest.mark.parametrize("length", [101, 2**40, 2**64 - 1])
def test_oversize_payload_is_refused_before_it_is_read(pair: Pair, length: int) -> None:
    channel, theirs = pair
    theirs.sendall(frame({"type": "checkpoint"}, length=length))
    with pytest.raises(LimitError) as e:
        channel.receive()
    assert e.value.code == "checkpoint.limit"
    assert code_of(pair, frame({"type": "output", "name": "m"}, length=length)) == "output.limit"


def test_a_payload_that_this_machine_cannot_hold(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the job agreed on: the agent must not end for want of memory."""
    monkeypatch.setattr(module, "free_bytes", lambda: 200)
    assert code_of(pair, frame({"type": "checkpoint"}, length=51)) == "checkpoint.limit"


def test_unknown_output_is_refused_before_it_is_read(pair: Pair) -> None:
    assert code_of(pair, frame({"type": "output", "name": "unknown"}, length=9)) == "output.unknown"


def test_payload_where_none_belongs(pair: Pair) -> None:
    assert code_of(pair, frame({"type": "ready"}, b"hidden")) == "sandbox.protocol"


def test_ends_in_the_middle(pair: Pair) -> None:
    assert code_of(pair, frame({"type": "output", "name": "m"}, b"12")[:-1], close=True) == (
        "sandbox.protocol"
    )


@pytest.mark.parametrize("cut", [1, 11, 12, 20])
def test_stalls_in_the_middle(pair: Pair, cut: int) -> None:
    begun = time.monotonic()
    assert code_of(pair, frame({"type": "output", "name": "m"}, b"12")[:cut]) == "sandbox.protocol"
    assert time.monotonic() - begun < 2


def test_a_trickle_is_a_stall(pair: Pair) -> None:
    """One byte at a time does not renew the time that a frame has."""
    channel, theirs = pair
    over = threading.Event()

    def trickle() -> None:
        for byte in frame({"type": "progress", "done": 1, "total": 2}) * 3:
            if over.wait(0.03):
                return
            theirs.send(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        with pytest.raises(SvetovidError) as e:
            channel.receive()
        assert e.value.code == "sandbox.protocol"
    finally:
        over.set()
        thread.join()


def test_rewriting_a_buffer_after_it_was_sent_gains_nothing(pair: Pair) -> None:
    """T8: what was received is the host's own copy."""
    channel, theirs = pair
    buffer = bytearray(frame({"type": "output", "name": "m"}, b"agreed"))
    theirs.sendall(buffer)
    buffer[:] = bytes(len(buffer))
    message = channel.receive()
    assert message is not None
    assert message.payload == b"agreed"


def test_descriptors_sent_along_are_dropped(pair: Pair) -> None:
    """A sandbox cannot push descriptors into the agent."""
    channel, theirs = pair
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Path("/dev/null").open("rb") as f:
        for _ in range(20):
            socket.send_fds(theirs, [frame({"type": "ready"})], [f.fileno()])
            assert channel.receive() == Message("ready")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_one_that_does_not_read_its_answers(pair: Pair) -> None:
    channel, _ = pair
    with pytest.raises(SvetovidError) as e:
        any(channel.answer("taken") for _ in range(100_000))
    assert e.value.code == "sandbox.protocol"


def test_one_that_is_gone(pair: Pair) -> None:
    channel, theirs = pair
    theirs.close()
    channel.answer("taken")
    assert channel.receive() is None


@given(data=st.binary(max_size=120))
def test_any_bytes_give_our_errors_only(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, room, stall_s=0.05)
    with theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        try:
            while channel.receive() is not None:
                pass
        except SvetovidError as e:
            assert e.code in ("sandbox.protocol", "output.limit", "checkpoint.limit")  # noqa: PT017
    channel.close()


def test_both_ends_agree(pair: Pair) -> None:
    """The sandbox's own writer, read by the host."""
    channel, theirs = pair
    wire = Wire(theirs.detach())
    wire.send("metric", name="n", value=1.5)
    assert channel.receive() == Message("metric", name="n", value=1.5)
    asked = threading.Thread(target=wire.ask, args=("output", b"abc"), kwargs={"name": "m"})
    asked.start()
    assert channel.receive() == Message("output", name="m", payload=b"abc")
    channel.answer("taken")
    asked.join(5)
    assert not asked.is_alive()
    channel.close()
    with pytest.raises(OSError):  # noqa: PT011
        wire.ask("checkpoint", b"")


def test_kinds_of_failure() -> None:
    class OwnError(KeyError):
        pass

    for error, kind in [
        (OwnError(), "KeyError"),
        (UnicodeDecodeError("x", b"", 0, 1, ""), "ValueError"),
        (ZeroDivisionError(), "ArithmeticError"),
        (KeyboardInterrupt(), "other"),
        (type("ValueError", (Exception,), {})(), "other"),
    ]:
        assert kind_of(error) == kind
        assert kind in KINDS
