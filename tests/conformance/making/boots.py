"""U: the boot log."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import firmware as uefi
from conformance.making.references import edition
from conformance.making.story import Story
from conformance.making.suite import GOOD, LIE, Case, Files
from conformance.making.worlds import edited, lied, signed
from firmware import Event, Firmware, sha

Change = Callable[[Firmware], object]
_SILENT = {"boot.secure_boot": None}


def scripted(change: Change) -> Firmware:
    fw = uefi.linux()
    change(fw)
    return fw


def told(change: Change) -> Callable[[Files], Files]:
    """The log is another; what was measured is not."""
    return edited(bios_bin=lambda _: scripted(change).log())


def measured(change: Change) -> Callable[[Files], Files]:
    """The machine measures another boot, and logs it as it was."""
    return signed(Story(fw=scripted(change)))


def _log(name: str, what: str, change: Change, *attacks: str, **more: Any) -> Case:
    """A log that was changed after the fact; it no longer holds unless told otherwise."""
    expected = {"reasons": ("boot.replay",), **more}
    return Case(name, what, told(change), attacks, **expected)


def _boot(name: str, what: str, change: Change, *attacks: str, **more: Any) -> Case:
    return Case(name, what, measured(change), attacks, recorded=True, **more)


def _kind(pcr: int, kind: int, to: int) -> Change:
    return lambda fw: setattr(fw.find(pcr, kind), "kind", to)


def _remove(pcr: int, kind: int) -> Change:
    return lambda fw: fw.events.remove(fw.find(pcr, kind))


def _double(pcr: int, kind: int) -> Change:
    def change(fw: Firmware) -> None:
        event = fw.find(pcr, kind)
        fw.events.insert(fw.events.index(event), event)

    return change


def _swap(fw: Firmware) -> None:
    one, other = (i for i, e in enumerate(fw.events) if e.pcr == 9)
    fw.events[one], fw.events[other] = fw.events[other], fw.events[one]


def _rename(fw: Firmware) -> None:
    """The bytes beside the digest of the SecureBoot variable: off in truth, on in the log."""
    event = fw.find(7, uefi.CONFIG)
    event.measured = uefi.variable(uefi.GLOBAL, "SecureBoot", b"\0")


def _set(name: str, value: bytes) -> Change:
    def change(fw: Firmware) -> None:
        wide = name.encode("utf-16-le")
        event = next(e for e in fw.events if e.pcr == 7 and wide in e.data)
        event.data = event.measured = uefi.variable(uefi.GLOBAL, name, value)

    return change


def _late(fw: Firmware) -> None:
    """The SecureBoot variable moves behind the separator."""
    event = fw.find(7, uefi.CONFIG)
    fw.events.remove(event)
    fw.events.append(event)


EVENTS = (
    _log(
        *("u1-kernel-as-no-action", "The kernel's event calls itself EV_NO_ACTION."),
        *(_kind(4, uefi.APPLICATION, uefi.NO_ACTION), "U1"),
    ),
    _log(
        "u1-type-rewritten",
        "The command line's event has another type: no digest covers it, and nothing rests on it.",
        _kind(9, uefi.TAG, uefi.IPL),
        "U1",
        **{**GOOD, "reasons": ()},
        claims={"boot.secure_boot": True},
    ),
    _boot(
        *("u1-application-as-action", "A second application, under the type of a remark."),
        *(lambda fw: fw.add(4, uefi.ACTION, b"Calling EFI Application", b"evil"), "U1"),
        reasons=("boot.unlisted",),
    ),
    _boot(
        *("u2-another-kernel", "Another kernel was measured than the event's path names."),
        lambda fw: setattr(fw.find(4, uefi.APPLICATION), "measured", b"evil kernel"),
        "U2",
        reasons=("boot.unlisted", "boot.kernel"),
    ),
    _boot(
        *("u2-secure-boot-renamed", "SecureBoot was 0 when measured; the log's text says 1."),
        *(_rename, "U2"),
        **GOOD,
        claims=_SILENT,
    ),
    _log(*("u3-removed", "An event is gone."), *(_remove(4, uefi.APPLICATION), "U3")),
    _log(*("u3-inserted", "An event twice."), *(_double(4, uefi.APPLICATION), "U3")),
    _log(*("u3-reordered", "Two events of one PCR changed places."), *(_swap, "U3")),
    _log(
        *("u4-cut", "The last event is cut off, as the log was a moment earlier."),
        *(lambda fw: fw.events.pop(), "U4"),
    ),
    _boot(
        *("u6-doubled-separator", "PCR 0 has two separators."),
        *(_double(0, uefi.SEPARATOR), "U6"),
        reasons=("boot.separator",),
    ),
    _boot(
        *("u6-no-separator", "PCR 7 has no separator."),
        *(_remove(7, uefi.SEPARATOR), "U6"),
        reasons=("boot.separator",),
    ),
    _boot(
        *("u6-firmware-error", "The firmware measured that it met an error."),
        *(lambda fw: fw.add(3, uefi.ACTION, b"", b"\1\0\0\0"), "U6"),
        reasons=("boot.separator",),
    ),
    _boot(
        *("u6-false-separator", "An event calls itself a separator and is none."),
        *(lambda fw: fw.add(5, uefi.SEPARATOR, bytes(4), b"something else"), "U6"),
        reasons=("boot.separator",),
    ),
    _boot(
        *("u6-state-after-separator", "The SecureBoot variable stands behind the separator."),
        *(_late, "U6"),
        **GOOD,
        claims=_SILENT,
    ),
    _boot(
        *("u7-secure-boot-off", "Secure Boot is off: no refusal, and no word that it is on."),
        *(_set("SecureBoot", b"\0"), "U7"),
        **GOOD,
        claims=_SILENT,
    ),
    _boot(
        *("u7-no-platform-key", "Secure Boot is on with an empty PK."),
        *(_set("PK", b""), "U7"),
        **GOOD,
        claims=_SILENT,
    ),
    Case(
        "u7-stranger-among-authorities",
        "A key of the machine's owner joins the authorities, of which the reader lists every one.",
        lambda world: {
            **measured(
                lambda fw: fw.add(
                    7, uefi.AUTHORITY, uefi.variable(uefi.SECURITY, "MokList", b"stranger")
                )
            )(world),
            "references.json": _authorities(),
        },
        ("U7",),
        recorded=True,
        reasons=("boot.unlisted",),
    ),
)


def _authorities() -> bytes:
    known = [e for e in uefi.linux().events if e.pcr == 7 and e.kind != uefi.SEPARATOR]
    seven = {str(i): [sha(e.data)] for i, e in enumerate(known)}
    events = {p: {n: list(d) for n, d in found.items()} for p, found in uefi.EVENTS.items()}
    return edition(boot={"events": {**events, "7": seven}})


def _locality(value: bytes, *, real: int = 0, at: int = 0) -> Firmware:
    fw = uefi.linux()
    fw.locality = real
    fw.events.insert(at, Event(0, uefi.NO_ACTION, b"StartupLocality\0" + value, b""))
    return fw


LOCALITY = (
    *(
        Case(
            f"u8-locality-{n}",
            f"The TPM was started at locality {n}, and the log says so.",
            lied(Story(fw=_locality(bytes([n]), real=n))),
            ("U8",),
            **LIE,
            **GOOD,
        )
        for n in (3, 4)
    ),
    Case(
        "u8-locality-unsaid",
        "The TPM was started at locality 3, and the log says nothing of it.",
        lambda world: {
            **lied(Story(fw=_locality(b"\3", real=3)))(world),
            "bios.bin": uefi.linux().log(),
        },
        ("U8",),
        **LIE,
        reasons=("boot.replay",),
    ),
    *(
        Case(
            f"u8-{name}",
            what,
            edited(bios_bin=lambda _, fw=fw: fw.log()),  # type: ignore[misc]
            ("U8",),
            reasons=(code,),
        )
        for name, what, code, fw in (
            ("forged-locality", "The log says 3; it was 0.", "boot.replay", _locality(b"\3")),
            ("locality-1", "A locality that no TPM starts at.", "boot.locality", _locality(b"\1")),
            (
                *("late-locality", "It is said after PCR 0 was extended.", "boot.locality"),
                _locality(b"\0", at=5),
            ),
        )
    ),
)


def _header(change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    size = len(Firmware().header())
    return edited(bios_bin=lambda d: change(d[:size]) + d[size:])


def _broken(name: str, what: str, code: str, make: Callable[[Files], Files], attack: str) -> Case:
    return Case(name, what, make, (attack,), reasons=(code,))


def _put(at: int, form: str, value: int) -> Callable[[bytes], bytes]:
    return lambda d: d[:at] + struct.pack(form, value) + d[at + struct.calcsize(form) :]


_FIRST = len(Firmware().header())
"""Where the first event begins: PCR, type, number of digests, algorithm, digest, size."""
FORM = (
    _broken(
        *("u5-digest-size", "The header says that SHA-256 has 20 bytes.", "boot.header"),
        *(_header(_put(62, "<H", 20)), "U5"),
    ),
    _broken(
        *("u5-algorithms", "The header lists 65,535 algorithms.", "boot.header"),
        *(_header(_put(56, "<I", 0xFFFF)), "U5"),
    ),
    _broken(
        *("u5-version", "The header is of version 3.", "boot.header"),
        *(_header(_put(53, "<B", 3)), "U5"),
    ),
    _broken(
        *("u5-no-header", "The log begins with its first event.", "boot.legacy"),
        *(edited(bios_bin=lambda d: d[_FIRST:]), "U5"),
    ),
    Case(
        "u5-second-header",
        "A second Spec ID event within the log.",
        told(lambda fw: fw.events.insert(3, Event(0, 3, Firmware().header()[32:], b""))),
        ("U5",),
        reasons=("boot.header",),
    ),
    _broken(
        *("u5-sha1-only", "A log of SHA-1 alone.", "boot.bank"),
        *(edited(bios_bin=lambda _: uefi.linux(banks=("sha1",)).log()), "U5"),
    ),
    _broken(
        *("u10-event-size", "An event's size is 4 GiB.", "boot.malformed"),
        *(edited(bios_bin=_put(_FIRST + 46, "<I", 0xFFFFFFFF)), "U10"),
    ),
    _broken(
        *("u10-digests", "An event has four billion digests.", "boot.malformed"),
        *(edited(bios_bin=_put(_FIRST + 8, "<I", 0xFFFFFFFF)), "U10"),
    ),
    _broken(
        *("u10-pcr", "An event of PCR 4,294,967,295.", "boot.malformed"),
        *(edited(bios_bin=_put(_FIRST, "<I", 0xFFFFFFFF)), "U10"),
    ),
    _broken(
        *("u10-short", "The log's last byte is gone.", "boot.malformed"),
        *(edited(bios_bin=lambda d: d[:-1]), "U10"),
    ),
    _broken(
        *("u10-long", "A byte behind the last event.", "boot.malformed"),
        *(edited(bios_bin=lambda d: d + b"\0"), "U10"),
    ),
    Case(
        "u10-junk-path",
        "A device path of broken UTF-16, no path at all: no digest covers it.",
        told(
            lambda fw: setattr(
                fw.find(4, uefi.APPLICATION), "data", bytes(24) + b"\xff" * 8 + b"\x00\xd8" * 20
            )
        ),
        ("U10",),
        **GOOD,
    ),
)


CASES = (*EVENTS, *LOCALITY, *FORM)
