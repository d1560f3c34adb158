"""Three ways to a TPM 2.0, behind one small interface: bytes of a command in, of a response out.

``device:/dev/tpmrm0``, ``swtpm:tcp:HOST:PORT`` or ``swtpm:unix:PATH`` (the data socket of
``swtpm socket --server``), and ``libtpms:STATEFILE`` (in process; see :mod:`.libtpms`). A transport
knows how long a response may be and how long it may take; what the bytes say is none of its
business, so a lying device meets its match in :mod:`.wire`.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path
from typing import Protocol

from svetovid.errors import HostError, InputError, TransportError
from svetovid.host.waiting import readable

__all__ = [
    "MAX_COMMAND",
    "MAX_RESPONSE",
    "DeviceTransport",
    "SwtpmTransport",
    "Transport",
    "open_transport",
]

MAX_COMMAND = 4096
MAX_RESPONSE = 4096
"""TPM_PT_MAX_RESPONSE_SIZE of every TPM in the field; nothing longer is ever read."""
_HEADER = 10
_TIMEOUT_S = 120.0
"""A discrete TPM may need this long to make an RSA key (TCG PC Client profile, 6.5.1)."""


class Transport(Protocol):
    """A way to one TPM.

    Attributes:
        owns_power: the TPM starts and stops with us, so we send TPM2_Startup and TPM2_Shutdown.
            A device's are sent by firmware and kernel.
    """

    @property
    def owns_power(self) -> bool:
        """Whether the TPM starts and stops with us."""
        ...

    def transmit(self, command: bytes) -> bytes:
        """Send one command and return its whole response.

        Raises:
            TransportError: ``tpm.transport`` where no answer, or none of a possible size, came.
        """
        ...

    def close(self) -> None:
        """Let go of the TPM; nothing is sent any more."""
        ...


def lost(expected: str, observed: object) -> TransportError:
    return TransportError(
        "tpm.transport",
        expected=expected,
        observed=observed,
        next_step="check that the TPM (or swtpm) still runs, then restart the agent",
    )


def response_length(header: bytes) -> int:
    """Length that a response's first ten bytes announce.

    Raises:
        TransportError: ``tpm.transport`` where the length is impossible.
    """
    length = int.from_bytes(header[2:6], "big") if len(header) >= _HEADER else 0
    if not _HEADER <= length <= MAX_RESPONSE:
        raise lost(f"a response of {_HEADER} to {MAX_RESPONSE} bytes", f"{length} bytes")
    return length


class DeviceTransport:
    """The kernel's character device; use the resource-managed one, ``/dev/tpmrm0``."""

    owns_power = False

    def __init__(self, path: str = "/dev/tpmrm0", *, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        try:
            # O_NONBLOCK: the kernel then works while we poll, and a dead chip cannot hang us.
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as e:
            raise HostError(
                "tpm.absent",
                expected=f"a TPM 2.0 at {path}",
                observed=e.strerror or str(e),
                next_step="run as a member of group tss, or use libtpms: (apt-get install"
                " libtpms0), which protects nothing",
            ) from e
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            os.close(fd)
            raise HostError(
                "tpm.absent",
                expected=f"a character device at {path}",
                observed="another kind of file",
                next_step="name the TPM's device, for example device:/dev/tpmrm0",
            )
        self._fd = fd

    def transmit(self, command: bytes) -> bytes:
        """As :meth:`Transport.transmit`."""
        try:
            if os.write(self._fd, command) != len(command):
                raise lost("the whole command taken at once", "a part of it")
            if not readable(self._fd, self._timeout_s):
                raise lost(f"an answer within {self._timeout_s:g} s", "none")
            # The driver gives a response with one read; a longer one than ours is cut and refused.
            answer = os.read(self._fd, MAX_RESPONSE + 1)
        except OSError as e:
            raise lost("an answer from the TPM", e.strerror or e) from e
        if response_length(answer) != len(answer):
            raise lost("as many bytes as announced", f"{len(answer)} bytes")
        return answer

    def close(self) -> None:
        """Close the device. A second time it does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SwtpmTransport:
    """The data socket of ``swtpm socket --server``, over TCP or a unix path. Protects nothing."""

    owns_power = True

    def __init__(self, address: tuple[str, int] | str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(address)
        except OSError as e:
            self._socket.close()
            raise HostError(
                "tpm.absent",
                expected=f"swtpm listening at {address}",
                observed=e.strerror or str(e),
                next_step="start it: swtpm socket --tpm2 --server ... --flags not-need-init",
            ) from e

    def _receive(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            # One deadline for all of it: a peer that drips bytes gains no more time.
            left = deadline - time.monotonic()
            if left <= 0:
                raise lost(f"an answer within {self._timeout_s:g} s", f"{len(data)} bytes")
            self._socket.settimeout(left)
            part = self._socket.recv(count - len(data))
            if not part:
                raise lost("an answer", "the connection was closed")
            data += part
        return bytes(data)

    def transmit(self, command: bytes) -> bytes:
        """As :meth:`Transport.transmit`."""
        deadline = time.monotonic() + self._timeout_s
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(command)
            header = self._receive(_HEADER, deadline)
            return header + self._receive(response_length(header) - _HEADER, deadline)
        except OSError as e:
            raise lost("an answer from swtpm", e.strerror or e) from e

    def close(self) -> None:
        """Close the connection; the TPM goes on."""
        self._socket.close()


def _bad_spec(spec: str) -> InputError:
    return InputError(
        "tpm.spec",
        expected="device:PATH, swtpm:tcp:HOST:PORT, swtpm:unix:PATH or libtpms:STATEFILE",
        observed=spec,
        next_step="name the TPM in one of these four ways",
    )


def open_transport(spec: str) -> Transport:
    """Open the TPM that ``spec`` names.

    Raises:
        InputError: ``tpm.spec`` where it names none.
        HostError: ``tpm.absent``, ``tpm.one_per_process``, ``tpm.state``, ``tpm.busy``.
    """
    from svetovid.host.tpm.libtpms import LibtpmsTransport

    kind, _, rest = spec.partition(":")
    if not rest:
        raise _bad_spec(spec)
    if kind == "device":
        return DeviceTransport(rest)
    if kind == "libtpms":
        return LibtpmsTransport(Path(rest))
    way, _, address = rest.partition(":")
    if kind == "swtpm" and way == "unix" and address:
        return SwtpmTransport(address)
    if kind == "swtpm" and way == "tcp":
        host, _, port = address.rpartition(":")
        if host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16:
            return SwtpmTransport((host, int(port)))
    raise _bad_spec(spec)
