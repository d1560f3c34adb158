"""Propose, then review: what hosts have run, as a text that a person decides about, line by line.

A host's log shows what is there, not what ought to be. So nothing in it becomes a reference value
until somebody has written ``+`` before it::

    svetovid proposal 1
    log sha256:52c5… 1834 entries
    # 2 of 3 logs have it
    ? file sha256:9f86… "/usr/bin/python3.11"
    ? buffer sha256:60ae… "kexec-cmdline"
    ? event 0 sha256:2a81… "event 3: the log claims: Fv(7CB8BDC9…)"
    ? kernel 4 sha256:83c1… "event 31: the log claims: \\boot\\vmlinuz-6.1.0"
    ? line sha256:77b0… "root=/dev/sda2 ima_policy=tcb"

``+`` approves a line, ``-`` refuses it, ``?`` is still to be decided. Names are JSON strings in
ASCII: no two look alike, and none hides the next line.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from svetovid.crypto.canonical import b64decode, digest
from svetovid.errors import InputError, ParseError
from svetovid.evidence.boot.policies import is_agent
from svetovid.evidence.ima import Entry, parse_log
from svetovid.evidence.ima.listing import IMA_POLICY
from svetovid.evidence.recorded import FILES, MAX_BUNDLE_BYTES, RecordedEvidence
from svetovid.evidence.references import BootReferences, ReferenceValues, Source
from svetovid.stakeholder.home import read_bounded
from svetovid.stakeholder.sources.booted import Approved, Line, boot_lines
from svetovid.stakeholder.sources.directory import printable
from svetovid.stakeholder.sources.tree import can_be_named

__all__ = [
    "HostLogs",
    "Proposal",
    "all_buffers",
    "approved",
    "propose",
    "read_host",
    "read_proposal",
]

_FIRST = "svetovid proposal 1"
_LOG = re.compile(r"log (sha256:[0-9a-f]{64}) ([0-9]{1,7}) entries")
_LINE = re.compile(
    r"([-+?]) (file|buffer|line|(?:event|kernel) [0-9]{1,2}) "
    r"((?:verity:)?(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})) "
    r'("[ -~]{1,32768}")'
)
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Proposal:
    """What was approved, as values.

    Attributes:
        source: its artifact is the digest of the first log.
        buffers, boot: as in :class:`ReferenceValues`.
        refused: lines that somebody said no to.
    """

    source: Source
    buffers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    boot: BootReferences | None = None
    refused: int = 0


@dataclass(frozen=True, slots=True)
class HostLogs:
    """What a host measured, as it says.

    Attributes:
        ima: ``binary_runtime_measurements``.
        boot: ``binary_bios_measurements``, where it is at hand.
        line: the kernel's command line, where it is at hand.
    """

    ima: bytes
    boot: bytes | None = None
    line: str = ""


def read_host(path: Path) -> HostLogs:
    """A measurement log alone, a bundle, or a directory with ``ima.bin``, and with ``bios.bin``
    and ``cmdline.txt`` where there are; nothing else of recorded evidence is needed.

    Raises:
        InputError: ``file.*``, ``json.*``, ``document.invalid``, ``proposal.log`` where there is
            no measurement log.
    """
    if path.is_dir():
        parts = {
            name: read_bounded(path / name, FILES[name], what=f"a host's logs ({name})")
            for name in ("ima.bin", "bios.bin", "cmdline.txt")
            if (path / name).exists()
        }
        line = parts.get("cmdline.txt", b"").decode("utf-8", "replace").strip()
        return HostLogs(_needed(parts.get("ima.bin"), path), parts.get("bios.bin"), line)
    data = read_bounded(path, MAX_BUNDLE_BYTES, what="a measurement log or recorded evidence")
    if not data.lstrip().startswith(b"{"):
        return HostLogs(data)
    found = RecordedEvidence.parse(data, max_bytes=MAX_BUNDLE_BYTES)
    ima, boot = (None if log is None else b64decode(log) for log in (found.ima, found.bios))
    return HostLogs(_needed(ima, path), boot, (found.cmdline or "").strip())


def _needed(log: bytes | None, path: Path) -> bytes:
    if log is None:
        raise InputError(
            "proposal.log",
            expected="a measurement log",
            observed=str(path),
            next_step="record binary_runtime_measurements as well, as ima.bin",
        )
    return log


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=True)


def propose(hosts: Sequence[HostLogs], known: Sequence[ReferenceValues] = ()) -> tuple[str, int]:
    """A text for review, and how many lines are to be decided.

    Left out is what ``known`` lists already, and ``boot_aggregate``, which follows from the boot.

    Args:
        hosts: the logs of one or more.
        known: reference values that are believed already.

    Raises:
        InputError, EvidenceError: ``ima.*``, ``boot.*`` for a log that cannot be read.
    """
    head, seen, violations = [], Counter[Line](), list[str]()
    boots = [r.boot for r in known if r.boot]
    for host in hosts:
        entries = parse_log(host.ima)
        head.append(f"log {digest(host.ima)} {len(entries)} entries")
        if host.boot is not None:
            seen.update(set(boot_lines(host.boot, host.line, boots)))
        violations += [e.path for e in entries if e.violation]
        seen.update(
            {
                (_kind(e), e.path, e.named_digest)
                for e in entries
                if not e.aggregate and not e.violation
            }
        )
    new = [line for line in sorted(seen) if not _known(*line, known)]
    text = [_FIRST, *head, "# + approves a line, - refuses it; all must be decided."]
    if any(kind.startswith("event") for kind, _, _ in new):
        text.append("# Of what was measured into PCR 4, 9 or 11, write kernel for event where it")
        text.append("# is the kernel itself. Firmware and loaders are events.")
    for name in sorted(set(violations)):
        text.append(f"# written while it was measured, on some host: {_quoted(name)}")
    for line in new:
        kind, name, value = line
        if len(hosts) > 1:
            text.append(f"# {seen[line]} of {len(hosts)} hosts have it")
        text.append(f"? {kind} {value} {_quoted(name)}")
    return "\n".join(text) + "\n", len(new)


def _kind(entry: Entry) -> str:
    return "buffer" if entry.detail and entry.detail.buffer else "file"


def _known(kind: str, name: str, value: str, known: Sequence[ReferenceValues]) -> bool:
    if kind not in ("buffer", "file"):
        return False
    return any(value in (r.buffers if kind == "buffer" else r.listed).get(name, ()) for r in known)


def _malformed(number: int, observed: str) -> ParseError:
    return ParseError(
        "proposal.malformed",
        expected='+, - or ?, then a kind, a digest and a name in "…", as proposed',
        observed=f"line {number}: {observed[:120]!r}",
        next_step="change only the first character of a line",
    )


def approved(text: str, name: str) -> Proposal:
    """The approved lines of a proposal that somebody has reviewed.

    Args:
        text: as :func:`propose` wrote it, each ``?`` decided.
        name: what the source is called: who reviewed it, of which host.

    Raises:
        ParseError: ``proposal.malformed``.
        InputError: ``proposal.undecided``.
    """
    lines = text.splitlines()
    if not lines or lines[0] != _FIRST:
        raise _malformed(1, lines[0] if lines else "")
    logs: list[str] = []
    tables: dict[str, dict[str, tuple[str, ...]]] = {"file": {}, "buffer": {}}
    marks, once, boot = Counter[str](), set[str](), Approved()
    for number, line in enumerate(lines[1:], 2):
        if not line.strip() or line.startswith("#"):
            continue
        if log := _LOG.fullmatch(line):
            logs.append(log[1])
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise _malformed(number, line)
        if line[1:] in once:  # one word on each, whatever the other says
            raise _malformed(number, line)
        once.add(line[1:])
        mark, kind, value, quoted = found.groups()
        marks[mark] += 1
        key = _unquoted(quoted, number)
        if mark == "+" and kind in tables:
            tables[kind][key] = (*tables[kind].get(key, ()), value)
        elif mark == "+":
            try:
                boot.add(kind, key, value)
            except ValueError as e:
                raise _malformed(number, f"{e}: {line}") from e
    if marks["?"]:
        raise InputError(
            "proposal.undecided",
            expected="every line decided",
            observed=f"{marks['?']} of {marks.total()} lines begin with ?",
            next_step="write + before what you know and - before what you do not",
        )
    artifact = logs[0] if logs else None
    source = Source(kind="host", name=name, artifact=artifact, files=tables["file"])
    # Whoever approved a policy file wants it loaded, and no other, before the agent is read.
    measured = [IMA_POLICY] if IMA_POLICY in tables["file"] else []
    measured += sorted(path for path in tables["file"] if is_agent(path))[:1] if measured else []
    try:
        booted = boot.references(measured)
    except ValueError as e:
        raise _malformed(1, str(e)) from e
    return Proposal(source, tables["buffer"], booted, marks["-"])


def read_proposal(path: Path) -> Proposal:
    """:func:`approved` of a file, whose name the source takes.

    Raises:
        InputError: ``file.*``, ``proposal.malformed``, ``proposal.undecided``.
    """
    data = read_bounded(path, MAX_BYTES, what="a reviewed proposal")
    return approved(data.decode("utf-8", "replace"), printable(path.name))


def all_buffers(reviewed: Sequence[Proposal]) -> dict[str, tuple[str, ...]]:
    """What several reviews approved that is no file."""
    found: dict[str, tuple[str, ...]] = {}
    for proposal in reviewed:
        for name, values in proposal.buffers.items():
            found[name] = (*found.get(name, ()), *values)
    return found


def _unquoted(quoted: str, number: int) -> str:
    try:
        name = json.loads(quoted)
    except ValueError as e:
        raise _malformed(number, quoted) from e
    if not isinstance(name, str) or not can_be_named(name):
        raise _malformed(number, quoted)
    return name
