"""Between machines: one certificate on each side, and nobody else gets a word in."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from offload.linkworld import Tls, transport
from svetovid.crypto import digest
from svetovid.errors import InputError, IntegrityError, TransportError
from svetovid.offload.field import M31
from svetovid.offload.links import FramedLink, make_certificate
from svetovid.offload.links.channel import Channel
from svetovid.offload.links.stream import TlsStream
from svetovid.offload.product import Product
from svetovid.offload.wire import Limits
from svetovid.offload.work import Term, Work
from svetovid.offload.worker.engine import Engine
from svetovid.offload.worker.listener import Listener
from svetovid.offload.worker.session import serve

TINY = Work(
    Product("matmul", (1, 1, 2), (1, 2, 1), (1, 1, 1)),
    M31.p,
    (Term(1, ((1, 1),), ((1, 1),)),),
    1,
)


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Tls]:
    with transport("tls", tmp_path) as made:
        assert isinstance(made, Tls)
        yield made


def serving(tls: Tls, sessions: int = 1, **more: object) -> Listener:
    """A worker in a thread, for so many connections."""
    listener = tls.listener(**more)

    def run() -> None:
        for _ in range(sessions):
            serve(listener.accept(), Engine(), Limits())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    tls._open.callback(thread.join, 10)
    return listener


def works(link: FramedLink) -> bool:
    link.send(1, 2, lambda out: np.copyto(out, [3, 4]))
    return bool(link.ask(TINY).wait()[0] == 25)


def stranger(tls: Tls, certificate: Path | None) -> ssl.SSLContext:
    """As a client who does not mind whom he speaks to."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        made.load_cert_chain(certificate)
    return made


def turned_away(context: ssl.SSLContext, port: int) -> bool:
    """Whether a handshake, or the first word after it, is refused."""
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        try:
            with context.wrap_socket(plain) as sock:
                sock.sendall(b"\x17\0\0\0" + b'{"seq":1,"type":"ping"}')
                return sock.recv(1) == b""
        except OSError:
            return True


def issued(folder: Path, name: str, by: Path | None = None) -> Path:
    """A certificate of an authority (``by`` itself where none is given), as a user may bring it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = subject, key
    if by is not None:
        issuer = x509.load_pem_x509_certificate(by.with_suffix(".crt").read_bytes()).subject
        loaded = _key(by)
        signer = loaded
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .sign(signer, SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    path = folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem)
    path.with_suffix(".crt").write_bytes(pem)
    return path


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def pin(path: Path) -> str:
    return digest(ssl.PEM_cert_to_DER_cert(path.with_suffix(".crt").read_text()))


def test_strangers_are_turned_away_and_the_pinned_one_served(tls: Tls, tmp_path: Path) -> None:
    listener = serving(tls)
    make_certificate(tmp_path / "other.pem")
    old = stranger(tls, tls.trusted)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert turned_away(stranger(tls, None), listener.port)
    assert turned_away(stranger(tls, tmp_path / "other.pem"), listener.port)
    assert turned_away(stranger(tls, tls.worker), listener.port)
    assert turned_away(old, listener.port)
    with socket.create_connection(("127.0.0.1", listener.port), 10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
    assert works(tls.connected(listener.port))


def test_a_stranger_who_holds_our_certificate_without_its_key_is_turned_away(
    tls: Tls, tmp_path: Path
) -> None:
    listener = serving(tls)
    make_certificate(tmp_path / "other.pem")
    mixed = tmp_path / "mixed.pem"
    key = (tmp_path / "other.pem").read_bytes().split(b"-----BEGIN CERT")[0]
    mixed.write_bytes(key + tls.trusted.with_suffix(".crt").read_bytes())
    with pytest.raises(ssl.SSLError):
        stranger(tls, mixed)  # OpenSSL itself does not take it; so nobody gets as far as asking
    assert works(tls.connected(listener.port))


def test_a_worker_with_another_certificate_is_not_spoken_to(tls: Tls, tmp_path: Path) -> None:
    other = make_certificate(tmp_path / "other.pem")
    listener = serving(tls, 2)
    with pytest.raises(IntegrityError, match=r"worker\.certificate"):
        tls.connected(listener.port, identity=other)
    assert works(tls.connected(listener.port))


def test_a_file_must_hold_the_certificate_that_is_pinned(tls: Tls, tmp_path: Path) -> None:
    other = make_certificate(tmp_path / "other.pem")
    with pytest.raises(IntegrityError, match=r"worker\.certificate"):
        tls.listener(identity=other)


def test_a_pinned_authority_answers_for_itself_alone(tls: Tls, tmp_path: Path) -> None:
    """Who pins a certificate that can sign others has not pinned these."""
    authority = issued(tmp_path, "authority")
    leaf = issued(tmp_path, "leaf", authority)
    listener = serving(tls, peer=authority.with_suffix(".crt"), identity=pin(authority))
    assert turned_away(stranger(tls, leaf), listener.port)
    assert works(tls.connected(listener.port, own=authority))

    theirs = serving(tls, 2, own=leaf)
    with pytest.raises(IntegrityError, match=r"worker\.certificate"):
        tls.connected(theirs.port, identity=pin(authority))
    assert works(tls.connected(theirs.port, identity=pin(leaf)))


def test_who_stalls_a_handshake_keeps_nobody_out(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    most = [0]
    go_on = Listener._go_on

    def counted(self: Listener, sock: TlsStream) -> Channel | None:
        most[0] = max(most[0], len(self._begun))
        return go_on(self, sock)

    monkeypatch.setattr(Listener, "_go_on", counted)
    listener = serving(tls, handshake_s=0.3)
    idle = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(40)]
    start = time.monotonic()
    assert works(tls.connected(listener.port))
    assert time.monotonic() - start < 10
    assert most[0] == 16
    for sock in idle:
        sock.close()


def test_who_drips_a_handshake_is_dropped(tls: Tls) -> None:
    listener = serving(tls, handshake_s=0.3)
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", listener.port)) as sock:
        sock.settimeout(0.05)

        def dropped() -> bool:
            try:
                sock.send(b"\x16")
                return sock.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        sock.send(b"\x16\x03\x01\x40\0\x01")
        while not dropped():
            assert time.monotonic() - start < 5
    assert works(tls.connected(listener.port))


def test_a_worker_that_never_shakes_hands_is_silent(tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        with pytest.raises(TransportError, match=r"worker\.silent"):
            tls.connected(server.getsockname()[1], timeout_s=0.3)
        assert time.monotonic() - start < 5


def test_an_address_where_nobody_is_is_unreachable(tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TransportError, match=r"worker\.unreachable"):
        tls.connected(port)


def test_an_address_that_is_taken_is_said(tls: Tls) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(InputError, match=r"worker\.address"),
    ):
        Listener(
            "127.0.0.1",
            server.getsockname()[1],
            own=tls.worker,
            peer=tls.trusted.with_suffix(".crt"),
            identity=tls.trusted_pin,
        )


def test_who_waits_for_a_worker_is_woken_from_another_thread(tls: Tls) -> None:
    link, peer = tls.peered(timeout_s=60)
    link.send(1, 2, lambda out: np.copyto(out, [3, 4]))
    answer = link.ask(TINY)
    timer = threading.Timer(0.2, link.abort)
    timer.start()
    begun = time.monotonic()
    with pytest.raises(TransportError, match=r"worker\.gone"):
        answer.wait()
    assert time.monotonic() - begun < 5
    with pytest.raises(TransportError):
        link.send(2, 2, lambda out: np.copyto(out, [3, 4]))
    link.abort()
    assert peer


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\n", b"\0" * 100_000])
def test_files_that_are_no_certificates_are_named(
    tls: Tls, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "broken.crt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"worker\.certificate_file"):
        tls.connected(1, own=path)
    for given in ({"peer": path}, {"own": path}):
        with pytest.raises(InputError, match=r"worker\.certificate_file"):
            tls.listener(**given)


def test_a_key_is_for_its_owner_alone(tls: Tls) -> None:
    assert tls.worker.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in tls.worker.with_suffix(".crt").read_bytes()
    assert pin(tls.worker) == tls.worker_pin


def test_who_taps_the_line_reads_nothing(tls: Tls) -> None:
    listener = serving(tls)
    tapped = bytearray()
    relay = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with source, sink, contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                tapped.extend(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def run() -> None:
        with relay:
            near, _ = relay.accept()
        far = socket.create_connection(("127.0.0.1", listener.port))
        threading.Thread(target=pump, args=(far, near), daemon=True).start()
        pump(near, far)

    threading.Thread(target=run, daemon=True).start()
    link = tls.connected(relay.getsockname()[1])
    assert works(link)
    link.send(2, 1000, lambda out: out.fill(0x5A5A5A5A))
    link.ping(10)
    assert len(tapped) > 4000
    assert b"matmul" not in tapped
    assert b"\x5a" * 8 not in tapped
