"""The worker: what is not a message in its place ends the connection, and nothing outlives it."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.linkworld import children
from offload.memory_link import expanded
from svetovid.errors import HostError, SvetovidError, TransportError
from svetovid.offload import exact, kernels, wire
from svetovid.offload.field import FIELDS, M31, P21
from svetovid.offload.links import linked, local, started
from svetovid.offload.links.channel import Channel
from svetovid.offload.product import Product
from svetovid.offload.work import Term, Work
from svetovid.offload.worker import expansion
from svetovid.offload.worker.engine import Engine
from svetovid.offload.worker.local import main
from svetovid.offload.worker.session import serve

TINY = Product("matmul", (1, 1, 2), (1, 2, 1), (1, 1, 1))
WORK = Work(TINY, M31.p, (Term(1, ((1, 1),), ((2, 1),)),), 1)
LIMITS = wire.Limits(numbers=1000, macs=1000, shared=1 << 20)


class Trusted:
    """A trusted side that says whatever a test wants.

    Attributes:
        ended: why the worker, in a thread, left.
    """

    def __init__(self, *, shared: bool = False, **more: Any) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(10)
        self.ended: SvetovidError | None = None
        self.seq = 0
        channel = Channel(theirs, descriptors=shared)

        def run() -> None:
            try:
                self.ended = serve(channel, Engine(), LIMITS, **more)
            except HostError as e:
                self.ended = e

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def say(self, kind: type[Any], *fields: Any, fd: int | None = None, more: bytes = b"") -> None:
        """The next message."""
        self.seq += 1
        self.raw(wire.encode(kind(self.seq, *fields)) + more, fd)

    def raw(self, data: bytes, fd: int | None = None) -> None:
        socket.send_fds(self.sock, [data], [] if fd is None else [fd])

    def reply(self) -> dict[str, Any]:
        (length,) = wire.PREFIX.unpack(self._exactly(4))
        answer: dict[str, Any] = json.loads(self._exactly(length))
        return answer

    def numbers(self, count: int) -> list[int]:
        return np.frombuffer(self._exactly(4 * count), np.int32).tolist()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            some = self.sock.recv(size - len(data))
            assert some, "the worker closed"
            data += some
        return data

    def operands(self) -> None:
        for number in (1, 2):
            self.say(wire.Operand, number, 2, more=np.array([3, 4], np.int32).tobytes())

    def closed(self) -> str:
        """Why the worker left, once it did."""
        try:
            while self.sock.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        self._thread.join(10)
        assert self.ended is not None
        return self.ended.code

    def leave(self) -> str:
        self.sock.shutdown(socket.SHUT_WR)
        return self.closed()


@pytest.fixture
def memory() -> Iterator[list[int]]:
    """Two memories of 8192 bytes: their descriptors."""
    fds = [os.memfd_create("test") for _ in range(2)]
    for fd in fds:
        os.pwrite(fd, np.arange(2048, dtype=np.int32).tobytes(), 0)
    yield fds
    for fd in fds:
        os.close(fd)


def test_it_does_work_and_then_forgets() -> None:
    trusted = Trusted()
    trusted.operands()
    trusted.say(wire.Multiply, WORK)
    assert trusted.reply() == {"type": "answer", "seq": 3, "count": 1}
    assert trusted.numbers(1) == [25]
    trusted.say(wire.Drop)
    trusted.say(wire.Multiply, WORK)
    assert trusted.reply() == {"type": "refused", "seq": 5, "reason": "worker.miss"}
    trusted.say(wire.Ping)
    assert trusted.reply() == {"type": "answer", "seq": 6, "count": 0}
    assert trusted.leave() == "worker.gone"


def test_the_oldest_operands_are_forgotten_first() -> None:
    trusted = Trusted()
    for number, count in ((1, 400), (2, 600), (1, 400), (3, 2)):
        trusted.say(wire.Seed, number, count, M31.p, bytes(32))
    for number, held in ((1, True), (2, False), (3, True)):
        size = {1: 400, 2: 600, 3: 2}[number]
        product = Product("matmul", (1, 1, size), (1, size, 1), (1, 1, 1))
        term = Term(1, ((number, 1),), ((number, 1),))
        trusted.say(wire.Multiply, Work(product, M31.p, (term,), 1))
        answer = trusted.reply()
        assert (answer["type"] == "answer") is held
        if held:
            trusted.numbers(1)
    assert trusted.leave() == "worker.gone"


def test_an_operand_that_comes_again_counts_once() -> None:
    trusted = Trusted()
    for number, count in ((1, 400), (1, 400), (2, 600)):
        trusted.say(wire.Seed, number, count, M31.p, bytes(32))
    for number, size in ((1, 400), (2, 600)):
        product = Product("matmul", (1, 1, size), (1, size, 1), (1, 1, 1))
        term = Term(1, ((number, 1),), ((number, 1),))
        trusted.say(wire.Multiply, Work(product, M31.p, (term,), 1))
        assert trusted.reply()["type"] == "answer"
        trusted.numbers(1)
    assert trusted.leave() == "worker.gone"


def test_a_connection_leaves_nothing_behind() -> None:
    first = Trusted()
    first.operands()
    assert first.leave() == "worker.gone"
    second = Trusted()
    second.say(wire.Multiply, WORK)
    assert second.reply()["reason"] == "worker.miss"
    assert second.leave() == "worker.gone"


# -- garbage


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_end_a_connection_and_nothing_else(data: bytes) -> None:
    trusted = Trusted()
    trusted.raw(data)
    assert trusted.leave() in ("worker.message", "worker.gone")


def test_a_message_cut_anywhere_ends_the_connection() -> None:
    whole = wire.encode(wire.Operand(1, 1, 2)) + bytes(8)
    for end in range(1, len(whole)):
        trusted = Trusted()
        trusted.raw(whole[:end])
        assert trusted.leave() == "worker.gone"


@pytest.mark.parametrize("length", [0, wire.MAX_HEADER + 1, 2**32 - 1])
def test_a_header_that_says_it_is_long_is_not_read(length: int) -> None:
    trusted = Trusted()
    trusted.raw(wire.PREFIX.pack(length))
    assert trusted.closed() == "worker.message"


@pytest.mark.parametrize("seq", [2, 0, 7])
def test_messages_come_in_order(seq: int) -> None:
    trusted = Trusted()
    trusted.say(wire.Ping)
    trusted.reply()
    trusted.say(wire.Ping)
    trusted.reply()
    trusted.raw(wire.encode(wire.Ping(seq)))
    assert trusted.closed() == "worker.message"


@pytest.mark.parametrize(
    "message",
    [
        wire.Operand(1, 1, 1001),
        wire.Seed(1, 1, 1001, M31.p, bytes(32)),
        wire.Memory(1, 1, (1 << 20) + 1, False),
        wire.Multiply(
            1, Work(Product("matmul", (1, 1, 1001), (1, 1001, 1), (1, 1, 1)), M31.p, WORK.terms, 1)
        ),
    ],
)
def test_what_is_too_much_is_refused_before_the_connection_ends(message: wire.Request) -> None:
    trusted = Trusted()
    trusted.raw(wire.encode(message))
    assert trusted.reply() == {"type": "refused", "seq": 1, "reason": "worker.limit"}
    assert trusted.closed() == "worker.limit"


def test_operands_of_another_size_than_the_product_says_end_it() -> None:
    trusted = Trusted()
    trusted.say(wire.Operand, 1, 3, more=bytes(12))
    trusted.say(wire.Operand, 2, 2, more=bytes(8))
    trusted.say(wire.Multiply, WORK)
    assert trusted.closed() == "worker.message"


@pytest.mark.parametrize("value", [-1, P21.p, 2**31 - 1])
def test_numbers_that_are_no_residues_end_it(value: int) -> None:
    trusted = Trusted()
    for number in (1, 2):
        trusted.say(wire.Operand, number, 2, more=np.array([0, value], np.int32).tobytes())
    trusted.say(wire.Multiply, Work(TINY, P21.p, WORK.terms, 1))
    assert trusted.closed() == "worker.operand"


def test_a_sum_of_operands_of_other_sizes_ends_it() -> None:
    trusted = Trusted()
    trusted.operands()
    trusted.say(wire.Operand, 3, 4, more=bytes(16))
    trusted.say(wire.Multiply, Work(TINY, M31.p, (Term(1, ((1, 1), (3, 1)), ((2, 1),)),), 1))
    assert trusted.closed() == "worker.message"


def test_parts_that_cannot_be_cut_end_it() -> None:
    trusted = Trusted()
    product = Product("matmul", (1, 1, 5), (1, 5, 1), (1, 1, 1))
    for number in (1, 2):
        trusted.say(wire.Seed, number, 5, M31.p, bytes(32))
    trusted.say(wire.Multiply, Work(product, M31.p, WORK.terms, 4))
    assert trusted.closed() == "offload.shape"


def test_who_stalls_in_a_message_is_left() -> None:
    for begun in (b"\x05", wire.encode(wire.Operand(1, 1, 2)) + b"\0"):
        trusted = Trusted(stall_s=0.1)
        trusted.raw(begun)
        assert trusted.closed() == "worker.silent"


def test_who_drips_a_message_is_left() -> None:
    trusted = Trusted(stall_s=0.2)
    start = time.monotonic()
    for byte in wire.encode(wire.Ping(1)) * 10:
        try:
            trusted.raw(bytes([byte]))
        except OSError:
            break
        time.sleep(0.02)
    assert trusted.closed() == "worker.silent"
    assert time.monotonic() - start < 2


def test_who_says_nothing_for_too_long_is_left() -> None:
    assert Trusted(idle_s=0.1).closed() == "worker.silent"


def test_who_reads_no_answers_is_left() -> None:
    trusted = Trusted(idle_s=0.2, stall_s=0.1)
    product = Product("matmul", (1, 31, 1), (1, 1, 31), (1, 31, 31))
    for number in (1, 2):
        trusted.say(wire.Seed, number, 31, M31.p, bytes(32))
    try:
        for _ in range(2000):
            trusted.say(wire.Multiply, Work(product, M31.p, WORK.terms, 1))
    except OSError:
        pass
    assert trusted.closed() == "worker.silent"


# -- shared memory


def test_it_reads_and_writes_where_it_is_told(memory: list[int]) -> None:
    trusted = Trusted(shared=True)
    trusted.say(wire.Memory, 0, 8192, False, fd=memory[0])
    trusted.say(wire.Memory, 1, 8192, True, fd=memory[1])
    trusted.say(wire.Operand, 1, 2, wire.Place(0, 12))
    trusted.say(wire.Operand, 2, 2, wire.Place(0, 8184))
    trusted.say(wire.Multiply, WORK, wire.Place(1, 40))
    assert trusted.reply() == {"type": "answer", "seq": 5, "count": 1}
    assert np.frombuffer(os.pread(memory[1], 12, 36), np.int32).tolist() == [
        9,
        3 * 2046 + 4 * 2047,
        11,
    ]
    trusted.say(wire.Drop, (0,))
    trusted.say(wire.Operand, 1, 2, wire.Place(0, 0))
    assert trusted.closed() == "worker.message"


@pytest.mark.parametrize(
    "at", [wire.Place(0, 8188), wire.Place(0, 2), wire.Place(1, 0), wire.Place(2, 0)]
)
def test_operands_lie_within_a_memory_of_operands(memory: list[int], at: wire.Place) -> None:
    trusted = Trusted(shared=True)
    trusted.say(wire.Memory, 0, 8192, False, fd=memory[0])
    trusted.say(wire.Memory, 1, 8192, True, fd=memory[1])
    trusted.say(wire.Operand, 1, 2, at)
    assert trusted.closed() == "worker.message"


@pytest.mark.parametrize(
    "at", [wire.Place(1, 8192), wire.Place(1, 1), wire.Place(0, 0), wire.Place(2, 0)]
)
def test_answers_lie_within_a_memory_of_answers(memory: list[int], at: wire.Place) -> None:
    trusted = Trusted(shared=True)
    trusted.operands()
    trusted.say(wire.Memory, 0, 8192, False, fd=memory[0])
    trusted.say(wire.Memory, 1, 8192, True, fd=memory[1])
    trusted.say(wire.Multiply, WORK, at)
    assert trusted.closed() == "worker.message"


def test_memory_is_what_it_is_said_to_be(memory: list[int]) -> None:
    read, write = os.pipe()
    readable = os.open(f"/proc/self/fd/{memory[0]}", os.O_RDONLY)
    for fd, size, answers in (
        (None, 8192, False),
        (memory[0], 8193, False),
        (read, 8192, False),
        (readable, 8192, True),
    ):
        trusted = Trusted(shared=True)
        trusted.say(wire.Memory, 0, size, answers, fd=fd)
        assert trusted.closed() == "worker.message"
    for fd in (read, write, readable):
        os.close(fd)


def test_a_memory_is_handed_over_once_and_within_the_limit(memory: list[int]) -> None:
    big = os.memfd_create("big")
    os.ftruncate(big, 1 << 20)
    trusted = Trusted(shared=True)
    trusted.say(wire.Memory, 0, 8192, False, fd=memory[0])
    trusted.say(wire.Memory, 0, 8192, False, fd=memory[1])
    assert trusted.closed() == "worker.message"
    trusted = Trusted(shared=True)
    trusted.say(wire.Memory, 0, 8192, False, fd=memory[0])
    trusted.say(wire.Memory, 1, 1 << 20, False, fd=big)
    assert trusted.reply()["reason"] == "worker.limit"
    assert trusted.closed() == "worker.limit"
    os.close(big)


def test_a_memory_that_is_not_there_cannot_be_dropped() -> None:
    trusted = Trusted(shared=True)
    trusted.say(wire.Drop, (0,))
    assert trusted.closed() == "worker.message"


def test_descriptors_that_nobody_asked_for_end_it_and_are_closed(memory: list[int]) -> None:
    gc.collect()  # sockets of other tests, which would be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    trusted = Trusted(shared=True)
    trusted.say(wire.Ping, fd=memory[0])
    assert trusted.closed() == "worker.message"
    trusted.sock.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- arithmetic


@pytest.mark.parametrize("p", sorted(FIELDS))
@pytest.mark.parametrize("count", [1, 3, 4, 5, 1 << 20, (1 << 20) + 7])
def test_masks_are_those_of_the_specification(p: int, count: int) -> None:
    """The long ones have words that are not below the prime."""
    key = bytes(range(32))
    want = expanded(key, p, count)
    pure, native = (np.empty(count, np.int32) for _ in range(2))
    expansion.expanded(key, p, pure)
    expansion.expand(key, p, native)
    assert np.array_equal(pure, want)
    assert np.array_equal(native, want)


def test_words_at_the_prime_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that are written here: the first word below the prime is taken, wherever it is."""
    p = P21.p
    streams = [[p, 1, 2**21 - 1, p - 1], [5 + 2**30, 6, p, 8], [9, 10, 7, 12]]

    def words(key: bytes, stream: int, first: int, count: int) -> np.ndarray:
        return np.array(streams[stream][first : first + count], np.uint32)

    monkeypatch.setattr(expansion, "_words", words)
    out = np.empty(4, np.int32)
    expansion.expanded(bytes(32), p, out)
    assert out.tolist() == [5, 1, 7, p - 1]


def test_without_native_kernels_the_slow_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise HostError("offload.kernels")

    monkeypatch.setattr(kernels, "expand", missing)
    out = np.empty(9, np.int32)
    expansion.expand(bytes(32), M31.p, out)
    assert np.array_equal(out, expanded(bytes(32), M31.p, 9))


@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory\nand a long story"),
        MemoryError("no room"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["device", "numpy", "processor"],
)
def test_work_that_is_too_large_for_the_device_is_refused(
    full: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the connection, and not the worker, which serves the next."""

    def multiply(*_: object, **__: object) -> torch.Tensor:
        raise full

    monkeypatch.setattr(exact, "multiply", multiply)
    trusted = Trusted()
    trusted.operands()
    trusted.say(wire.Multiply, WORK)
    assert trusted.reply()["reason"] == "worker.limit"
    assert trusted.closed() == "worker.limit"
    assert "story" not in str(trusted.ended)


def test_a_device_that_fails_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: unspecified launch failure\nand a long story")

    monkeypatch.setattr(exact, "multiply", broken)
    trusted = Trusted()
    trusted.operands()
    trusted.say(wire.Multiply, WORK)
    assert trusted.closed() == "worker.compute"
    assert trusted.ended is not None
    assert "story" not in str(trusted.ended)


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "meta:x", ""])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(HostError, match=r"worker\.device"):
        Engine(device)


def test_a_device_that_rounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = exact.multiply
    monkeypatch.setattr(exact, "multiply", lambda *a, **k: real(*a, **k) ^ 1)
    with pytest.raises(HostError, match=r"worker\.kernel"):
        Engine().test()


# -- the process


def test_help_says_where_networks_are_served(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "svetovid worker serve" in capsys.readouterr().out


def test_garbage_costs_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(Engine, "test", lambda _: None)
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(wire.PREFIX.pack(7) + b"garbage")
        assert main([f"--socket={theirs.detach()}"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "worker.message" in said


def test_a_device_that_is_not_there_costs_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert main(["--socket=0", "--device=abacus"]) == HostError.exit_code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_worker_knows_nothing_of_the_run_and_ends_with_its_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "_LEAVES_S", 0.2)
    monkeypatch.setenv("RUN_NAME", "secret-run")
    before = children()
    link = started(identity="secret-worker", operator="secret-operator")
    (pid,) = children() - before
    told = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    os.kill(pid, signal.SIGSTOP)
    link.close()
    assert b"secret" not in told
    assert pid not in children()


def test_a_worker_that_does_not_come_up_is_gone_with_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    before = children()
    with pytest.raises(TransportError, match=r"worker\.gone"):
        started(identity="worker-1", operator="ann")
    assert children() == before


def test_one_link_a_socket() -> None:
    ours, theirs = socket.socketpair()
    link = linked(ours, identity="worker-1", operator="ann")
    link.close()
    assert theirs.recv(1) == b""
    theirs.close()
