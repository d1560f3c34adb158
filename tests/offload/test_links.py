"""Links to workers, over every transport: what is asked is done, and whoever lies is cut off."""

from __future__ import annotations

import errno
import fcntl
import gc
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from offload.linkworld import Peer, Transport, transport
from offload.memory_link import expanded
from offload.reference import product_of
from svetovid.errors import HostError, IntegrityError, LimitError, RefusalError, TransportError
from svetovid.offload.field import M31, P21, P24
from svetovid.offload.links import FramedLink
from svetovid.offload.links.channel import Channel
from svetovid.offload.product import Product
from svetovid.offload.recorder import Recorder
from svetovid.offload.wire import Answered, Limits, Refused, encode
from svetovid.offload.work import Term, Work

MATMUL = Product("matmul", (2, 3, 8), (2, 8, 5), (2, 3, 5))
CONV = Product("conv", (2, 3, 5, 5), (4, 3, 3, 3), (2, 4, 5, 5), (False, False), *[(1, 1)] * 3)
TINY = Product("matmul", (1, 1, 2), (1, 2, 1), (1, 1, 1))
ONE = (Term(1, ((1, 1),), ((2, 1),)),)


@pytest.fixture(scope="module", params=["local", "tls"])
def processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Transport]:
    """For real processes, which take seconds to start."""
    with transport(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture(scope="module")
def alive(processes: Transport) -> tuple[FramedLink, int]:
    return processes.process()


@pytest.fixture
def real(alive: tuple[FramedLink, int]) -> FramedLink:
    return alive[0]


@pytest.fixture(params=["local", "tls"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    with transport(request.param, tmp_path) as made:
        yield made


def residues(rng: np.random.Generator, count: int, p: int) -> np.ndarray:
    """Uniform, with both ends among them."""
    drawn = rng.integers(0, p, count, dtype=np.int32)
    drawn[:2] = 0, p - 1
    return drawn


def send(link: FramedLink, number: int, values: np.ndarray) -> None:
    link.send(number, values.size, lambda out: np.copyto(out, values))


def ones(link: FramedLink, *numbers: int, count: int = 2) -> None:
    for number in numbers:
        send(link, number, np.ones(count, np.int32))


def whole(product: Product, a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    return (product_of(product, a, b) % p).reshape(-1).astype(np.int32)


# -- a worker in a process of its own


@pytest.mark.parametrize("product", [MATMUL, CONV], ids=["matmul", "conv"])
@pytest.mark.parametrize("p", [P21.p, P24.p, M31.p])
def test_a_sum_of_products_of_sums_is_exact(real: FramedLink, product: Product, p: int) -> None:
    rng = np.random.default_rng(1)
    left = [residues(rng, int(np.prod(product.a)), p) for _ in range(3)]
    right = [residues(rng, int(np.prod(product.b)), p) for _ in range(2)]
    for number, values in enumerate([*left, *right]):
        send(real, number, values)
    terms = (Term(1, ((0, 1), (1, -1)), ((3, 1),)), Term(-1, ((2, 1),), ((4, -1),)))
    got = real.ask(Work(product, p, terms, 1)).wait().copy()
    real.drop()
    want = product_of(product, left[0] - left[1].astype(object), right[0])
    want = want + product_of(product, left[2], right[1])
    assert np.array_equal(got, (want % p).reshape(-1).astype(np.int32))


def test_a_reduction_is_answered_part_by_part(real: FramedLink) -> None:
    rng = np.random.default_rng(2)
    a, b = (residues(rng, 5 * 3, M31.p) for _ in range(2))
    product = Product("matmul", (1, 3, 5), (1, 5, 3), (1, 3, 3))
    send(real, 1, a)
    send(real, 2, b)
    got = real.ask(Work(product, M31.p, ONE, 2)).wait().reshape(2, -1).copy()
    real.drop()
    left, right = a.reshape(3, 5).astype(object), b.reshape(5, 3).astype(object)
    assert np.array_equal(got[0], (left[:, :3] @ right[:3] % M31.p).reshape(-1).astype(np.int32))
    assert np.array_equal(got[1], (left[:, 3:] @ right[3:] % M31.p).reshape(-1).astype(np.int32))


@pytest.mark.parametrize("p", [P21.p, M31.p])
def test_a_seed_stands_for_its_residues(real: FramedLink, p: int) -> None:
    key = bytes(range(32))
    real.seed(1, 48, key, p)
    send(real, 2, np.arange(80, dtype=np.int32))
    got = real.ask(Work(MATMUL, p, ONE, 1)).wait().copy()
    real.drop()
    assert np.array_equal(got, whole(MATMUL, expanded(key, p, 48), np.arange(80), p))


def test_answers_are_waited_for_in_any_order(real: FramedLink) -> None:
    ones(real, 1)
    asked = []
    for number in range(2, 8):
        send(real, number, np.full(2, number, np.int32))
        asked.append(real.ask(Work(TINY, M31.p, (Term(1, ((1, 1),), ((number, 1),)),), 1)))
    got = [int(answer.wait()[0]) for answer in reversed(asked)]
    real.drop()
    assert got == [2 * number for number in reversed(range(2, 8))]


def test_much_goes_both_ways_at_once(real: FramedLink) -> None:
    """Neither side waits for the other to read first."""
    size = 1200
    product = Product("matmul", (1, size, 1), (1, 1, size), (1, size, size))
    big = np.arange(size * size, dtype=np.int32)
    ones(real, 1, 2, count=size)
    asked = [real.ask(Work(product, M31.p, ONE, 1)) for _ in range(3)]
    for number in range(3, 6):
        send(real, number, big)
    assert all((answer.wait() == 1).all() for answer in asked)
    real.drop()


def test_shares_may_be_written_for_several_operands_in_one_pass(real: FramedLink) -> None:
    def both(first: np.ndarray) -> None:
        def fill(second: np.ndarray) -> None:
            first[:], second[:] = (3, 4), (5, 6)

        real.send(2, 2, fill)

    real.send(1, 2, both)
    assert real.ask(Work(TINY, M31.p, ONE, 1)).wait()[0] == 3 * 5 + 4 * 6
    real.drop()


def test_a_worker_that_is_killed_is_gone_at_once(alive: tuple[FramedLink, int]) -> None:
    link, pid = alive
    size = 2000
    product = Product("matmul", (1, size, size), (1, size, size), (1, size, size))
    ones(link, 1, 2, count=size * size)
    answer = link.ask(Work(product, M31.p, ONE, 1))
    threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
    start = time.monotonic()
    with pytest.raises(TransportError, match=r"worker\.gone"):
        answer.wait()
    assert time.monotonic() - start < 5


# -- what the trusted side may ask of a link


def test_a_step_uses_the_memory_of_the_last_one(way: Transport) -> None:
    recorder = Recorder()
    link = way.served(observer=recorder)
    for _ in range(3):
        ones(link, 1, 2)
        link.ask(Work(TINY, M31.p, ONE, 1)).wait()
        link.drop()
    kinds = [seen.kind for seen in recorder.seen]
    assert kinds.count("memory") == (2 if way.shared else 0)
    assert kinds.count("operand") == 6


def test_memory_that_need_not_rest_is_let_go_of(way: Transport) -> None:
    recorder = Recorder()
    link = way.served(observer=recorder, rest=0)
    for _ in range(2):
        ones(link, 1, 2)
        assert link.ask(Work(TINY, M31.p, ONE, 1)).wait()[0] == 2
        link.drop()
    named = [seen.message["memories"] for seen in recorder.seen if seen.kind == "drop"]
    assert named == ([[0, 1], [2, 3]] if way.shared else [[], []])


def test_what_a_worker_forgot_is_sent_again_the_same(way: Transport) -> None:
    recorder = Recorder()
    link = way.served(Limits(numbers=6), observer=recorder)
    rng = np.random.default_rng(3)
    values = {number: residues(rng, 2, M31.p) for number in (1, 2, 3)}
    for number, value in values.items():
        send(link, number, value)
    link.seed(4, 2, bytes(32), M31.p)
    pairs = [(1, 2), (3, 4), (1, 4), (2, 3)]
    asked = [link.ask(Work(TINY, M31.p, (Term(1, ((i, 1),), ((j, 1),)),), 1)) for i, j in pairs]
    got = [answer.wait()[0] for answer in asked]
    values[4] = expanded(bytes(32), M31.p, 2)
    assert got == [whole(TINY, values[i], values[j], M31.p)[0] for i, j in pairs]
    sent = [s for s in recorder.seen if s.kind in ("operand", "seed")]
    assert len(sent) > 4
    assert "worker.miss" in [s.message.get("reason") for s in recorder.seen]
    for seen in sent:
        assert np.array_equal(seen.numbers, values[seen.message["operand"]])


def test_work_beyond_a_workers_limits_is_refused(way: Transport) -> None:
    link = way.served(Limits(numbers=1 << 22, macs=1))
    ones(link, 1, 2)
    with pytest.raises(LimitError, match=r"worker\.limit"):
        link.ask(Work(TINY, M31.p, ONE, 1)).wait()
    with pytest.raises(LimitError, match=r"worker\.limit"):
        link.drop()


def test_work_whose_operands_are_never_held_together_is_refused(way: Transport) -> None:
    link = way.served(Limits(numbers=3))
    ones(link, 1, 2)
    with pytest.raises(LimitError, match=r"worker\.limit"):
        link.ask(Work(TINY, M31.p, ONE, 1)).wait()


def test_operands_are_of_one_step_and_sent_once(way: Transport) -> None:
    link = way.served()
    ones(link, 1, 2)
    with pytest.raises(RefusalError, match=r"worker\.operand"):
        ones(link, 1)
    with pytest.raises(RefusalError, match=r"worker\.operand"):
        link.seed(2, 2, bytes(32), M31.p)
    with pytest.raises(RefusalError, match=r"worker\.operand"):
        link.ask(Work(TINY, M31.p, (Term(1, ((1, 1),), ((3, 1),)),), 1))
    with pytest.raises(RefusalError, match=r"worker\.operand"):
        link.ask(Work(MATMUL, M31.p, ONE, 1))
    answer = link.ask(Work(TINY, M31.p, ONE, 1))
    link.drop()
    with pytest.raises(RefusalError, match=r"worker\.dropped"):
        answer.wait()
    with pytest.raises(RefusalError, match=r"worker\.operand"):
        link.ask(Work(TINY, M31.p, ONE, 1))
    ones(link, 1, 2)
    assert link.ask(Work(TINY, M31.p, ONE, 1)).wait()[0] == 2


def test_an_operand_that_could_not_be_filled_was_not_sent(way: Transport) -> None:
    link = way.served()

    def broken(out: np.ndarray) -> None:
        raise ValueError("not now")

    with pytest.raises(ValueError, match="not now"):
        link.send(1, 2, broken)
    ones(link, 1, 2)
    assert link.ask(Work(TINY, M31.p, ONE, 1)).wait()[0] == 2


def test_a_link_that_was_closed_says_so(way: Transport) -> None:
    link = way.served()
    ones(link, 1)
    link.close()
    link.close()
    for use in (link.drop, lambda: ones(link, 3), lambda: link.ping(1)):
        with pytest.raises(TransportError, match=r"worker\.closed"):
            use()


def test_an_answer_outlives_its_link(way: Transport) -> None:
    link = way.served()
    ones(link, 1, 2)
    got = link.ask(Work(TINY, M31.p, ONE, 1)).wait()
    link.close()
    del link
    gc.collect()
    assert got[0] == 2


# -- workers that lie


def asked(link: FramedLink, peer: Peer, works: int = 1) -> list[int]:
    """Have work asked for: its sequence numbers."""
    ones(link, 1, 2)
    for _ in range(works):
        link.ask(Work(TINY, M31.p, ONE, 1))
    return [peer.until("work")["seq"] for _ in range(works)]


def payload(way: Transport, count: int = 1) -> bytes:
    return b"" if way.shared else bytes(4 * count)


Lie = Callable[[Transport, list[int]], bytes]


def good(way: Transport, seq: int) -> bytes:
    return encode(Answered(seq, 1)) + payload(way)


LIES: dict[str, Lie] = {
    "of an old number": lambda way, seqs: good(way, seqs[0] - 1),
    "of a number to come": lambda way, seqs: good(way, seqs[-1] + 1),
    "out of order": lambda way, seqs: good(way, seqs[1]),
    "twice": lambda way, seqs: 2 * good(way, seqs[0]),
    "one number more": lambda way, seqs: encode(Answered(seqs[0], 2)) + payload(way, 2),
    "one number less": lambda way, seqs: encode(Answered(seqs[0], 0)),
    "far too many": lambda way, seqs: encode(Answered(seqs[0], 2**50)),
    "a long header": lambda way, seqs: b"\xff\xff\xff\xff",
    "no header": lambda way, seqs: bytes(4),
    "no JSON": lambda way, seqs: b"\x04\0\0\0null",
    "a request": lambda way, seqs: b"\x17\0\0\0" + b'{"seq":4,"type":"ping"}',
    "missed twice": lambda way, seqs: b"".join(
        encode(Refused(s, "worker.miss")) for s in (seqs[0], seqs[1], seqs[1] + 3)
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_none_ends_the_link(way: Transport, lie: str) -> None:
    link, peer = way.peered()
    ones(link, 1, 2)
    answers = [link.ask(Work(TINY, M31.p, ONE, 1)) for _ in range(2)]
    seqs = [peer.until("work")["seq"] for _ in answers]
    peer.raw(LIES[lie](way, seqs))
    with pytest.raises(IntegrityError, match=r"worker\.answer"):
        list(map(type(answers[0]).wait, answers))
    for use in (link.drop, answers[1].wait, lambda: ones(link, 3), lambda: link.ping(1)):
        with pytest.raises(IntegrityError, match=r"worker\.answer"):
            use()
    with pytest.raises((AssertionError, OSError)):
        peer.until("nothing more")


def test_an_answer_to_nothing_ends_the_link(way: Transport) -> None:
    link, peer = way.peered()
    peer.say(Answered(9, 0))
    with pytest.raises(IntegrityError, match=r"worker\.answer"):
        link.ping(5)


def test_a_ping_misses_no_operand(shared: tuple[FramedLink, Peer]) -> None:
    link, peer = shared
    peer.say(Refused(1, "worker.miss"))
    with pytest.raises(IntegrityError, match=r"worker\.answer"):
        link.ping(5)


@pytest.mark.parametrize("cut", range(1, 9))
def test_an_answer_cut_short_is_no_answer(way: Transport, cut: int) -> None:
    link, peer = way.peered()
    ones(link, 1, 2)
    answer = link.ask(Work(TINY, M31.p, ONE, 1))
    data = good(way, peer.until("work")["seq"])
    peer.raw(data[: len(data) * cut // 9])
    peer.close()
    with pytest.raises(TransportError, match=r"worker\.gone"):
        answer.wait()


def test_who_says_nothing_is_silent(way: Transport) -> None:
    link, peer = way.peered(timeout_s=0.2)
    ones(link, 1, 2)
    answer = link.ask(Work(TINY, M31.p, ONE, 1))
    for _ in range(2):
        with pytest.raises(TransportError, match=r"worker\.silent"):
            answer.wait()
    assert peer


def test_who_drips_is_silent_as_well(way: Transport) -> None:
    """Each byte comes in time; the message does not."""
    link, peer = way.peered(timeout_s=0.4)
    ones(link, 1, 2)
    answer = link.ask(Work(TINY, M31.p, ONE, 1))
    data = good(way, peer.until("work")["seq"])

    def drip() -> None:
        for i in range(len(data)):
            try:
                peer.raw(data[i : i + 1])
            except OSError:
                return
            time.sleep(0.05)

    thread = threading.Thread(target=drip)
    thread.start()
    start = time.monotonic()
    with pytest.raises(TransportError, match=r"worker\.silent"):
        answer.wait()
    assert time.monotonic() - start < 1.5
    thread.join()


def test_who_reads_nothing_is_silent_as_well(way: Transport) -> None:
    link, peer = way.peered(timeout_s=0.2)
    start = time.monotonic()

    def pour() -> None:
        for number in range(200_000):
            link.seed(number, 1, bytes(32), M31.p)

    with pytest.raises(TransportError, match=r"worker\.silent"):
        pour()
    assert peer
    assert time.monotonic() - start < 20


def test_what_was_a_workers_alone_stays_so(way: Transport) -> None:
    """No memory that one worker saw is ever given to another."""
    links = [way.peered() for _ in range(2)]
    for link, _ in links:
        send(link, 1, np.full(3, 7, np.int32))
        link.drop()
    seen = []
    for link, peer in links:
        send(link, 1, np.full(1, 8, np.int32))
        peer.until("drop")
        peer.until("operand")
        seen.append({os.fstat(fd).st_ino for fd in peer.received})
    assert not seen[0] & seen[1]


# -- memory that a hostile worker shares


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[tuple[FramedLink, Peer]]:
    with transport("local", tmp_path) as made:
        yield made.peered(timeout_s=0.5)


def test_memory_cannot_be_cut_or_grown_under_the_trusted_side(
    shared: tuple[FramedLink, Peer],
) -> None:
    link, peer = shared
    ones(link, 1, 2)
    answer = link.ask(Work(TINY, M31.p, ONE, 1))
    seq = peer.until("work")["seq"]
    for fd in peer.received:
        size = os.fstat(fd).st_size
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        for other in (0, size - 4096, size + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(again, other)
        with pytest.raises(PermissionError):
            fcntl.fcntl(again, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        os.close(again)
    peer.say(Answered(seq, 1))
    assert answer.wait()[0] == 0


def test_operands_are_mapped_for_reading_alone(shared: tuple[FramedLink, Peer]) -> None:
    link, peer = shared
    ones(link, 1)
    peer.until("operand")
    (fd,) = peer.received
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.pwrite(again, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(again, 4096)
    os.close(again)
    assert np.frombuffer(mmap.mmap(fd, 4096, prot=mmap.PROT_READ), np.int32, 2).tolist() == [1, 1]


def test_headers_are_never_read_from_shared_memory(shared: tuple[FramedLink, Peer]) -> None:
    """What a worker writes to all that it can write to changes answers, and nothing else."""
    link, peer = shared
    ones(link, 1, 2)
    answers = [link.ask(Work(TINY, M31.p, ONE, 1)) for _ in range(2)]
    seqs = [peer.until("work")["seq"] for _ in answers]
    memory = mmap.mmap(peer.received[1], 0)
    memory[:] = b"\xff" * len(memory)
    for seq in seqs:
        peer.say(Answered(seq, 1))
    assert [int(answer.wait()[0]) for answer in answers] == [-1, -1]
    link.drop()
    assert peer.until("drop")["memories"] == []


def test_descriptors_that_a_worker_sends_are_not_taken(shared: tuple[FramedLink, Peer]) -> None:
    link, peer = shared
    ones(link, 1, 2)
    answer = link.ask(Work(TINY, M31.p, ONE, 1))
    data = encode(Answered(peer.until("work")["seq"], 1))
    before = set(os.listdir("/proc/self/fd"))
    socket.send_fds(peer.sock, [data], [0, 1, 2])
    answer.wait()
    assert set(os.listdir("/proc/self/fd")) == before


def test_memory_that_cannot_be_had_is_an_error(
    way: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = way.served()
    with monkeypatch.context() as little:
        little.setattr(
            Path, "read_text", lambda *_: "MemTotal: 9999999 kB\nMemAvailable: 1000 kB\n"
        )
        with pytest.raises(HostError, match=r"worker\.memory"):
            ones(link, 1)
    ones(link, 1)


def test_a_kernel_that_gives_no_memory_is_an_error(
    shared: tuple[FramedLink, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    link, _ = shared
    gc.collect()  # what other tests left would close its descriptors in the midst
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(HostError, match=r"worker\.memory"):
        ones(link, 1)
    assert len(os.listdir("/proc/self/fd")) == before


# -- whole messages in time


def test_a_message_whose_pieces_are_always_there_has_its_time_too(
    shared: tuple[FramedLink, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a piece, and still it takes too long."""
    link, peer = shared
    real = Channel.receive

    def slow(self: Channel, into: memoryview) -> int:
        time.sleep(0.02)
        return real(self, into[:1])

    monkeypatch.setattr(Channel, "receive", slow)
    peer.say(Answered(1, 0))
    with pytest.raises(TransportError, match=r"worker\.silent"):
        link.ping(0.2)


def test_a_worker_that_reads_byte_by_byte_is_silent(
    shared: tuple[FramedLink, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: Channel, data: memoryview, descriptor: int | None = None) -> int:
        time.sleep(0.02)
        return 1

    monkeypatch.setattr(Channel, "send", slow)
    with pytest.raises(TransportError, match=r"worker\.silent"):
        shared[0].seed(1, 1, bytes(32), M31.p)


@pytest.mark.parametrize("use", ["read", "write"])
def test_a_channel_holds_whole_messages_to_their_time(
    use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: Channel, data: memoryview, descriptor: int | None = None) -> int:
        time.sleep(0.02)
        return 1

    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    monkeypatch.setattr(Channel, "receive", slow)
    monkeypatch.setattr(Channel, "send", slow)
    with theirs, pytest.raises(TransportError, match=r"worker\.silent"):
        getattr(channel, use)(memoryview(bytearray(100)), time.monotonic() + 0.2)
    channel.close()
