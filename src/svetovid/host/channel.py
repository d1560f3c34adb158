"""The one way out of a sandbox: frames over a socket pair. docs/spec/sandbox-channel.md.

A frame is ``<u32 header length> <u64 payload length> header payload``, little-endian; the header
is a small JSON object of a closed set of forms, the payload raw bytes. Everything is read into this
process's own memory first and looked at after, so a sandbox that changes its copy gains nothing
(T8). A frame that is not of these forms ends the job.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from svetovid.crypto import canonical
from svetovid.crypto.canonical import load_json
from svetovid.errors import InputError, LimitError, ParseError
from svetovid.host.sandbox.memory import free_bytes
from svetovid.host.waiting import readable
from svetovid.training._wire import KINDS

__all__ = ["Answer", "Channel", "Message", "protocol_error"]

Step = Literal["begin", "operand", "multiply", "end"]
Type = Literal["ready", "progress", "metric", "output", "checkpoint", "done", "failed"] | Step
Answer = Literal["taken", "again"]
_PREFIX = struct.Struct("<IQ")
_MAX_HEADER = 512
_MAX_COUNT = 2**53 - 1
_SHARE = 0.25
"""Of the free memory, what one payload may take: it is copied and written anew."""
_BYTES_PER_S = 1 << 20
"""A payload slower than this is taken for a stall."""


@dataclass(frozen=True, slots=True)
class Message:
    """One validated message.

    Attributes:
        type: which; it says which of the others are set.
        name: of a metric or output.
        value: of a metric.
        done, total: of progress.
        kind: of a failure, one of :data:`svetovid.training._wire.KINDS`.
        step: number of a step.
        count: numbers of an operand.
        a, b, product: what is to be multiplied with what, and how, as the sandbox says.
        payload: of an output or checkpoint, a private copy.
    """

    type: Type
    name: str = ""
    value: float = 0
    done: int = 0
    total: int = 0
    kind: str = ""
    step: int = 0
    count: int = 0
    a: int = 0
    b: int = 0
    product: object = None
    payload: bytes = b""


def protocol_error(expected: str, observed: object = "") -> ParseError:
    return ParseError(
        "sandbox.protocol",
        expected=expected,
        observed=observed,
        next_step="let the job's code speak through svetovid.training only",
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64


_FORMS: dict[str, dict[str, Callable[[object], bool]]] = {
    "ready": {},
    "progress": {"done": _is_count, "total": _is_count},
    "metric": {"name": _is_name, "value": _is_number},
    "output": {"name": _is_name},
    "checkpoint": {},
    "done": {},
    "failed": {"kind": lambda v: isinstance(v, str) and v in KINDS},
    "begin": {"step": _is_count},
    "operand": {"count": _is_count},
    "multiply": {"a": _is_count, "b": _is_count, "product": lambda v: isinstance(v, dict)},
    "end": {},
}
_WITH_PAYLOAD = frozenset({"output", "checkpoint"})


def _read_header(data: bytes) -> dict[str, Any]:
    try:
        header = load_json(data, max_bytes=_MAX_HEADER, max_depth=3)
    except InputError as e:
        raise protocol_error("a header of strict JSON", e.code) from e
    kind = header.get("type") if isinstance(header, dict) else None
    form = _FORMS.get(kind) if isinstance(kind, str) else None
    if form is None:
        raise protocol_error("a known type of message")
    if header.keys() != form.keys() | {"type"}:
        raise protocol_error(f"exactly the fields of {header['type']}")
    for name, check in form.items():
        if not check(header[name]):
            raise protocol_error(f"a sound {name} in {header['type']}")
    return header  # type: ignore[no-any-return]


class Channel:
    """The host's end.

    Args:
        sock: a connected stream socket; this object closes it.
        room: bytes that a payload of this type and name may have, asked before it is read; raises
            to refuse.
        stall_s: how long a frame that was begun may rest.
    """

    def __init__(
        self,
        sock: socket.socket,
        room: Callable[[str, str], int],
        *,
        stall_s: float = 30.0,
    ) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._room = room
        self._stall_s = stall_s
        self._ended = False

    def receive(self) -> Message | None:
        """The next message; None once the other side is gone, or after :meth:`end`. Waits for as
        long as it takes to begin, and a bounded time to end.

        Raises:
            ParseError: ``sandbox.protocol``.
            LimitError: ``output.limit``, ``checkpoint.limit``; whatever ``room`` raises.
        """
        readable(self._sock.fileno())
        if self._ended:
            return None
        prefix = bytearray(_PREFIX.size)
        if not self._fill(memoryview(prefix), may_end=True):
            return None
        header_bytes, payload_bytes = _PREFIX.unpack(prefix)
        if not 0 < header_bytes <= _MAX_HEADER:
            raise protocol_error(f"a header of at most {_MAX_HEADER} bytes", header_bytes)
        raw = bytearray(header_bytes)
        self._fill(memoryview(raw))
        header = _read_header(bytes(raw))
        payload = b""
        if header["type"] in _WITH_PAYLOAD:
            payload = self._payload(header["type"], header.get("name", ""), payload_bytes)
        elif payload_bytes:
            raise protocol_error(f"no payload with {header['type']}", payload_bytes)
        return None if self._ended else Message(**header, payload=payload)

    def _payload(self, kind: str, name: str, length: int) -> bytes:
        room = min(self._room(kind, name), int(free_bytes() * _SHARE))
        if length > room:
            raise LimitError(
                f"{kind}.limit",
                expected=f"at most {room} bytes",
                observed=f"{length} bytes",
                next_step=f"save a smaller {kind}, or agree on a larger limit",
            )
        data = bytearray(length)
        self._fill(memoryview(data), length / _BYTES_PER_S)
        return bytes(data)

    def _fill(self, view: memoryview, more_s: float = 0.0, *, may_end: bool = False) -> bool:
        end = time.monotonic() + self._stall_s + more_s
        empty = may_end
        while view:
            try:
                # Without room for ancillary data: descriptors that are sent along are dropped.
                got = self._sock.recv_into(view)
            except BlockingIOError:
                left = end - time.monotonic()
                if left <= 0 or not readable(self._sock.fileno(), left):
                    raise protocol_error("a frame to be sent in one go", "a stall") from None
                continue
            except ConnectionError:
                got = 0
            if got == 0:
                if empty:
                    return False
                raise protocol_error("a whole frame", "an end in its middle")
            view = view[got:]
            empty = False
        return True

    def answer(self, answer: Answer) -> None:
        """Tell the sandbox that what it sent is taken, or that a step is to be done again.

        Raises:
            ParseError: ``sandbox.protocol`` where it does not read its answers.
        """
        said = canonical({"type": answer})
        try:
            if self._sock.send(_PREFIX.pack(len(said), 0) + said) != _PREFIX.size + len(said):
                raise BlockingIOError
        except BlockingIOError as e:
            raise protocol_error("a sandbox that reads its answers") from e
        except OSError:
            return  # it is gone; whoever waits for it sees that

    def end(self) -> None:
        """Take nothing any more, whoever still holds the other end. Any thread may call."""
        self._ended = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()
