"""U9, M11: the command line; and boot loaders that are good."""

from __future__ import annotations

import firmware as uefi
from conformance.making.boots import scripted
from conformance.making.references import edition, without_boot
from conformance.making.story import Story
from conformance.making.suite import GOOD, Case, Files
from conformance.making.worlds import edited, kept, signed, tpm
from firmware import LINE, sha


def _line(name: str, what: str, line: str, *more: str) -> Case:
    return Case(
        f"u9-{name}",
        what,
        signed(Story(fw=uefi.linux(line), line=line)),
        ("U9",),
        recorded=True,
        reasons=("boot.unlisted", "boot.cmdline", "ima.policy_unproven", *more),
    )


_CRITICAL = "ima_policy=critical_data"
LINES = (
    _line("appraise-off", "The command line ends in ima_appraise=off.", LINE + " ima_appraise=off"),
    _line("lockdown", "The command line ends in lockdown=none.", LINE + " lockdown=none"),
    _line("another-root", "Another root hash.", LINE.replace("ab" * 32, "cd" * 32)),
    _line("no-policy", "No ima_policy.", LINE.replace("ima_policy=tcb ", "")),
    _line("trailing-space", "A space behind the line.", LINE + " "),
    Case(
        "u9-none-measured",
        "No command line was measured; one was recorded.",
        signed(
            Story(
                fw=scripted(lambda fw: fw.events.remove(next(e for e in fw.events if e.pcr == 9)))
            )
        ),
        ("U9",),
        recorded=True,
        reasons=("boot.cmdline", "ima.policy_unproven"),
    ),
    Case(
        "u9-recorded-line",
        "The command line recorded beside the log is not the one measured.",
        edited(cmdline_txt=lambda _: b"quiet\n"),
        ("U9",),
        reasons=("boot.cmdline",),
    ),
    Case(
        "m11-policy-that-measures-little",
        "A command line that the reader lists, with an IMA policy that measures no files.",
        lambda world: {
            **signed(Story(fw=uefi.linux(_CRITICAL), line=_CRITICAL))(world),
            "references.json": edition(boot={"command_lines": [_CRITICAL]}),
        },
        ("M11",),
        recorded=True,
        reasons=("ima.policy_unproven",),
    ),
)


def _unified(world: Files) -> Files:
    sections = {n: [sha(c)] for n, c in uefi.SECTIONS.items() if n != ".linux"}
    events = {p: {n: list(d) for n, d in found.items()} for p, found in uefi.EVENTS.items()}
    kernel = {"image": [sha(b"unified image"), sha(b"inner kernel")]}
    return {
        **kept(world, tpm().recorded(Story(fw=uefi.unified()))),
        "references.json": edition(boot={"kernels": kernel, "events": {**events, "11": sections}}),
    }


def _grub(world: Files) -> Files:
    line = uefi.GRUB_LINE
    fw = uefi.grub()
    events = {
        **{p: {n: list(d) for n, d in found.items()} for p, found in uefi.EVENTS.items()},
        "4": {"grub": [sha(b"grub image")]},
        "8": {"linux": [sha(b"linux " + line.encode())]},
        "9": {"grub.cfg": [sha(b"grub.cfg")], "initrd": [sha(uefi.INITRD)]},
    }
    boot = {
        "command_lines": [line],
        "events": events,
        "pcrs": {"4": ["sha256:" + fw.pcrs()[4].hex()]},
    }
    return {
        **kept(world, tpm().recorded(Story(fw=fw, line=line))),
        "references.json": edition(boot=boot),
    }


LOADERS = (
    Case(
        "good-unified-kernel-image",
        "A unified kernel image, its sections measured by systemd's stub.",
        _unified,
        recorded=True,
        **GOOD,
    ),
    Case(
        "good-grub",
        "grub measures its configuration, the kernel and the command line; PCR 4 is listed whole.",
        _grub,
        recorded=True,
        **GOOD,
    ),
    Case(
        "good-no-boot-log",
        "No boot log, and reference values that do not ask for one.",
        lambda world: {
            **{n: d for n, d in world.items() if n != "bios.bin"},
            "references.json": without_boot(),
        },
        verdict="affirmed",
    ),
    Case(
        "u4-no-boot-log",
        "No boot log, though the reader lists what may boot.",
        lambda world: {n: d for n, d in world.items() if n != "bios.bin"},
        ("U4",),
        reasons=("boot.missing",),
    ),
)


CASES = (*LINES, *LOADERS)
