"""A TPM that lies, or something that stands between: only our errors come out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svetovid.crypto import Secret
from svetovid.errors import HostError, ParseError, SvetovidError
from svetovid.evidence.tpm import Cc
from svetovid.host.tpm import Tpm, commands
from svetovid.host.tpm.transports import Transport
from svetovid.host.tpm.wire import TpmRefusedError, execute, u16, u32


class Scripted:
    """Answers what it was given, in turn, the last for ever."""

    owns_power = True

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []

    def transmit(self, command: bytes) -> bytes:
        self.sent.append(command)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def close(self) -> None: ...


class Altering:
    """A real TPM, one of whose answers is altered on its way."""

    owns_power = True

    def __init__(self, inner: Transport, code: Cc, alter: Callable[[bytes], bytes]) -> None:
        self.inner, self.code, self.alter = inner, code, alter

    def transmit(self, command: bytes) -> bytes:
        answer = self.inner.transmit(command)
        mine = int.from_bytes(command[6:10], "big") == self.code
        return self.alter(answer) if mine else answer

    def close(self) -> None: ...


def ok(body: bytes, *, sessions: bool = False, handle: bytes = b"") -> bytes:
    if sessions:
        body = handle + u32(len(body)) + body + b"\0\0\1\0\0"
    return u16(0x8002 if sessions else 0x8001) + u32(10 + len(body)) + u32(0) + body


OPERATIONS: dict[str, Callable[[Tpm], object]] = {
    "ek": lambda t: t.ek(),
    "ak": lambda t: t.ak(),
    "certificate": lambda t: t.ek_certificate(),
    "activate": lambda t: t.activate_credential(b"\0\1x", b"\0\1x"),
    "extend": lambda t: t.extend(10, bytes(32)),
    "read": lambda t: t.read_pcrs(),
    "quote": lambda t: t.quote(bytes(32)),
    "seal": lambda t: t.seal_to_srk(Secret(b"x")),
    "unseal": lambda t: t.unseal(b"\0\1x\0\1x"),
    "counter": lambda t: t.define_counter(0x01800001),
    "increment": lambda t: t.increment_counter(0x01800001),
    "startup": lambda t: t.startup(),
}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.binary(max_size=80), sessions=st.booleans(), raw=st.booleans())
def test_any_answer_gives_our_errors(name: str, body: bytes, sessions: bool, raw: bool) -> None:
    answer = body if raw else ok(body, sessions=sessions, handle=u32(0x80000000))
    tpm = Tpm(Scripted(answer))
    with contextlib.suppress(SvetovidError):
        OPERATIONS[name](tpm)
    tpm.close()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("quote", Cc.QUOTE),
        ("ak", Cc.CREATE_PRIMARY),
        ("read", Cc.PCR_READ),
        ("seal", Cc.CREATE),
        ("startup", Cc.GET_CAPABILITY),
    ],
)
def test_every_truncation_is_refused(tpm: Tpm, name: str, code: Cc) -> None:
    """TS3."""
    real = tpm._transport
    whole: list[bytes] = []
    recorder = Altering(real, code, lambda a: whole.append(a) or a)  # type: ignore[func-returns-value]
    with Tpm(recorder) as t:
        OPERATIONS[name](t)
    tpm.startup()
    for cut in range(len(whole[0])):
        shorter = whole[0][:cut]
        # Both the plain cut and one whose length field agrees with it.
        for bad in (shorter, shorter[:2] + u32(cut) + shorter[6:]):
            altered = Tpm(Altering(Scripted(whole[0]), code, lambda _, bad=bad: bad))
            with pytest.raises(SvetovidError) as e:
                _one(altered._transport, code)
            assert e.value.code in {"tpm.malformed", "tpm.bank"}


def _one(transport: Transport, code: Cc) -> None:
    if code == Cc.QUOTE:
        _, signature = commands.quote(transport, 0x80000000, bytes(32), [10])
        if len(signature) != 72:  # read further by whoever verifies it
            raise ParseError("tpm.malformed")
    elif code == Cc.CREATE_PRIMARY:
        commands.create_primary(transport, 0x4000000B, b"template")
    elif code == Cc.PCR_READ:
        commands.pcr_read(transport, range(11))
    elif code == Cc.CREATE:
        commands.create_sealed(transport, 0x80000000, b"template", b"x")
    else:
        commands.handles(transport, 0x80000000)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x80\x02" + u32(10) + u32(0),  # tag of a command with sessions
        b"\x80\x01" + u32(11) + u32(0),  # a length that is not so
        b"\x80\x01" + u32(10) + u32(0) + b"x",  # a trailing byte
        b"\x80\x01" + u32(11) + u32(0) + b"x",  # the same, with the length to go with it
        b"\x80\x02" + u32(10) + u32(0x101),  # an error with another tag
        b"\x80\x01" + u32(12) + u32(0x101) + b"xx",  # an error that says more
        b"",
    ],
)
def test_malformed_answers(answer: bytes) -> None:
    with pytest.raises(ParseError) as e:
        commands.startup(Scripted(answer))
    assert e.value.code == "tpm.malformed"


@pytest.mark.parametrize(
    ("code", "name"),
    [(0x922, "TPM_RC_RETRY"), (0x921, "TPM_RC_LOCKOUT"), (0x98E, "TPM_RC_AUTH_FAIL"), (0x7FF, "")],
)
def test_response_codes_are_named(code: int, name: str) -> None:
    transport = Scripted(b"\x80\x01" + u32(10) + u32(code))
    with pytest.raises(TpmRefusedError, match=r"tpm\.rc") as e:
        commands.startup(transport)
    assert e.value.code == "tpm.rc"
    assert name in e.value.reason.observed
    assert f"{code:#05x}" in e.value.reason.observed
    assert e.value.reason.next_step


def test_retry_is_bounded_and_heeded() -> None:
    again = b"\x80\x01" + u32(10) + u32(0x922)
    transport = Scripted(again, again, ok(b""))
    commands.startup(transport)
    assert len(transport.sent) == 3
    stubborn = Scripted(again)
    with pytest.raises(TpmRefusedError):
        commands.startup(stubborn)
    assert len(stubborn.sent) == 12


def test_an_oversize_command_is_not_sent() -> None:
    transport = Scripted(ok(b""))
    with pytest.raises(ParseError) as e:
        execute(transport, Cc.LOAD, parameters=bytes(5000))
    assert e.value.code == "tpm.malformed"
    assert transport.sent == []


def _pcr_answer(bank: int, pcrs: list[int], digests: list[bytes]) -> bytes:
    bits = sum(1 << i for i in pcrs).to_bytes(3, "little")
    selection = u32(1) + u16(bank) + b"\x03" + bits
    return ok(u32(7) + selection + u32(len(digests)) + b"".join(u16(len(d)) + d for d in digests))


@pytest.mark.parametrize(
    "answer",
    [
        _pcr_answer(0x000B, [], []),  # the bank is off
        _pcr_answer(0x0004, [10], [bytes(20)]),  # SHA-1 only (P2)
        _pcr_answer(0x000B, [11], [bytes(32)]),  # another PCR than was asked for, for ever
        _pcr_answer(0x000B, [10], [bytes(20)]),  # a value of another size
        _pcr_answer(0x000B, [10], []),
    ],
)
def test_no_sha256_bank(answer: bytes) -> None:
    """P2."""
    transport = Scripted(answer)
    with pytest.raises(HostError) as e:
        commands.pcr_read(transport, [10])
    assert e.value.code == "tpm.bank"
    assert len(transport.sent) == 1


def test_pcrs_that_never_stand_still(tpm: Tpm) -> None:
    moving = Tpm(Altering(tpm._transport, Cc.PCR_READ, lambda a: a[:-1] + bytes([a[-1] ^ 1])))
    with pytest.raises(HostError) as e:
        moving.quote(bytes(32))
    assert e.value.code == "tpm.pcrs_moving"


def test_a_huge_certificate_is_not_read() -> None:
    public = u32(0x01C0000A) + u16(0x000B) + u32(0) + u16(0) + u16(0xFFFF)
    transport = Scripted(ok(u16(len(public)) + public + u16(0)))
    with pytest.raises(ParseError) as e:
        Tpm(transport).ek_certificate()
    assert e.value.code == "tpm.malformed"
    assert len(transport.sent) == 1


def test_other_refusals_are_not_taken_for_absence() -> None:
    lockout = b"\x80\x01" + u32(10) + u32(0x921)
    for name in ("certificate", "counter", "startup"):
        with pytest.raises(TpmRefusedError):
            OPERATIONS[name](Tpm(Scripted(lockout)))


def test_a_device_is_neither_started_nor_shut_down() -> None:
    transport = Scripted(ok(b""))
    transport.owns_power = False
    tpm = Tpm(transport)
    assert tpm.startup() is False
    tpm.close()
    assert transport.sent == []
