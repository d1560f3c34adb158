"""A boot as UEFI firmware, a boot loader and Linux's stub measure and log it; packed by hand.

Written from the TCG PC Client Platform Firmware Profile, apart from the code under test. Tests
change one event and name the refusal.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

ALGORITHMS = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D}
NO_ACTION, SEPARATOR, ACTION, TAG, IPL = 3, 4, 0x80000007, 6, 0xD
CRTM_VERSION, BLOB, DRIVER, APPLICATION = 8, 0x80000008, 0x80000004, 0x80000003
CONFIG, AUTHORITY, GPT = 0x80000001, 0x800000E0, 0x80000006
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
SECURITY = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
LINE = "root=/dev/dm-0 ima_policy=tcb ima_hash=sha256 roothash=" + "ab" * 32
KERNEL, INITRD, FIRMWARE, ROM = b"kernel image", b"initrd", b"firmware volume", b"option rom"


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def guid(text: str) -> bytes:
    import uuid

    return uuid.UUID(text).bytes_le


def variable(vendor: str, name: str, value: bytes) -> bytes:
    wide = name.encode("utf-16-le")
    return guid(vendor) + struct.pack("<QQ", len(name), len(value)) + wide + value


def image(path: str) -> bytes:
    """UEFI_IMAGE_LOAD_EVENT with a file path."""
    wide = path.encode("utf-16-le") + b"\0\0"
    device = b"\x04\x04" + struct.pack("<H", 4 + len(wide)) + wide + b"\x7f\xff\x04\x00"
    return struct.pack("<QQQQ", 0x1000, 0x2000, 0, len(device)) + device


def tagged(tag: int, text: bytes) -> bytes:
    return struct.pack("<II", tag, len(text)) + text


@dataclass
class Event:
    pcr: int
    kind: int
    data: bytes
    measured: bytes
    logged: bytes | None = None
    """What the log claims was measured, where that is a lie."""

    def pack(self, banks: Iterable[str]) -> bytes:
        content = self.measured if self.logged is None else self.logged
        out = struct.pack("<III", self.pcr, self.kind, len(list(banks)))
        for bank in banks:
            value = hashlib.new(bank, content).digest()
            out += struct.pack("<H", ALGORITHMS[bank])
            out += bytes(len(value)) if self.kind == NO_ACTION else value
        return out + struct.pack("<I", len(self.data)) + self.data


@dataclass
class Firmware:
    """Events in order; ``pcrs()`` is what a TPM then holds."""

    banks: tuple[str, ...] = ("sha256",)
    locality: int = 0
    events: list[Event] = field(default_factory=list)

    def add(self, pcr: int, kind: int, data: bytes, measured: bytes | None = None) -> Event:
        event = Event(pcr, kind, data, data if measured is None else measured)
        self.events.append(event)
        return event

    def find(self, pcr: int, kind: int) -> Event:
        return next(e for e in self.events if (e.pcr, e.kind) == (pcr, kind))

    def header(self) -> bytes:
        spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(self.banks))
        for bank in self.banks:
            spec += struct.pack("<HH", ALGORITHMS[bank], hashlib.new(bank).digest_size)
        spec += b"\0"
        return struct.pack("<II20sI", 0, NO_ACTION, bytes(20), len(spec)) + spec

    def log(self) -> bytes:
        return self.header() + b"".join(e.pack(self.banks) for e in self.events)

    def pcrs(self, bank: str = "sha256", count: int = 15) -> dict[int, bytes]:
        size = hashlib.new(bank).digest_size
        values = {i: bytes(size) for i in range(count)}
        values[0] = self.locality.to_bytes(size, "big")
        for event in self.events:
            if event.kind != NO_ACTION and event.pcr in values:
                step = hashlib.new(bank, event.measured).digest()
                values[event.pcr] = hashlib.new(bank, values[event.pcr] + step).digest()
        return values


def separators(fw: Firmware, pcrs: Iterable[int]) -> None:
    for pcr in pcrs:
        fw.add(pcr, SEPARATOR, bytes(4))


def firmware(*, secure: bool = True, banks: tuple[str, ...] = ("sha256",)) -> Firmware:
    """Everything up to the first boot application."""
    fw = Firmware(banks)
    fw.add(0, CRTM_VERSION, b"v\x001\x00\0\0")
    fw.add(0, BLOB, struct.pack("<QQ", 0x820000, 0xE0000), FIRMWARE)
    key = guid(SECURITY) + b"certificate"
    fw.add(7, CONFIG, variable(GLOBAL, "SecureBoot", b"\1" if secure else b"\0"))
    fw.add(7, CONFIG, variable(GLOBAL, "PK", key))
    fw.add(7, CONFIG, variable(GLOBAL, "KEK", key))
    fw.add(7, CONFIG, variable(SECURITY, "db", key))
    fw.add(7, CONFIG, variable(SECURITY, "dbx", b""))
    separators(fw, [7])
    fw.add(2, DRIVER, image("rom"), ROM)
    fw.add(1, 0x80000002, variable(GLOBAL, "BootOrder", b"\0\0"), b"\0\0")
    fw.add(4, ACTION, b"Calling EFI Application from Boot Option")
    separators(fw, range(7))
    fw.add(7, AUTHORITY, variable(SECURITY, "db", key))
    table = b"EFI PART" + bytes(84) + struct.pack("<Q", 1) + bytes(128)
    fw.add(5, GPT, table)
    return fw


def stub(fw: Firmware, line: str = LINE, initrd: bytes = INITRD) -> None:
    """What Linux's own EFI stub measures, and the firmware's farewell."""
    options = line.encode("utf-16-le") + b"\0\0"
    fw.add(9, TAG, tagged(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0"), options)
    fw.add(9, TAG, tagged(0x8F3B22EC, b"Linux initrd\0"), initrd)
    fw.add(5, ACTION, b"Exit Boot Services Invocation")
    fw.add(5, ACTION, b"Exit Boot Services Returned with Success")


def linux(line: str = LINE, **more: object) -> Firmware:
    """The firmware starts Linux directly."""
    fw = firmware(**more)  # type: ignore[arg-type]
    fw.add(4, APPLICATION, image("\\EFI\\Linux\\vmlinuz.efi"), KERNEL)
    stub(fw, line)
    return fw


SECTIONS = {".linux": b"inner kernel", ".osrel": b"ID=debian", ".initrd": INITRD}


def unified(line: str = LINE, *, measuring: bool = True) -> Firmware:
    """A unified kernel image with systemd's stub, around a kernel that measures its line or not."""
    fw = firmware()
    fw.add(4, APPLICATION, image("\\EFI\\BOOT\\BOOTX64.EFI"), b"unified image")
    for name, content in {**SECTIONS, ".cmdline": line.encode()}.items():
        wide = name.encode("utf-16-le") + b"\0\0"
        fw.add(11, IPL, wide, name.encode() + b"\0")
        fw.add(11, IPL, wide, content)
    fw.add(4, APPLICATION, image(""), b"inner kernel")
    if measuring:
        stub(fw, line)
    return fw


GRUB_LINE = "(hd0,gpt2)/vmlinuz " + LINE


def grub(line: str = GRUB_LINE) -> Firmware:
    """grub reads its configuration, measures each command, and starts Linux by its own means."""
    fw = firmware()
    fw.add(4, APPLICATION, image("\\EFI\\debian\\grubx64.efi"), b"grub image")
    fw.add(9, IPL, b"(hd0,gpt2)/grub.cfg\0", b"grub.cfg")
    fw.add(8, IPL, b"grub_cmd: linux " + line.encode() + b"\0", b"linux " + line.encode())
    fw.add(9, IPL, b"(hd0,gpt2)/vmlinuz\0", KERNEL)
    fw.add(8, IPL, b"kernel_cmdline: " + line.encode() + b"\0", line.encode())
    fw.add(9, IPL, b"(hd0,gpt2)/initrd\0", INITRD)
    return fw


EVENTS = {
    "0": {"crtm version": (sha(b"v\x001\x00\0\0"),), "firmware volume": (sha(FIRMWARE),)},
    "2": {"option rom": (sha(ROM),)},
    "9": {"initrd": (sha(INITRD),)},
}
"""Reference values for what :func:`firmware` and :func:`stub` measure beside kernel and line."""
