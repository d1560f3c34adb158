"""Secure Boot, as PCR 7 proves it: U1, U6, U7. Whatever is odd means "not proven"."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import firmware as uefi
from firmware import GLOBAL, SECURITY, Event, variable
from svetovid.evidence.boot import SecureBoot, parse_boot_log
from svetovid.evidence.boot.variables import parse_variable, secure_boot


def state(fw: uefi.Firmware) -> SecureBoot:
    events = [e for e in parse_boot_log(fw.log()).events if e.pcr == 7 and e.extends]
    return secure_boot(events, "sha256")


def config(fw: uefi.Firmware, name: str) -> Event:
    wide = name.encode("utf-16-le")
    return next(e for e in fw.events if e.pcr == 7 and wide in e.data)


def test_enabled():
    found = state(uefi.linux())
    assert found.enabled
    assert found.authorities == ("db",)
    assert not state(uefi.linux(secure=False)).enabled


@pytest.mark.parametrize("name", ["SecureBoot", "PK", "KEK"])
def test_u7_state_that_is_missing_or_empty(name):
    fw = uefi.linux()
    event = config(fw, name)
    event.data = event.measured = variable(GLOBAL, name, b"")
    assert not state(fw).enabled
    fw.events.remove(event)
    assert not state(fw).enabled
    for _ in range(2):
        fw.events.insert(0, Event(7, uefi.CONFIG, *[variable(GLOBAL, name, b"\1")] * 2))
    assert not state(fw).enabled


@pytest.mark.parametrize("name", ["SecureBoot", "PK", "KEK"])
def test_u6_state_after_the_separator(name):
    """Where SecureBoot is off, what boots can extend any variable it likes."""
    fw = uefi.linux(secure=False)
    value = variable(GLOBAL, name, b"\1")
    fw.add(7, uefi.CONFIG, value)
    assert not state(fw).enabled
    fw = uefi.linux()
    fw.add(7, uefi.CONFIG, value)
    assert not state(fw).enabled
    assert "after the separator" in state(fw).why


def test_u6_off_at_first_and_on_behind_the_separator():
    fw = uefi.linux(secure=False)
    fw.events.remove(config(fw, "SecureBoot"))
    fw.add(7, uefi.CONFIG, variable(GLOBAL, "SecureBoot", b"\1"))
    assert not state(fw).enabled


def test_u2_a_variable_that_is_not_what_was_measured():
    """The log says 1, the digest is of 0."""
    fw = uefi.linux(secure=False)
    config(fw, "SecureBoot").data = variable(GLOBAL, "SecureBoot", b"\1")
    assert not state(fw).enabled
    assert "not what was measured" in state(fw).why


def test_u1_types_prove_nothing():
    fw = uefi.linux(secure=False)
    config(fw, "SecureBoot").kind = uefi.ACTION
    assert not state(fw).enabled
    fw = uefi.linux()
    for event in fw.events:
        event.kind = 0x777
    assert state(fw).enabled


def test_the_name_under_another_vendor():
    fw = uefi.linux()
    event = config(fw, "SecureBoot")
    event.data = event.measured = variable(SECURITY, "SecureBoot", b"\1")
    assert not state(fw).enabled


@pytest.mark.parametrize(
    "text", [b"UEFI Debug Mode", b"UEFI Debug Mode\0", b"DMA Protection Disabled"]
)
def test_what_the_firmware_says_against_itself(text):
    fw = uefi.linux()
    fw.events.insert(0, Event(7, uefi.ACTION, text, text))
    assert not state(fw).enabled
    fw.events[0].data, fw.events[0].kind = b"harmless", uefi.CONFIG
    assert not state(fw).enabled


def test_separators():
    fw = uefi.linux()
    fw.add(7, uefi.SEPARATOR, bytes(4))
    assert not state(fw).enabled
    fw.events = [e for e in fw.events if e.kind != uefi.SEPARATOR]
    assert not state(fw).enabled
    assert not secure_boot([], "sha256").enabled


def test_variables_are_read_whole_or_not_at_all():
    data = variable(GLOBAL, "db", b"value")
    found = parse_variable(data)
    assert (found.name, found.value) == ("db", b"value")
    for i in range(len(data)):
        assert parse_variable(data[:i]) is None
    assert parse_variable(data + b"\0") is None
    assert parse_variable(data[:16] + b"\xff" * 16 + data[32:]) is None
    assert parse_variable(data[:16] + (1).to_bytes(8, "little") + bytes(8) + b"\x00\xd8") is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_as_a_variable(data):
    parse_variable(data)
    parse_variable(bytes(16) + (3).to_bytes(8, "little") + data)
