"""An exchange ends in time, however slowly the manager takes and gives its bytes (T12)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from svetovid.crypto import Identity, Secret, b64encode
from svetovid.errors import TransportError
from svetovid.manager.tls import make_certificate, server_context
from svetovid.protocol import ManagerClient, ManagerPin
from svetovid.protocol.timed import TimedTransport

ME, MANAGER = Identity.generate("me"), Identity.generate("manager")
TOTAL_S, READ_S, DRIP_S = 0.8, 0.5, 0.1
"""Each byte comes well before the limit of one read, and the last never."""

Serve = Callable[[socket.socket, ssl.SSLContext], None]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, bytes]:
    path: Path = tmp_path_factory.mktemp("tls") / "tls.pem"
    make_certificate(path, "127.0.0.1", Secret(b"key"), int(time.time()))
    return server_context(path, Secret(b"key"))


@contextlib.contextmanager
def listening(tls: tuple[ssl.SSLContext, bytes], serve: Serve) -> Iterator[ManagerPin]:
    """A manager of this kind, until the test is over."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = listener.accept()
                    threading.Thread(target=one, args=(taken,), daemon=True).start()

        def one(taken: socket.socket) -> None:
            with contextlib.suppress(OSError):
                serve(taken, tls[0])

        threading.Thread(target=accept, daemon=True).start()
        yield ManagerPin(
            card=MANAGER.signed_card(),
            tls_certificate=b64encode(tls[1]),
            url=f"https://127.0.0.1:{listener.getsockname()[1]}",
        )
        listener.shutdown(socket.SHUT_RDWR)


def drip(to: socket.socket, data: bytes) -> None:
    while True:
        for byte in data:
            to.sendall(bytes([byte]))
            time.sleep(DRIP_S)


def handshake(taken: socket.socket, _: ssl.SSLContext) -> None:
    drip(taken, b"\x16\x03\x03\x40\x00" + bytes(1 << 14))


def headers(taken: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(taken, server_side=True) as s:
        s.recv(1 << 16)
        s.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
        drip(s, b"a")


def informed(taken: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(taken, server_side=True) as s:
        s.recv(1 << 16)
        while True:
            s.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(DRIP_S)


def body(taken: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(taken, server_side=True) as s:
        s.recv(1 << 16)
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        drip(s, b" ")


def reading(taken: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(taken, server_side=True) as s:
        while s.recv(1 << 14):
            time.sleep(DRIP_S)


@pytest.mark.parametrize("serve", [handshake, headers, informed, body])
def test_t12_an_answer_that_drips_is_not_waited_for(
    tls: tuple[ssl.SSLContext, bytes], serve: Serve
) -> None:
    with (
        listening(tls, serve) as pin,
        ManagerClient(pin, ME, timeout_s=READ_S, total_s=TOTAL_S) as client,
    ):
        begun = time.monotonic()
        with pytest.raises(TransportError) as e:
            client.status()
        assert e.value.code == "transport.timeout"
        assert time.monotonic() - begun < TOTAL_S + READ_S


def test_t12_nor_is_a_manager_that_takes_a_request_bit_by_bit(
    tls: tuple[ssl.SSLContext, bytes],
) -> None:
    with listening(tls, reading) as pin:
        transport = TimedTransport(_trusting(), total_s=TOTAL_S, keepalive_s=1.0)
        with httpx.Client(transport=transport, timeout=READ_S) as client:
            begun = time.monotonic()
            with pytest.raises(httpx.TimeoutException):
                client.post(pin.url, content=bytes(32 << 20))
            assert time.monotonic() - begun < TOTAL_S + READ_S


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_addresses_of_one_name_share_the_time(
    tls: tuple[ssl.SSLContext, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with many addresses behind which nobody answers is no way round the limit."""
    tried: list[float] = []

    def nobody(address: tuple[str, int], timeout: float, **_: object) -> socket.socket:
        tried.append(timeout)
        time.sleep(timeout)
        raise TimeoutError

    many = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{i}", 1)) for i in range(9)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: many)
    monkeypatch.setattr(socket, "create_connection", nobody)
    with httpx.Client(
        transport=TimedTransport(_trusting(), total_s=0.5, keepalive_s=1.0), timeout=30
    ) as client:
        begun = time.monotonic()
        with pytest.raises(httpx.TimeoutException):
            client.get("https://manager.test/")
        assert time.monotonic() - begun < 1.0
    assert len(tried) >= 8


def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    transport = TimedTransport(_trusting(), total_s=1.0, keepalive_s=1.0)
    with httpx.Client(transport=transport) as client, pytest.raises(httpx.TransportError):
        client.get("https://manager.test/")
