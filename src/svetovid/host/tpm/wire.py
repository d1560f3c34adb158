"""Commands into bytes and responses out of them (TPM 2.0 Library, Parts 1 and 3): strict, bounded.

A TPM is hardware on a bus that its machine's owner can touch, so its answers are read like any
other hostile bytes: a wrong tag, length or trailing byte is refused, never guessed at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from svetovid.errors import HostError, ParseError
from svetovid.evidence.tpm import Cc, Rc, Rh, SessionAttr, St
from svetovid.evidence.tpm.wire import Reader as StructureReader
from svetovid.evidence.tpm.wire import tpm2b
from svetovid.host.tpm.transports import MAX_COMMAND, Transport

__all__ = [
    "PASSWORD",
    "Reader",
    "Session",
    "TpmRefusedError",
    "execute",
    "u8",
    "u16",
    "u32",
]

_HEADER = 10
_AGAIN = frozenset({Rc.RETRY, Rc.YIELDED, Rc.NV_RATE})
"""Warnings that ask for the same command once more."""
_TRIES = 12
_WITH_HANDLE = frozenset({Cc.CREATE_PRIMARY, Cc.LOAD, Cc.START_AUTH_SESSION})
"""Commands whose response begins with a handle."""


def u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Session:
    """One authorization: a session handle that continues, or the empty password."""

    handle: int = Rh.PW

    def area(self) -> bytes:
        keep = 0 if self.handle == Rh.PW else SessionAttr.CONTINUE
        return u32(self.handle) + tpm2b(b"") + u8(keep) + tpm2b(b"")


PASSWORD = Session()
"""The empty password: hierarchies and objects here have no secret of their own."""


def _malformed(expected: str, observed: object) -> ParseError:
    return ParseError(
        "tpm.malformed",
        expected=expected,
        observed=observed,
        next_step="check the TPM and what stands between: its answer is no TPM 2.0 response",
    )


class Reader(StructureReader):
    """Reads a response; ``tpm.malformed`` at the first byte that is missing or too many."""

    __slots__ = ()

    def __init__(self, data: bytes) -> None:
        super().__init__(data, "tpm.malformed")

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def rest(self) -> bytes:
        return self.take(self.left)


def base_code(code: int) -> int:
    """A format-one code (Part 2, 6.6.2) without its handle, parameter or session number."""
    return code & 0x0BF if code & 0x080 else code


_NEXT_STEP: dict[int, str] = {
    Rc.INITIALIZE: "the TPM was not started: reboot, or start swtpm with startup-clear",
    Rc.LOCKOUT: "wait, or run tpm2_dictionarylockout --clear-lockout",
    Rc.OBJECT_MEMORY: "flush transient objects (tpm2_flushcontext -t), or use /dev/tpmrm0",
    Rc.SESSION_MEMORY: "flush sessions (tpm2_flushcontext -l), or use /dev/tpmrm0",
    Rc.AUTH_FAIL: "a hierarchy has a password: this software needs owner and endorsement empty",
    Rc.INTEGRITY: "what was sealed was altered, or sealed by another TPM",
    Rc.HANDLE: "what was asked for is not in this TPM",
    Rc.NV_UNINITIALIZED: "write or increment the NV index first",
}


class TpmRefusedError(HostError):
    """``tpm.rc``: the TPM answered with a response code other than success.

    Attributes:
        rc: the response code, without handle, parameter or session number.
    """

    def __init__(self, command: Cc, code: int) -> None:
        self.rc = base_code(code)
        name = next((f"TPM_RC_{rc.name} " for rc in Rc if rc == self.rc), "")
        super().__init__(
            "tpm.rc",
            expected=f"TPM2_{command.name} to succeed",
            observed=f"{name}{code:#05x}",
            next_step=_NEXT_STEP.get(self.rc, f"look the code up: tpm2_rc_decode {code:#x}"),
        )


def _parse(command: Cc, response: bytes, sessions: int) -> tuple[int, Reader]:
    """Handle (0 if none) and parameters of a response."""
    reader = Reader(response)
    tag, size, code = reader.uint(2), reader.uint(4), reader.uint(4)
    if size != len(response):
        raise _malformed(f"{size} bytes, as announced", f"{len(response)} bytes")
    if code != Rc.SUCCESS:
        if tag != St.NO_SESSIONS or size != _HEADER:
            raise _malformed("an error of ten bytes", f"tag {tag:#06x}, {size} bytes")
        raise TpmRefusedError(command, code)
    if tag != (St.SESSIONS if sessions else St.NO_SESSIONS):
        raise _malformed("the tag that the command had", f"{tag:#06x}")
    handle = reader.uint(4) if command in _WITH_HANDLE else 0
    if sessions:
        parameters = Reader(reader.take(reader.uint(4)))
        for _ in range(sessions):
            # Our sessions carry no response HMAC; their place is read all the same.
            reader.sized(32), reader.uint(1), reader.sized(32)
        reader.done()
        return handle, parameters
    return handle, Reader(reader.rest())


def execute(
    transport: Transport,
    command: Cc,
    *,
    handles: Sequence[int] = (),
    sessions: Sequence[Session] = (),
    parameters: bytes = b"",
) -> tuple[int, Reader]:
    """Run one command; answers its handle (0 where it has none) and its response parameters.

    Raises:
        HostError: ``tpm.rc`` with the response code by name.
        ParseError: ``tpm.malformed``.
        TransportError: ``tpm.transport``.
    """
    area = b"".join(s.area() for s in sessions)
    body = b"".join(u32(h) for h in handles)
    body += (u32(len(area)) + area if sessions else b"") + parameters
    tag = St.SESSIONS if sessions else St.NO_SESSIONS
    message = u16(tag) + u32(_HEADER + len(body)) + u32(command) + body
    if len(message) > MAX_COMMAND:
        raise _malformed(f"a command of at most {MAX_COMMAND} bytes", f"{len(message)} bytes")
    for attempt in range(_TRIES):
        try:
            return _parse(command, transport.transmit(message), len(sessions))
        except TpmRefusedError as e:
            if e.rc not in _AGAIN or attempt == _TRIES - 1:
                raise
            # The first retry is free: libtpms asks for one after it has written its state.
            time.sleep(0.0005 * (1 << attempt) if attempt else 0)
    raise AssertionError("unreachable")
