"""What a boot log shows of firmware, loaders and kernel, for review beside a host's files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from svetovid.errors import InputError
from svetovid.evidence.boot import parse_boot_log, prove_boot, replay
from svetovid.evidence.boot.describe import describe
from svetovid.evidence.boot.explain import KERNEL_PCRS, LINE_PCRS, line_digests, unlisted
from svetovid.evidence.boot.replay import BOOT_PCRS, QUOTED_BANK, Boot
from svetovid.evidence.references import BootReferences

__all__ = ["Approved", "Line", "boot_lines", "line_digest", "merged_boots"]

Line = tuple[str, str, str]
"""Kind, name and digest of a line of a proposal."""
_KERNELS = ("vmlinuz", ".linux", "linux (")
_SHOWN = 200
_ZEROS = bytes(32)


def _boot(log: bytes) -> Boot:
    """The log's own story, proven by nothing: the reviewer has it from a machine it trusts."""
    told = replay(parse_boot_log(log), QUOTED_BANK)
    return prove_boot(log, {**dict.fromkeys(BOOT_PCRS, _ZEROS), **told})


def boot_lines(log: bytes, line: str, known: Sequence[BootReferences] = ()) -> list[Line]:
    """Events that no reference value names, and the command line where it was measured.

    Args:
        log: ``binary_bios_measurements``.
        line: the kernel's command line, as the host says; empty for none.

    Raises:
        InputError, EvidenceError: ``boot.*``, ``pcr.missing`` for a log that proves nothing.
    """
    boot = _boot(log)
    measured = {p: {value for _, value in boot.events.get(p, ())} for p in LINE_PCRS}
    lines: list[Line] = []
    editions = list(known)
    plain = line.isascii() and line.isprintable() and 0 < len(line) <= 4096
    if plain and any(line_digests(line, p, boot.bank) & measured[p] for p in LINE_PCRS):
        editions.append(BootReferences(command_lines=(line,)))
        if not any(line in edition.command_lines for edition in known):
            lines.append(("line", line, line_digest(line)))
    for event, value in unlisted(boot, editions):
        said = describe(event, boot.bank)
        kernel = event.pcr in KERNEL_PCRS and any(word in said.lower() for word in _KERNELS)
        kind = f"{'kernel' if kernel else 'event'} {event.pcr}"
        lines.append((kind, f"event {event.number}: {said}"[:_SHOWN], value))
    return lines


def line_digest(line: str) -> str:
    """What stands beside a command line in a proposal, so that it is not changed by accident."""
    return "sha256:" + hashlib.sha256(line.encode()).hexdigest()


@dataclass(slots=True)
class Approved:
    """Approved lines about the boot, as they are gathered."""

    kernels: dict[str, list[str]] = field(default_factory=dict)
    events: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str, value: str) -> None:
        """One line. Raises ValueError where it cannot be meant."""
        word, _, pcr = kind.partition(" ")
        if word == "line":
            if line_digest(name) != value:
                raise ValueError("another command line than was proposed")
            self.lines.append(name)
        elif word == "kernel":
            if int(pcr) not in KERNEL_PCRS:
                raise ValueError(f"a kernel is measured in one of PCR {KERNEL_PCRS}")
            self.kernels.setdefault(name, []).append(value)
        else:
            self.events.setdefault(pcr, {}).setdefault(name, []).append(value)

    def references(self, measured: Iterable[str]) -> BootReferences | None:
        """Raises ValueError for what no document can hold."""
        if not (self.kernels or self.events or self.lines):
            return None
        try:
            return BootReferences.from_json(
                {
                    "kernels": self.kernels,
                    "events": self.events,
                    "command_lines": self.lines,
                    "measured": list(measured),
                }
            )
        except InputError as e:
            raise ValueError(e.reason.observed) from e


def _union(a: Any, b: Any) -> Any:
    """Two JSON values of one form: lists one after the other, objects name by name."""
    if isinstance(a, dict):
        return {
            name: _union(a[name], b[name]) if name in a and name in b else (a | b)[name]
            for name in a | b
        }
    return list(dict.fromkeys([*a, *b]))


def merged_boots(boots: Iterable[BootReferences | None]) -> BootReferences | None:
    """All that several say may boot, as one edition."""
    found = [boot.to_json() for boot in boots if boot is not None]
    return BootReferences.from_json(reduce(_union, found)) if found else None
