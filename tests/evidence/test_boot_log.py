"""TCG event logs: attack ids P4, U3 to U6, U8, U10; replay held against genuine logs."""

from __future__ import annotations

import base64
import os
import re
import shutil
import struct
import subprocess
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import firmware as uefi
from evidence import vectors
from firmware import Event, Firmware
from svetovid.errors import EvidenceError, LimitError, ParseError, SvetovidError
from svetovid.evidence.boot import (
    MAX_BOOT_EVENTS,
    MAX_BOOT_LOG_BYTES,
    parse_boot_log,
    prove_boot,
    replay,
)
from svetovid.evidence.boot.describe import describe

PUBLIC = (
    Path(os.environ.get("SVETOVID_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
    / "public"
)
LOGS = {
    "go-eventlog/arch-linux-workstation.bin": ("sha1", "sha256"),
    "go-eventlog/crypto_agile_eventlog": ("sha256",),
    "go-eventlog/rhel8-uefi.bin": ("sha1", "sha256", "sha384"),
    "go-eventlog/ubuntu-1804-amd-sev.bin": ("sha1", "sha256", "sha384"),
    "keylime/binary_bios_measurements-secureboot": ("sha256",),
    "keylime/mb_log.b64": ("sha256",),
}
"""Logs of real machines and clouds, and their banks."""


def public(name: str) -> bytes:
    path = PUBLIC / name
    if not path.exists():
        pytest.skip(
            "needs the public vectors (SVETOVID_VECTORS, or shared/vectors by the checkout)"
        )
    data = path.read_bytes()
    return base64.b64decode(data) if name.endswith(".b64") else data


def refused(code, call, *arguments):
    with pytest.raises(SvetovidError) as e:
        call(*arguments)
    assert e.value.code == code
    assert e.value.reason.next_step
    return e.value


def prove(fw: Firmware, **changes):
    return prove_boot(changes.get("log", fw.log()), changes.get("pcrs", fw.pcrs()))


# -- genuine logs


@pytest.mark.parametrize("name", vectors.BOOTS)
def test_a_genuine_log_explains_the_genuine_quote(name):
    v = vectors.boot(name)
    boot = prove_boot((vectors.ROOT / name / "bios.bin").read_bytes(), v.pcrs)
    assert boot.values["sha256"] == v.pcrs
    assert not boot.secure_boot.enabled


def tpm2_eventlog(path: Path) -> dict[str, dict[int, bytes]]:
    """What tpm2-tools makes of a log: bank to PCR to value."""
    done = subprocess.run(["tpm2_eventlog", path], capture_output=True, text=True, timeout=60)
    banks: dict[str, dict[int, bytes]] = {}
    values: dict[int, bytes] = {}
    for line in done.stdout.partition("\npcrs:")[2].splitlines():
        if found := re.fullmatch(r"  (sha\d+):", line):
            values = banks.setdefault(found[1], {})
        elif found := re.fullmatch(r"\s+(\d+)\s*: 0x([0-9a-f]+)", line):
            values[int(found[1])] = bytes.fromhex(found[2])
    return banks


def same_as_tpm2_tools(data: bytes, tmp_path: Path) -> tuple[str, ...]:
    if shutil.which("tpm2_eventlog") is None:
        pytest.skip("needs tpm2_eventlog (tpm2-tools)")
    (tmp_path / "log").write_bytes(data)
    theirs = tpm2_eventlog(tmp_path / "log")
    log = parse_boot_log(data)
    assert {bank: replay(log, bank) for bank in log.banks} == theirs
    return log.banks


@pytest.mark.parametrize("name", vectors.BOOTS)
def test_replay_of_own_boots_equals_tpm2_tools(name, tmp_path):
    data = (vectors.ROOT / name / "bios.bin").read_bytes()
    assert same_as_tpm2_tools(data, tmp_path) == ("sha256",)


@pytest.mark.parametrize(("name", "banks"), LOGS.items())
def test_replay_of_real_machines_equals_tpm2_tools(name, banks, tmp_path):
    assert same_as_tpm2_tools(public(name), tmp_path) == banks


@pytest.mark.parametrize("name", LOGS)
def test_real_logs_prove_the_values_that_they_replay_to(name):
    data = public(name)
    values = {i: bytes(32) for i in range(15)} | replay(parse_boot_log(data), "sha256")
    boot = prove_boot(data, values)
    for events in boot.events.values():
        for event, _ in events:
            text = describe(event, "sha256")
            assert text.isprintable()
            assert 0 < len(text) < 200


def test_words_about_genuine_events():
    data = public("keylime/binary_bios_measurements-secureboot")
    values = {i: bytes(32) for i in range(15)} | replay(parse_boot_log(data), "sha256")
    boot = prove_boot(data, values)
    words = {describe(e, "sha256") for events in boot.events.values() for e, _ in events}
    assert "variable SecureBoot = 01" in words
    assert "partition table of 3 partitions" in words
    assert "insmod gzio" in words
    assert "separator" in words
    assert "the log claims: \\EFI\\redhat\\grubx64.efi" in words
    assert boot.secure_boot.enabled
    assert boot.secure_boot.authorities == ("db", "SbatLevel", "vendor_db")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("go-eventlog/debian-10.bin", "boot.legacy"),
        ("go-eventlog/ebs_event_missing_eventlog", "boot.legacy"),
        ("go-eventlog/option_rom_eventlog", "boot.legacy"),
        ("go-eventlog/short_no_action_eventlog", "boot.header"),
        ("go-eventlog/cos-113-intel-tdx.bin", "boot.header"),
        ("trustee/CCEL_data_ovmf", "boot.header"),
    ],
)
def test_logs_of_another_kind(name, code):
    refused(code, parse_boot_log, public(name))


def test_a_real_log_that_was_shortened():
    data = public("go-eventlog/sb_cert_eventlog")
    values = {i: bytes(32) for i in range(15)} | replay(parse_boot_log(data), "sha256")
    refused("boot.separator", prove_boot, data, values)


# -- form


def test_fields():
    fw = Firmware(("sha1", "sha384"))
    fw.add(3, uefi.ACTION, b"text", b"measured")
    log = parse_boot_log(fw.log())
    assert log.banks == ("sha1", "sha384")
    (event,) = log.events
    assert (event.number, event.pcr, event.kind, event.data) == (1, 3, uefi.ACTION, b"text")
    assert {a: len(d) for a, d in event.digests.items()} == {0x04: 20, 0x0C: 48}
    assert parse_boot_log(Firmware().log()).events == ()


@pytest.mark.parametrize("data", [uefi.linux().log(), Firmware(("sha1", "sha256")).log()])
def test_every_truncation_and_trailing_byte(data):
    fw = uefi.linux()
    whole = {len(fw.header())}
    for event in fw.events:
        whole.add(max(whole) + len(event.pack(fw.banks)))
    for i in range(len(data)):
        if i not in whole:
            with pytest.raises(ParseError) as e:
                parse_boot_log(data[:i])
            assert e.value.code in ("boot.header", "boot.malformed")
    refused("boot.malformed", parse_boot_log, data + b"\0")
    refused("boot.malformed", parse_boot_log, data + b"\xff" * 64)


def spec(data: bytes) -> bytes:
    return struct.pack("<II20sI", 0, 3, bytes(20), len(data)) + data


def good_spec(count: int = 1, algorithms: bytes = b"\x0b\0\x20\0", tail: bytes = b"\0") -> bytes:
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, count)
    return head + algorithms + tail


@pytest.mark.parametrize(
    "header",
    [
        b"",
        bytes(31),
        spec(b""),
        spec(good_spec()[:-1]),
        *(spec(good_spec()[:cut]) for cut in range(16, 28)),
        spec(good_spec(tail=b"\1")),
        spec(good_spec(tail=b"\0\0")),
        spec(good_spec(count=0, algorithms=b"")),
        spec(good_spec(count=0xFFFFFFFF)),
        spec(good_spec(algorithms=b"\x0b\0\x10\0")),
        spec(good_spec(algorithms=b"\x99\0\x20\0")),
        spec(good_spec(count=2, algorithms=b"\x0b\0\x20\0" * 2)),
        spec(good_spec().replace(b"Event03", b"Event04")),
        spec(good_spec()[:21] + b"\1" + good_spec()[22:]),
        spec(good_spec()[:23] + b"\3" + good_spec()[24:]),
        struct.pack("<II20sI", 1, 3, bytes(20), len(good_spec())) + good_spec(),
        struct.pack("<II20sI", 0, 3, b"\1" * 20, len(good_spec())) + good_spec(),
        struct.pack("<II20sI", 0, 3, bytes(20), 0xFFFFFFFF) + good_spec(),
        spec(good_spec()) + Event(0, 3, good_spec(), b"").pack(["sha256"]),
    ],
)
def test_u5_headers_that_lie(header):
    """Also a second Spec ID event, which would change what the rest means."""
    refused("boot.header", parse_boot_log, header)


@pytest.mark.parametrize("name", [b"Spec ID Event00\0", b"Spec ID Event02\0"])
def test_the_older_form_is_refused_by_its_own_code(name):
    refused("boot.legacy", parse_boot_log, spec(name + bytes(20)))
    refused("boot.legacy", parse_boot_log, struct.pack("<II20sI", 0, 8, b"x" * 20, 2) + b"ab")


@pytest.mark.parametrize(
    "event",
    [
        struct.pack("<IIIH", 24, 4, 1, 0x0B) + bytes(32) + struct.pack("<I", 0),
        struct.pack("<IIIH", 0xFFFFFFFF, 3, 1, 0x0B) + bytes(32) + struct.pack("<I", 0),
        struct.pack("<III", 0, 4, 0) + struct.pack("<I", 0),
        struct.pack("<IIIH", 0, 4, 2, 0x0B) + bytes(32) + b"\x0b\0" + bytes(32) + bytes(4),
        struct.pack("<IIIH", 0, 4, 1, 0x0C) + bytes(48) + struct.pack("<I", 0),
        struct.pack("<IIIH", 0, 4, 0xFFFFFFFF, 0x0B) + bytes(32) + struct.pack("<I", 0),
        struct.pack("<IIIH", 0, 4, 1, 0x0B) + bytes(32) + struct.pack("<I", 0xFFFFFFFF),
    ],
)
def test_malformed_events(event):
    refused("boot.malformed", parse_boot_log, Firmware().header() + event)


def test_an_algorithm_twice_for_another():
    fw = Firmware(("sha256", "sha1"))
    twice = struct.pack("<III", 0, 4, 2) + (b"\x0b\0" + bytes(32)) * 2 + bytes(4)
    refused("boot.malformed", parse_boot_log, fw.header() + twice)


def test_u10_size_and_count():
    with pytest.raises(LimitError) as e:
        parse_boot_log(bytes(MAX_BOOT_LOG_BYTES + 1))
    assert e.value.code == "boot.size"
    one = Event(1, uefi.ACTION, b"", b"").pack(["sha256"])
    data = Firmware().header() + one * MAX_BOOT_EVENTS
    began = time.perf_counter()
    assert len(parse_boot_log(data).events) == MAX_BOOT_EVENTS
    assert time.perf_counter() - began < 10
    refused("boot.size", parse_boot_log, data + one)
    large = Firmware()
    large.add(5, uefi.ACTION, bytes(MAX_BOOT_LOG_BYTES - 200))
    data = large.log()
    tracemalloc.start()
    parse_boot_log(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MAX_BOOT_LOG_BYTES


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 255))
def test_fuzz(data, at, value):
    good = uefi.linux().log()
    changed = bytearray(good)
    changed[at % len(good)] = value
    pcrs = uefi.linux().pcrs()
    for candidate in (data, good[:at] + data, good + data, spec(data), bytes(changed)):
        try:
            boot = prove_boot(candidate, pcrs)
            for events in boot.events.values():
                assert all(describe(e, "sha256").isprintable() for e, _ in events)
        except SvetovidError as e:
            assert e.code.startswith(("boot.", "pcr."))  # noqa: PT017


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 23), st.integers(4, 1 << 31), st.binary(max_size=80)), max_size=20
    ),
    st.sampled_from([("sha256",), ("sha1", "sha256"), ("sha512", "sha384", "sha256")]),
)
def test_what_is_packed_is_read_and_replayed(events, banks):
    fw = Firmware(banks)
    for pcr, kind, data in events:
        fw.add(pcr, kind, data, data + b"!")
    log = parse_boot_log(fw.log())
    assert [(e.pcr, e.kind, e.data) for e in log.events] == events
    for bank in banks:
        values = fw.pcrs(bank, 24)
        assert all(values[pcr] == value for pcr, value in replay(log, bank).items())


# -- replay


def test_a_good_log():
    fw = uefi.linux(banks=("sha256", "sha384"))
    boot = prove(fw)
    assert boot.secure_boot.enabled
    assert boot.quoted == frozenset(range(15))
    sha384 = {
        pcr: value for pcr, value in fw.pcrs("sha384").items() if pcr in boot.values["sha384"]
    }
    assert boot.values["sha384"] == sha384
    assert boot.value(9) == "sha256:" + fw.pcrs()[9].hex()


def test_u3_events_removed_inserted_reordered():
    fw = uefi.linux()
    pcrs = fw.pcrs()
    for i in range(len(fw.events)):
        cut = Firmware(events=fw.events[:i] + fw.events[i + 1 :])
        refused("boot.replay", prove_boot, cut.log(), pcrs)
        more = Firmware(events=[*fw.events[:i], fw.events[i], *fw.events[i:]])
        refused("boot.replay", prove_boot, more.log(), pcrs)
    pair = [i for i, e in enumerate(fw.events) if e.pcr == 9]
    swapped = list(fw.events)
    swapped[pair[0]], swapped[pair[1]] = swapped[pair[1]], swapped[pair[0]]
    refused("boot.replay", prove_boot, Firmware(events=swapped).log(), pcrs)


def test_u4_a_log_cut_to_fit_an_older_value():
    fw = uefi.linux()
    short = Firmware(events=fw.events[:-1])
    assert prove(short)
    refused("boot.replay", prove_boot, short.log(), fw.pcrs())


def test_u1_an_event_hidden_as_no_action():
    fw = uefi.linux()
    pcrs = fw.pcrs()
    fw.find(4, uefi.APPLICATION).kind = uefi.NO_ACTION
    refused("boot.replay", prove_boot, fw.log(), pcrs)


def test_no_action_events_prove_nothing():
    fw = uefi.linux()
    plain = prove(fw)
    fw.events.insert(0, Event(7, uefi.NO_ACTION, uefi.variable(uefi.GLOBAL, "SetupMode", b""), b""))
    assert [v for _, v in prove(fw).events[7]] == [v for _, v in plain.events[7]]


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_u8_startup_locality(locality):
    fw = uefi.linux()
    fw.locality = locality
    if locality:
        refused("boot.replay", prove_boot, fw.log(), fw.pcrs())
    said = Event(0, uefi.NO_ACTION, b"StartupLocality\0" + bytes([locality]), b"")
    fw.events.insert(0, said)
    assert prove(fw).values["sha256"] == fw.pcrs()
    fw.locality = 3 if locality != 3 else 4
    refused("boot.replay", prove_boot, fw.log(), fw.pcrs())


@pytest.mark.parametrize(
    ("at", "pcr", "value"),
    [(0, 0, b"\1"), (0, 0, b""), (0, 0, b"\3\0"), (0, 1, b"\3"), (5, 0, b"\3")],
)
def test_u8_forged_startup_locality(at, pcr, value):
    fw = uefi.linux()
    fw.events.insert(at, Event(pcr, uefi.NO_ACTION, b"StartupLocality\0" + value, b""))
    refused("boot.locality", prove_boot, fw.log(), fw.pcrs())
    fw = uefi.linux()
    for _ in range(2):
        fw.events.insert(0, Event(0, uefi.NO_ACTION, b"StartupLocality\0\0", b""))
    refused("boot.locality", prove_boot, fw.log(), fw.pcrs())


def test_u6_separators():
    for pcr in range(8):
        fw = uefi.linux()
        separator = fw.find(pcr, uefi.SEPARATOR)
        at = fw.events.index(separator)
        fw.events.insert(at, Event(pcr, uefi.SEPARATOR, bytes(4), bytes(4)))
        refused("boot.separator", prove, fw)
        del fw.events[at : at + 2]
        refused("boot.separator", prove, fw)
        fw.events.insert(at, Event(pcr, uefi.SEPARATOR, b"\xff" * 4, b"\xff" * 4))
        assert prove(fw)


def test_u6_a_separator_under_another_type_counts_all_the_same():
    fw = uefi.linux()
    fw.add(5, uefi.ACTION, b"\xff" * 4)
    refused("boot.separator", prove, fw)


def test_u6_what_only_calls_itself_a_separator():
    fw = uefi.linux()
    fw.add(5, uefi.SEPARATOR, bytes(4), b"something else")
    refused("boot.separator", prove, fw)


def test_u6_the_firmware_met_an_error():
    fw = uefi.linux()
    fw.add(3, uefi.ACTION, b"", b"\1\0\0\0")
    error = refused("boot.separator", prove, fw)
    assert "error" in error.reason.observed


def test_p4_a_bank_that_nothing_extended():
    refused("boot.separator", prove_boot, Firmware().log(), Firmware().pcrs())


def test_p9_a_tpm_that_was_reset_and_nothing_measured():
    """After a sleep that lost the PCRs: the old log no longer fits, and an empty one is none."""
    fw = uefi.linux()
    refused("boot.replay", prove_boot, fw.log(), Firmware().pcrs())
    refused("boot.separator", prove_boot, Firmware().log(), Firmware().pcrs())


def test_p1_pcrs_missing_in_the_quote():
    fw = uefi.unified()
    few = {i: v for i, v in fw.pcrs().items() if i < 11}
    error = refused("pcr.missing", prove_boot, fw.log(), few)
    assert "11" in error.reason.observed
    assert prove_boot(fw.log(), few | {11: fw.pcrs()[11]}).quoted == frozenset(range(12))
    refused("pcr.missing", prove_boot, fw.log(), {i: v for i, v in fw.pcrs().items() if i != 4})


def test_a_quoted_pcr_of_which_the_log_is_silent_is_zero():
    fw = uefi.linux()
    assert prove(fw)
    for pcr in (8, 12, 13, 14):
        refused("boot.replay", prove_boot, fw.log(), fw.pcrs() | {pcr: b"\1" * 32})


def test_what_is_extended_at_run_time_is_not_the_boot_logs():
    fw = uefi.linux()
    assert prove_boot(fw.log(), fw.pcrs() | {10: b"\1" * 32, 15: b"\2" * 32})


def test_phases_of_systemd_on_top_of_pcr_11():
    fw = uefi.unified()
    log = fw.log()
    for phase in (b"enter-initrd", b"leave-initrd", b"sysinit", b"ready"):
        fw.add(11, uefi.IPL, phase)
        assert prove_boot(log, fw.pcrs())
    fw.add(11, uefi.IPL, b"ready")
    refused("boot.replay", prove_boot, log, fw.pcrs())
    for pcr, phase in ((11, b"leave-initrd"), (12, b"enter-initrd"), (4, b"enter-initrd")):
        fw = uefi.unified()
        fw.add(pcr, uefi.IPL, phase)
        refused("boot.replay", prove_boot, log, fw.pcrs())


def test_a_log_without_the_quoted_bank():
    fw = uefi.linux(banks=("sha384",))
    error = refused("boot.bank", prove_boot, fw.log(), fw.pcrs())
    assert isinstance(error, EvidenceError)
