"""Reference values: what measured files, boots and enclaves may be, and who says so.

Rules for a measured file, in this order; ``docs/spec/evidence.md``, section 5, has them in full:

1. Only sets within their time count, and of those only what they say at that time.
2. A digest that any set names as superseded for the file's path is refused from its time on,
   whoever else lists or signs it; until then it is as good as a listed one.
3. A digest that any set lists for the path is good.
4. A path that stands in no set may be covered by a path rule: its content is then not asked for,
   and the appraisal says so, rule by rule. A rule never speaks for a path that stands in a set, nor
   for one by which the boot is judged.
5. Anything else needs the signature of a listed signer, or is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from svetovid.crypto.canonical import Base64, Digest, Document, Name, Text

__all__ = ["BootReferences", "Current", "PathRule", "ReferenceValues", "Source"]

FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
FileDigest = Annotated[
    str,
    StringConstraints(
        pattern=r"^(verity:)?(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$"
    ),
]
"""A file's digest as the log names it; ``verity:`` for fs-verity's, which is of a Merkle tree."""
BootDigest = Annotated[
    str,
    StringConstraints(pattern=r"^(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$"),
]
"""What was measured, or a whole PCR, in a bank of the TPM."""
BootPcr = Annotated[str, StringConstraints(pattern=r"^([0-9]|1[1-4])$")]
CommandLine = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,4096}$")]
RulePath = Annotated[str, StringConstraints(max_length=4096, pattern=r"^(/[^/\x00-\x1f\x7f]+)+$")]
"""Absolute, without empty parts and control characters."""
Time = Annotated[int, Field(ge=0)]
Files = dict[FilePath, tuple[FileDigest, ...]]


class BootReferences(Document):
    """What may boot a host, as a boot log shows it in the bank that is quoted (T4).

    Attributes:
        kernels: name to the digests it may have where it is measured: Authenticode in PCR 4 (a
            unified kernel image counts), the file in PCR 9 (grub), ``.linux`` in PCR 11.
        command_lines: whole lines, as the boot loader or the kernel's stub measures them; with the
            hash of the root file system where the line names it (T16).
        events: PCR to name to digests: whatever else may be measured into it, in any order.
        pcrs: PCR to whole values, where an owner would rather list those.
        measured: paths that the measurement log must hold, as proof that the IMA policy measures
            what runs; among them a policy file that the system loads at start.

    PCRs that hold code (0, 2, 4, 8, 9, 11, 12, 13) are explained event by event, or by a value
    listed whole. The others (1, 3, 5, 6, 7, 14) are looked at only where they are listed.
    """

    kernels: dict[Text, tuple[BootDigest, ...]] = {}
    command_lines: tuple[CommandLine, ...] = ()
    events: dict[BootPcr, dict[Text, tuple[BootDigest, ...]]] = {}
    pcrs: dict[BootPcr, tuple[BootDigest, ...]] = {}
    measured: tuple[FilePath, ...] = ()


class Source(Document):
    """Where some of the values come from, so that a reader can make them again.

    Attributes:
        kind: what it was; ``host`` for a machine's own log, which proves nothing until somebody
            who knows the machine has looked at it.
        name: for example ``openssl 3.0.15-1~deb12u1 amd64``.
        artifact: digest of the package, of the container image's manifest or of the log, where
            there is one file to name.
        files: path to the digests that it gives.
    """

    kind: Literal["directory", "debian", "container", "host"]
    name: Annotated[Text, Field(min_length=1)]
    artifact: Digest | None = None
    files: Files = {}


class PathRule(Document):
    """Paths whose content is not asked for, with the reason. Anchored at both ends.

    Attributes:
        kind: ``exact``: this path. ``subtree``: every path that begins with it and a slash.
            ``glob``: ``*`` stands for any characters within one part of the path; nothing else is
            special.
        path: its first part is always literal.
        why: what the owner thinks lies there.
    """

    kind: Literal["exact", "subtree", "glob"]
    path: RulePath
    why: Annotated[Text, Field(min_length=1)]

    @model_validator(mode="after")
    def _as_meant(self) -> Self:
        parts = self.path.split("/")[1:]
        if {".", ".."} & set(parts):
            raise ValueError("a path without . and ..")
        if self.kind != "glob" and "*" in self.path:
            raise ValueError("* only in a glob")
        if self.kind == "glob" and ("**" in self.path or "*" in parts[0] or "*" not in self.path):
            raise ValueError("single * after a literal first part; a subtree for any depth")
        return self


class ReferenceValues(Document):
    """Digests that measured files may have, and their origin. Signed; a policy pins it (T2).

    Attributes:
        product: what these values describe, for example ``svetovid-runtime``.
        version: rises with every edition.
        files: path to the digests it may have, beside those of ``sources``. A measured path that
            stands in no set is refused, unless one of ``file_signers`` signed the file or a rule
            of ``unchecked`` covers it.
        sources: where values come from, each with its own.
        superseded: path to digest to the time, in Unix seconds, from which it is refused. Before
            it, old and new are good: hosts are updated in between.
        unchecked: paths whose content is not asked for; each appraisal counts what they covered.
        buffers: name to digests of what the kernel measures that is no file (``ima-buf``): keys,
            dm-verity tables, command lines of kexec.
        file_signers: DER SubjectPublicKeyInfo of keys whose IMA signature makes good a file that
            stands nowhere in ``files``.
        boot: what may boot the host. A host that boots otherwise is not affirmed; without it,
            measurement is at most ``launcher``.
        tee_measurements: digests an enclave's measurement may have.
        valid_from, valid_until: Unix seconds; outside the window the set counts for nothing.
        provenance: who made the values, from what.
    """

    TYPE: ClassVar[str] = "reference-values"
    MAX_MEMBERS: ClassVar[int] = 1 << 24
    product: Name
    version: Annotated[int, Field(ge=1)]
    files: Files = {}
    sources: Annotated[tuple[Source, ...], Field(max_length=1 << 16)] = ()
    superseded: dict[FilePath, dict[FileDigest, Time]] = {}
    unchecked: Annotated[tuple[PathRule, ...], Field(max_length=32)] = ()
    buffers: Files = {}
    file_signers: Annotated[tuple[Base64, ...], Field(max_length=16)] = ()
    boot: BootReferences | None = None
    tee_measurements: tuple[Digest, ...] = ()
    valid_from: int | None = None
    valid_until: int | None = None
    provenance: Text = ""

    @cached_property
    def listed(self) -> Mapping[str, tuple[str, ...]]:
        """Path to digests, of ``files`` and all sources: what an appraisal looks files up in."""
        if not self.sources:
            return self.files
        merged = dict(self.files)
        for source in self.sources:
            for path, digests in source.files.items():
                known = merged.get(path, ())
                merged[path] = (*known, *(d for d in digests if d not in known))
        return merged

    @cached_property
    def turns(self) -> Sequence[int]:
        """The times at which a digest begins to be refused, in order."""
        return sorted({time for digests in self.superseded.values() for time in digests.values()})

    def origins(self, path: str) -> list[str]:
        """Which sources have a value for ``path``."""
        return [f"{s.kind} {s.name}" for s in self.sources if path in s.files]

    def current(self, now: int) -> bool:
        """Whether ``now``, in Unix seconds, is within its window."""
        return (self.valid_from is None or self.valid_from <= now) and (
            self.valid_until is None or now <= self.valid_until
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; what was computed from the old fields does not come along."""
        copied = super().model_copy(update=update, deep=deep)
        for computed in ("listed", "turns"):
            copied.__dict__.pop(computed, None)
        return copied


@dataclass(frozen=True, slots=True)
class Current:
    """The sets of an owner that count at one time.

    Attributes:
        sets: within their window at ``now``; see :meth:`at`.
        now: Unix seconds.
    """

    sets: tuple[ReferenceValues, ...]
    now: int

    @classmethod
    def at(cls, references: Sequence[ReferenceValues], now: int) -> Current:
        return cls(tuple(r for r in references if r.current(now)), now)

    @property
    def stages(self) -> tuple[int, ...]:
        """Of each set, how many of its turns are over: while these stay, so does what it says."""
        return tuple([bisect_right(r.turns, self.now) if r.superseded else 0 for r in self.sets])
