"""Propose, then review: what hosts have run, as a text that a person decides about, line by line.

A host's log shows what is there, not what ought to be. So nothing in it becomes a reference value
until somebody has written ``+`` before it::

    svetovid proposal 1
    log sha256:52c5… 1834 entries
    # 2 of 3 logs have it
    ? file sha256:9f86… "/usr/bin/python3.11"
    ? buffer sha256:60ae… "kexec-cmdline"

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
from svetovid.evidence.ima import MAX_LOG_BYTES, Entry, parse_log
from svetovid.evidence.references import ReferenceValues, Source
from svetovid.stakeholder.home import read_bounded
from svetovid.stakeholder.recordings import read_recording
from svetovid.stakeholder.sources.directory import printable
from svetovid.stakeholder.sources.tree import can_be_named

__all__ = ["Proposal", "all_buffers", "approved", "propose", "read_log", "read_proposal"]

_FIRST = "svetovid proposal 1"
_LOG = re.compile(r"log (sha256:[0-9a-f]{64}) ([0-9]{1,7}) entries")
_LINE = re.compile(
    r"([-+?]) (file|buffer) "
    r"((?:verity:)?(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})) "
    r'("[ -~]{1,32768}")'
)
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Proposal:
    """What was approved, as values.

    Attributes:
        source: its artifact is the digest of the first log.
        buffers: as in :class:`ReferenceValues`.
        refused: lines that somebody said no to.
    """

    source: Source
    buffers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: int = 0


def read_log(path: Path) -> bytes:
    """A measurement log: bare, or out of recorded evidence (a bundle, or a directory).

    Raises:
        InputError: ``file.*``, ``recorded.*``, ``json.*``, ``document.invalid``,
            ``proposal.log`` where a recording has none.
    """
    if not path.is_dir():
        data = read_bounded(path, MAX_LOG_BYTES, what="a measurement log or recorded evidence")
        if not data.lstrip().startswith(b"{"):
            return data
    recorded = read_recording(path)
    if recorded.ima is None:
        raise InputError(
            "proposal.log",
            expected="recorded evidence with a measurement log",
            observed=str(path),
            next_step="record binary_runtime_measurements as well",
        )
    return b64decode(recorded.ima)


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=True)


def propose(logs: Sequence[bytes], known: Sequence[ReferenceValues] = ()) -> tuple[str, int]:
    """A text for review, and how many lines are to be decided.

    Left out is what ``known`` lists already, and ``boot_aggregate``, which follows from the boot.

    Args:
        logs: ``binary_runtime_measurements`` of one or more hosts.
        known: reference values that are believed already.

    Raises:
        InputError, EvidenceError: ``ima.*`` for a log that cannot be read.
    """
    head, seen, violations = [], Counter[tuple[str, str, str]](), list[str]()
    for log in logs:
        entries = parse_log(log)
        head.append(f"log {digest(log)} {len(entries)} entries")
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
    for name in sorted(set(violations)):
        text.append(f"# written while it was measured, on some host: {_quoted(name)}")
    for line in new:
        kind, name, value = line
        if len(logs) > 1:
            text.append(f"# {seen[line]} of {len(logs)} logs have it")
        text.append(f"? {kind} {value} {_quoted(name)}")
    return "\n".join(text) + "\n", len(new)


def _kind(entry: Entry) -> str:
    return "buffer" if entry.detail and entry.detail.buffer is not None else "file"


def _known(kind: str, name: str, value: str, known: Sequence[ReferenceValues]) -> bool:
    return any(value in (r.buffers if kind == "buffer" else r.listed).get(name, ()) for r in known)


def _malformed(number: int, observed: str) -> ParseError:
    return ParseError(
        "proposal.malformed",
        expected='+, - or ?, then file or buffer, a digest and a name in "…"',
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
    marks, once = Counter[str](), set[str]()
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
        if mark == "+":
            table, key = tables[kind], _unquoted(quoted, number)
            table[key] = (*(d for d in table.get(key, ()) if d != value), value)
    if marks["?"]:
        raise InputError(
            "proposal.undecided",
            expected="every line decided",
            observed=f"{marks['?']} of {marks.total()} lines begin with ?",
            next_step="write + before what you know and - before what you do not",
        )
    artifact = logs[0] if logs else None
    source = Source(kind="host", name=name, artifact=artifact, files=tables["file"])
    return Proposal(source, tables["buffer"], marks["-"])


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
