"""M: the measurement log."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import firmware as uefi
from conformance.making.story import FILES, Story, file_line
from conformance.making.suite import UNPROVEN, Case, Files
from conformance.making.worlds import GENUINE, edited, kept, listing, nonce_of, signed
from evidence import vectors
from evidence.ima_bytes import raw_entry

GOOD_LINES = tuple(Story().lines)
POLICY = "/etc/ima/ima-policy"


def told(name: str, what: str, code: str, lines: Sequence[bytes], *attacks: str) -> Case:
    """Another log; what was measured stays, so it no longer holds."""
    made = b"".join(lines)
    return Case(name, what, edited(ima_bin=lambda _: made), attacks, reasons=(code, UNPROVEN))


def measured(
    name: str,
    what: str,
    *lines: bytes,
    attacks: Sequence[str],
    late: Sequence[bytes] = (),
    references: bytes | None = None,
    **more: Any,
) -> Case:
    """Further lines, measured as they stand in the log."""
    make = signed(Story(lines=[*GOOD_LINES, *lines], late=late))
    return Case(name, what, _listing(make, references), attacks, recorded=True, **more)


def _listing(make: Callable[[Files], Files], references: bytes | None) -> Callable[[Files], Files]:
    if references is None:
        return make
    return lambda world: {**make(world), "references.json": references}


ALL = Story().measured()
FIRST, *_REST = ALL
EVIL = file_line("/tmp/evil", b"evil")
LIB0 = next(iter(FILES))

REPLAY = (
    told("m1-cut", "The log's last line is gone.", "ima.replay", ALL[:-1], "M1"),
    told("m3-removed", "A line in the middle is gone.", "ima.replay", [*ALL[:2], *ALL[3:]], "M3"),
    told(
        *("m3-inserted", "A line that was never measured stands in the middle.", "ima.replay"),
        *([*ALL[:2], file_line(LIB0, FILES[LIB0]), *ALL[2:]], "M3"),
    ),
    told(
        *("m3-swapped", "Two lines changed places.", "ima.replay"),
        *([FIRST, _REST[1], _REST[0], *_REST[2:]], "M3"),
    ),
    told(
        *("m6-fields-swapped", "A line has another's template hash.", "ima.template"),
        *([*ALL[:-1], ALL[-1][:4] + ALL[-2][4:24] + ALL[-1][24:]], "M6"),
    ),
    told(
        *("m6-template-hash", "A line's template hash is that of nothing.", "ima.template"),
        *([*ALL, raw_entry(b"/x", sha1=b"\1" * 20)], "M6"),
    ),
    *(
        told(
            f"m7-{name}",
            f"A line of the template {template.decode()}.",
            "ima.template_unknown",
            [*ALL, raw_entry(b"/x", template=template)],
            "M7",
        )
        for name, template in (
            ("legacy", b"ima"),
            ("unknown", b"ima-x"),
            ("custom-format", b"d-ng|n-ng"),
        )
    ),
    *(
        told(
            f"m8-{name}",
            f"A file measured with {name.upper()}.",
            "ima.alg",
            [*ALL, raw_entry(b"/x", bytes(size), algorithm=name.encode() + b":\0")],
            "M8",
        )
        for name, size in (("sha1", 20), ("md5", 16))
    ),
    *(
        told(
            f"m9-{name}",
            f"A path {what}.",
            "ima.path",
            [*ALL, raw_entry(path)],
            "M9",
        )
        for name, what, path in (
            ("dots", "with a part ..", b"/usr/bin/../../tmp/x"),
            ("newline", "with a newline", b"/a\nb"),
            ("nul", "with a NUL", b"/a\0b"),
            ("utf-8", "that is no UTF-8", b"/\xff\xfe"),
            ("relative", "that is relative", b"lib.so"),
            ("long", "of 5,000 bytes", b"/" + b"a" * 5000),
        )
    ),
    told(
        *("m13-no-first-line", "boot_aggregate is gone.", "ima.boot_aggregate", _REST, "M13"),
    ),
    told("m13-empty", "The log is empty.", "ima.boot_aggregate", (), "M13", "M1"),
    told(
        *("m13-not-first", "boot_aggregate is the second line.", "ima.boot_aggregate"),
        *([_REST[0], FIRST, *_REST[1:]], "M13"),
    ),
    told(
        *("m1-short", "The log's last byte is gone.", "ima.malformed"),
        *([b"".join(ALL)[:-1]], "M1"),
    ),
    told(
        *("m1-size", "A line's size field is 4 GiB.", "ima.malformed"),
        *([FIRST[:34] + b"\xff" * 4 + FIRST[38:], *_REST], "M1"),
    ),
    told("m3-another-pcr", "A line of PCR 11.", "ima.pcr", [*ALL, raw_entry(pcr=11)], "M3"),
    Case(
        "m13-aggregate-of-another-boot",
        "boot_aggregate is that of other firmware, and was measured so.",
        signed(Story(first=Story(fw=uefi.grub()).aggregate())),
        ("M13",),
        recorded=True,
        reasons=("ima.boot_aggregate", UNPROVEN),
    ),
    Case(
        "m13-nothing-measured",
        "Nothing was measured into PCR 10; the log is another boot's.",
        lambda world: {
            **signed(Story(lines=[], first=b""))(world),
            "ima.bin": world["ima.bin"],
        },
        ("M13", "M1"),
        recorded=True,
        reasons=("ima.replay", UNPROVEN),
    ),
)


_VIOLATED = (vectors.ROOT / "live_after_violation.json").read_bytes()
_LOG = vectors.boot("ovmf-tpm-crb").ima
_ENTRY = struct.unpack_from("<I", _LOG, 24 + 4 + 6)[0] + 24 + 4 + 6 + 4


def _without_last(log: bytes) -> bytes:
    """A boot log of the SHA-256 bank without its last event."""
    (size,) = struct.unpack_from("<I", log, 28)
    at = last = 32 + size
    while at < len(log):
        last, at = at, at + 12 + 34
        at += 4 + struct.unpack_from("<I", log, at)[0]
    return log[:last]


def _genuine(
    name: str,
    what: str,
    make: Callable[[Files], Files],
    *reasons: str,
    attacks: Sequence[str],
    nonce: str = nonce_of("ovmf-tpm-crb"),
) -> Case:
    return Case(
        name,
        what + " In what a kernel and its firmware wrote.",
        make,
        attacks,
        world="debian",
        origin="qemu",
        now=GENUINE,
        nonce=nonce,
        reasons=reasons,
    )


KERNELS_OWN = (
    _genuine(
        *("m3-kernel-first-line-removed", "boot_aggregate is gone."),
        edited(ima_bin=lambda d: d[_ENTRY:]),
        *("ima.boot_aggregate", UNPROVEN),
        attacks=("M3", "M13"),
    ),
    _genuine(
        *("m3-kernel-line-twice", "The last line stands there twice, and was read twice."),
        edited(ima_bin=lambda d: d + d[:_ENTRY]),
        "ima.kexec",
        attacks=("M3", "M14"),
    ),
    _genuine(
        *("m3-kernel-digest-flipped", "One bit of a file's digest is another."),
        edited(ima_bin=lambda d: d[:-80] + bytes([d[-80] ^ 1]) + d[-79:]),
        *("ima.template", UNPROVEN),
        attacks=("M3", "M6"),
    ),
    _genuine(
        *("u3-kernel-boot-event-removed", "The last event of the boot log is gone."),
        edited(bios_bin=_without_last),
        "boot.replay",
        attacks=("U3", "U4"),
    ),
    _genuine(
        *("f7-kernel-nonce", "The reader's nonce has another last byte."),
        dict,
        *("challenge.mismatch", UNPROVEN),
        attacks=("F7",),
        nonce=nonce_of("ovmf-tpm-crb")[:-2] + "00",
    ),
    Case(
        "m4-kernel-violation",
        "A file was written while Debian's kernel measured it; PCR values were not recorded.",
        lambda world: {
            **kept(world, {}),
            "evidence.json": _VIOLATED,
            "references.json": listing(vectors.violated()["ima"]),
        },
        ("M4",),
        world="debian",
        origin="qemu",
        now=GENUINE,
        nonce=None,
        reasons=("ek.missing", "ima.violation"),
    ),
)
CASES = (*REPLAY, *KERNELS_OWN)
