"""The sandbox's end of its one channel; docs/spec/sandbox-channel.md."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading

__all__ = ["KINDS", "Wire", "kind_of"]

_PREFIX = struct.Struct("<IQ")

KINDS = frozenset(
    {
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "FileNotFoundError",
        "ImportError",
        "IndexError",
        "KeyError",
        "MemoryError",
        "NameError",
        "OSError",
        "PermissionError",
        "RuntimeError",
        "SyntaxError",
        "SystemExit",
        "TypeError",
        "ValueError",
        "other",
    }
)
"""All that a failed script tells: one word of these. A message or traceback could carry data."""


def kind_of(error: BaseException) -> str:
    """The nearest of :data:`KINDS` among an error's built-in classes."""
    names = (c.__name__ for c in type(error).__mro__ if c.__module__ == "builtins")
    return next((n for n in names if n in KINDS), "other")


class Wire:
    """Sends frames; one at a time, from whichever thread of the process that made it."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def send(self, type_: str, payload: bytes | bytearray = b"", **fields: object) -> None:
        """Send one message.

        Raises:
            RuntimeError: in a forked process (a DataLoader worker): the channel is its parent's.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("only the main process speaks to the host")
        header = json.dumps({"type": type_, **fields}, allow_nan=False).encode()
        with self._lock:
            self._sock.sendall(_PREFIX.pack(len(header), len(payload)) + header)
            self._sock.sendall(payload)

    def ask(self, type_: str, payload: bytes | bytearray = b"", **fields: object) -> str:
        """Send, and wait for the host's answer: its type."""
        self.send(type_, payload, **fields)
        header_bytes, _ = _PREFIX.unpack(self._read(_PREFIX.size))
        return str(json.loads(self._read(header_bytes))["type"])

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._sock.recv(length - len(data))
            if not part:
                raise ConnectionError("the host is gone")
            data += part
        return data
