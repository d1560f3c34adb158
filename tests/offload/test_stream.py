"""TLS a piece at a time: what TLS says of its own accord holds nobody past a deadline."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import cast

import pytest

from svetovid.errors import TransportError
from svetovid.offload.links import make_certificate
from svetovid.offload.links.certificate import context
from svetovid.offload.links.channel import Channel
from svetovid.offload.links.stream import AT_ONCE, TlsStream

TICKETS = 20_000


class Fed:
    """A socket whose other end is in this process: all that it has sent is there at once."""

    def __init__(self) -> None:
        self.here = bytearray()
        self.sent = bytearray()
        self.reads = 0

    def recv(self, size: int) -> bytes:
        self.reads += 1
        data = bytes(self.here[:size])
        del self.here[:size]
        if not data:
            raise BlockingIOError
        return data

    def send(self, data: memoryview) -> int:
        self.sent += data
        return len(data)


class Server:
    """The other end; ``tickets`` come with the handshake, a message of TLS each."""

    def __init__(self, folder: Path, tickets: int) -> None:
        own = folder / "server.pem"
        make_certificate(own)
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        theirs.load_cert_chain(own)
        theirs.num_tickets = tickets
        self.got, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = theirs.wrap_bio(self.got, self.out, server_side=True)
        client = folder / "client.pem"
        make_certificate(client)
        self.sock = Fed()
        self.stream = TlsStream(cast(socket.socket, self.sock), context(client), server_side=False)
        for side in (self.stream, self.tls, self.stream, self.tls):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            self.moved()

    def moved(self) -> None:
        self.got.write(bytes(self.sock.sent))
        self.sock.sent.clear()
        self.sock.here += self.out.read()


def test_one_read_takes_a_bounded_piece(tmp_path: Path) -> None:
    server = Server(tmp_path, TICKETS)
    server.tls.write(b"at last")
    server.moved()
    waiting = len(server.sock.here)
    assert waiting > 8 * AT_ONCE
    channel, into = Channel(server.stream), memoryview(bytearray(16))
    calls = 0
    while not (got := channel.receive(into)):
        calls += 1
        assert server.sock.reads <= calls + 2
        assert len(server.sock.here) >= waiting - calls * AT_ONCE
    assert bytes(into[:got]) == b"at last"
    assert calls >= waiting // AT_ONCE


def test_what_was_begun_is_sent_whole_before_more(tmp_path: Path) -> None:
    server = Server(tmp_path, 0)
    data = memoryview(bytes(range(256)) * 4096)
    free = [0]
    take = server.sock.send

    def slow(some: memoryview) -> int:
        if not free[0]:
            raise BlockingIOError
        free[0] -= 1
        return take(some[:1000])

    server.sock.send = slow  # type: ignore[method-assign]
    channel, rest, got = Channel(server.stream), data, bytearray()
    while rest:
        free[0] = 7
        rest = rest[channel.send(rest) :]
    server.moved()
    while len(got) < len(data):
        got += server.tls.read(1 << 16)
    assert got == data


def test_an_end_without_goodbye_is_an_end(tmp_path: Path) -> None:
    server = Server(tmp_path, 0)

    def ended(size: int) -> bytes:
        return b""

    server.sock.recv = ended  # type: ignore[method-assign]
    with pytest.raises(TransportError, match=r"worker\.gone"):
        Channel(server.stream).receive(memoryview(bytearray(1)))
