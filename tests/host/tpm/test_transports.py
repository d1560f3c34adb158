"""The three ways to a TPM, and what can be wrong with each."""

from __future__ import annotations

import errno
import os
import pty
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from svetovid.errors import HostError, InputError, TransportError
from svetovid.host.tpm import DeviceTransport, LibtpmsTransport, SwtpmTransport, open_transport
from svetovid.host.tpm import libtpms as libtpms_module

STARTUP = bytes.fromhex("80010000000c000001440000")
OK = bytes.fromhex("80010000000a00000000")
needs_libtpms = pytest.mark.usefixtures("tpm_library")


@pytest.fixture
def tpm_library(tmp_path: Path) -> None:
    try:
        LibtpmsTransport(tmp_path / "probe").close()
    except HostError as e:
        pytest.skip(e.reason.observed)


@pytest.mark.parametrize(
    "spec",
    ["", "device:", "libtpms:", "libtpms", "swtpm:tcp:host", "swtpm:tcp::2321", "swtpm:unix:",
     "swtpm:tcp:h:0", "swtpm:tcp:h:65536", "swtpm:tcp:h:x", "swtpm:tcp:h:²", "tcp:h:1",
     "swtpm:tcp:h:" + "9" * 5000],
)  # fmt: skip
def test_specs_that_name_no_tpm(spec: str) -> None:
    with pytest.raises(InputError) as e:
        open_transport(spec)
    assert e.value.code == "tpm.spec"


@pytest.mark.parametrize("way", ["swtpm:tcp:127.0.0.1:1", "swtpm:unix:", "device:"])
def test_absent(tmp_path: Path, way: str) -> None:
    spec = way if way[-1] == "1" else f"{way}{tmp_path}/none"
    with pytest.raises(HostError) as e:
        open_transport(spec)
    assert e.value.code == "tpm.absent"
    assert e.value.reason.next_step


def test_a_plain_file_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError) as e:
        DeviceTransport(str(tmp_path / "file"))
    assert e.value.code == "tpm.absent"


@pytest.fixture
def device() -> Iterator[tuple[str, int]]:
    """A terminal in raw mode: a character device whose other end is ours."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield os.ttyname(slave), master
    os.close(slave)
    os.close(master)


def test_device(device: tuple[str, int]) -> None:
    name, master = device
    transport = open_transport(f"device:{name}")
    assert isinstance(transport, DeviceTransport)
    assert transport.owns_power is False
    os.write(master, OK)
    assert transport.transmit(STARTUP) == OK
    assert os.read(master, 100) == STARTUP
    transport.close()
    transport.close()
    with pytest.raises(TransportError):
        transport.transmit(STARTUP)


@pytest.mark.parametrize("answer", [b"", OK[:9], OK + b"x", b"\x80\x01" + b"\xff" * 8, bytes(10)])
def test_device_answers_of_impossible_length(device: tuple[str, int], answer: bytes) -> None:
    name, master = device
    transport = DeviceTransport(name, timeout_s=0.02)
    os.write(master, answer)
    with pytest.raises(TransportError) as e:
        transport.transmit(STARTUP)
    assert e.value.code == "tpm.transport"
    transport.close()


def test_device_that_takes_half_a_command(
    device: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = DeviceTransport(device[0])
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) // 2)
    with pytest.raises(TransportError) as e:
        transport.transmit(STARTUP)
    assert e.value.code == "tpm.transport"
    transport.close()


def _server(path: Path, behave: Callable[[socket.socket], None]) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        with listener, listener.accept()[0] as peer:
            peer.recv(4096)
            behave(peer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "behave",
    [
        lambda s: None,  # hangs up
        lambda s: s.sendall(OK[:7]),
        lambda s: s.sendall(b"\x80\x01" + b"\xff" * 8),  # 4 GiB announced
        lambda s: s.sendall(b"\x80\x01" + bytes(8)),  # nothing announced
        lambda s: s.sendall(b"\x80\x01\0\0\x10\0" + bytes(4)),  # less than announced
        lambda s: s.recv(1),  # never answers
    ],
)
def test_swtpm_that_misbehaves(tmp_path: Path, behave: Callable[[socket.socket], None]) -> None:
    thread = _server(tmp_path / "s", behave)
    transport = SwtpmTransport(str(tmp_path / "s"), timeout_s=0.1)
    with pytest.raises(TransportError) as e:
        transport.transmit(STARTUP)
    assert e.value.code == "tpm.transport"
    transport.close()
    thread.join()


def test_a_peer_that_drips_bytes_gains_no_time(tmp_path: Path) -> None:
    stop = threading.Event()

    def drip(peer: socket.socket) -> None:
        for byte in OK * 100:
            if stop.wait(0.02):
                return
            peer.sendall(bytes([byte]))

    thread = _server(tmp_path / "s", drip)
    transport = SwtpmTransport(str(tmp_path / "s"), timeout_s=0.1)
    with pytest.raises(TransportError) as e:
        transport.transmit(STARTUP)
    assert e.value.code == "tpm.transport"
    stop.set()
    thread.join()
    transport.close()


@needs_libtpms
def test_one_libtpms_in_a_process(tmp_path: Path) -> None:
    first = LibtpmsTransport(tmp_path / "a")
    with pytest.raises(HostError) as e:
        LibtpmsTransport(tmp_path / "b")
    assert e.value.code == "tpm.one_per_process"
    first.close()
    first.close()
    with pytest.raises(TransportError):
        first.transmit(STARTUP)
    second = LibtpmsTransport(tmp_path / "b")
    assert second.transmit(STARTUP) == OK
    second.close()


@needs_libtpms
def test_one_process_a_state_file(tmp_path: Path) -> None:
    mine = LibtpmsTransport(tmp_path / "a")
    code = (
        "import sys; from svetovid.host.tpm import open_transport\n"
        "from svetovid.errors import HostError\n"
        "try: open_transport('libtpms:' + sys.argv[1])\n"
        "except HostError as e: print(e.code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True
    )
    mine.close()
    assert run.stdout.strip() == "tpm.busy", run.stderr


@needs_libtpms
@pytest.mark.parametrize(
    "content", [b"", b"{}", b"junk", b'{"blobs":{"permall":"AAAA"}}', b'{"blobs":{"permall":1}}']
)
def test_a_broken_state_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(HostError) as e:
        LibtpmsTransport(path)
    assert e.value.code == "tpm.state"
    assert path.read_bytes() == content
    other = LibtpmsTransport(tmp_path / "good")  # the failure left nothing open
    assert other.transmit(STARTUP) == OK
    other.close()


@needs_libtpms
def test_a_state_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    LibtpmsTransport(path).close()
    path.chmod(0o640)
    with pytest.raises(HostError) as e:
        LibtpmsTransport(path)
    assert e.value.code == "tpm.state"


@needs_libtpms
def test_a_state_file_behind_a_link_or_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for path in (tmp_path / "link", tmp_path / "real" / "state"):
        with pytest.raises(HostError) as e:
            LibtpmsTransport(path)
        assert e.value.code == "tpm.state"


@needs_libtpms
def test_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = LibtpmsTransport(tmp_path / "state")

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(libtpms_module, "write_private", full)
    with pytest.raises(HostError) as e:  # TPM2_Startup counts resets, so it writes
        transport.transmit(STARTUP)
    assert e.value.code == "tpm.state"
    transport.close()


def test_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libtpms_module, "_LIBRARY", "libtpms-not-there.so.0")
    with pytest.raises(HostError) as e:
        LibtpmsTransport(tmp_path / "state")
    assert e.value.code == "tpm.absent"
    assert "libtpms0" in e.value.reason.next_step


@needs_libtpms
def test_what_the_library_deletes_is_gone_from_the_file(tmp_path: Path) -> None:
    transport = LibtpmsTransport(tmp_path / "state")
    transport.transmit(STARTUP)
    name = next(iter(transport._blobs)).encode()
    assert transport._on_delete(0, name, 1) == 0
    assert transport._on_delete(0, name, 0) == 0
    assert transport._on_delete(0, name, 1) != 0
    assert name not in (tmp_path / "state").read_bytes()
    transport.close()


@needs_libtpms
def test_a_library_that_fails(tmp_path: Path) -> None:
    transport = LibtpmsTransport(tmp_path / "state")

    class Failing:
        def TPMLIB_Process(self, *_: object) -> int:
            return 9

    real, transport._library = transport._library, Failing()
    with pytest.raises(TransportError) as e:
        transport.transmit(STARTUP)
    assert e.value.code == "tpm.transport"
    transport._library = real
    transport.close()
