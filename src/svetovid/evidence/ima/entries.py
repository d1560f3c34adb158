"""Entries of the kernel's ``binary_runtime_measurements``.

One entry, little endian::

    u32 pcr | 20 bytes SHA-1 of the template data | u32 length | template name
    | u32 length | template data
    ima-ng:  u32 length | "sha256:" NUL digest | u32 length | path NUL

The kernel extends each bank with that bank's hash of the template data, so the SHA-1 in the log
proves nothing: the template digest is computed anew (M6). A violation (a file written while it was
measured) has a zero SHA-1 field and extends 0xff..ff. Fields are read in :mod:`.templates`.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from typing import NamedTuple

from svetovid.errors import EvidenceError, LimitError
from svetovid.evidence.ima.templates import (
    BOOT_AGGREGATE,
    MAX_PATH,
    Detail,
    check_path,
    malformed,
    read_fields,
    template_fields,
)
from svetovid.evidence.tpm.constants import MEASUREMENT_PCR

__all__ = [
    "BOOT_AGGREGATE",
    "MAX_ENTRIES",
    "MAX_LOG_BYTES",
    "PREFIXES",
    "VIOLATIONS",
    "Entry",
    "Plain",
    "as_entries",
    "boot_aggregate",
    "boot_aggregate_digest",
    "build_entry",
    "extension",
    "length_of",
    "parse_log",
    "parse_plain",
    "too_large",
]

MAX_LOG_BYTES = 32 << 20
"""Of one boot's whole log, however it comes in: a receipt carries it to its end."""
MAX_ENTRIES = 1 << 18
"""Entries of one boot that are held in memory; about 100 MB."""
_TEMPLATE = b"ima-ng"
_MAX_TEMPLATE = 16
_NO_SHA1 = bytes(20)
_DIGEST_NAMES = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
_VIOLATION = {bank: b"\xff" * size for size, bank in _DIGEST_NAMES.items()}
VIOLATIONS = frozenset(_VIOLATION.values())
"""What a violation extends, in any bank."""
PREFIXES = {size: f"{name}:" for size, name in _DIGEST_NAMES.items()}
"""Bytes of a digest to what its name begins with in reference values."""

_COMMON = re.compile(
    rb"\x0a\0\0\0(.{20})\x06\0\0\0ima-ng(.{4})"
    rb"(\x28\0\0\0sha256:\0(.{32})(.{4})(/[\x01-\x09\x0b-\x7f]{0,4095})\0)",
    re.DOTALL,
)
"""An entry as most are: PCR 10, ima-ng, SHA-256, an ASCII path; bounded, so it never runs long."""
_SIZES = [
    ((49 + n).to_bytes(4, "little"), (1 + n).to_bytes(4, "little")) for n in range(MAX_PATH + 1)
]
"""Length of a path to the two size fields that must go with it."""
_FRONT = struct.Struct("<I20sI")
_HEADER = struct.Struct("<I20sI6sI")
_SHA256_DATA = struct.Struct("<I8s32sI")
_U32 = struct.Struct("<I")


class Entry(NamedTuple):
    """One measured file, or something else that the kernel measured.

    Attributes:
        path: as the kernel or launcher wrote it; ``boot_aggregate`` for the first entry.
        digest: of the file; 32 bytes SHA-256, 48 SHA-384 or 64 SHA-512.
        extension: what the bank was extended with.
        detail: what the entry says beyond that, where it does.
    """

    path: str
    digest: bytes
    extension: bytes
    detail: Detail | None = None

    @property
    def violation(self) -> bool:
        """Whether the kernel says that a file was written while it was measured: its digest is
        void."""
        return self.extension in VIOLATIONS

    @property
    def aggregate(self) -> bool:
        """Whether it is a ``boot_aggregate``: only a kernel's start makes one, no file can."""
        return self.path == BOOT_AGGREGATE

    @property
    def named_digest(self) -> str:
        """The digest as reference values write it, for example ``sha256:ab...``."""
        name = f"{_DIGEST_NAMES[len(self.digest)]}:{self.digest.hex()}"
        return f"verity:{name}" if self.detail and self.detail.verity else name


Plain = tuple[str, bytes, bytes, Detail | None]
"""An :class:`Entry` without its name: Python's collector of cycles stops looking at these."""


def as_entries(plain: Iterable[Plain]) -> Iterator[Entry]:
    """The same, with names for their parts."""
    return map(tuple.__new__, repeat(Entry), plain)


def _other(data: bytes, at: int, index: int, bank: str) -> tuple[Entry, int]:
    """Any one entry, with a reason for whatever is wrong about it."""
    where = f"entry {index} at byte {at}"
    if at + _FRONT.size > len(data):
        raise malformed("a whole entry", where)
    pcr, sha1, name_size = _FRONT.unpack_from(data, at)
    at += _FRONT.size
    template = data[at : at + min(name_size, _MAX_TEMPLATE)]
    if len(template) < min(name_size, _MAX_TEMPLATE):
        raise malformed("a whole entry", where)
    fields = template_fields(template, where)
    if pcr != MEASUREMENT_PCR:
        raise EvidenceError(
            "ima.pcr",
            expected=f"PCR {MEASUREMENT_PCR}",
            observed=f"PCR {pcr}, {where}",
            next_step="use an IMA policy without pcr=",
        )
    at += name_size
    if at + 4 > len(data):
        raise malformed("a whole entry", where)
    end = at + 4 + _U32.unpack_from(data, at)[0]
    body = data[at + 4 : end]
    if len(body) != end - at - 4:
        raise malformed(f"{end - at - 4} bytes of template data", where)
    violation = sha1 == _NO_SHA1
    path, digest, detail = read_fields(fields, body, where, violation=violation)
    if violation:
        return Entry(path, digest, _VIOLATION[bank], detail), end
    if hashlib.sha1(body, usedforsecurity=False).digest() != sha1:
        raise EvidenceError(
            "ima.template",
            expected="the SHA-1 of the template data",
            observed=f"{sha1.hex()}, {where}",
            next_step="send the log unchanged",
        )
    return Entry(path, digest, hashlib.new(bank, body).digest(), detail), end


def parse_log(data: bytes, bank: str = "sha256") -> tuple[Entry, ...]:
    """As :func:`parse_plain`, with names for the parts of an entry."""
    return tuple(as_entries(parse_plain(data, bank)))


def parse_plain(data: bytes, bank: str = "sha256") -> list[Plain]:
    """Read whole entries and recompute each one's template digest, for the log and for a bank.

    Args:
        data: ``binary_runtime_measurements``.
        bank: whose PCR 10 the entries are to be replayed into: ``sha1``, ``sha256``, ``sha384``
            or ``sha512``.

    Raises:
        LimitError: ``ima.size``, ``ima.sig_size``.
        ParseError: ``ima.malformed``.
        EvidenceError: ``ima.template_unknown``, ``ima.template`` (the SHA-1 field is not that of
            the template data), ``ima.alg``, ``ima.path``, ``ima.pcr``, ``ima.buf`` (a digest of
            another buffer).
    """
    if len(data) > MAX_LOG_BYTES:
        raise too_large(f"{len(data)} bytes")
    end, at = len(data), 0
    out: list[Plain] = []
    append, match = out.append, _COMMON.match
    sha1, extend = hashlib.sha1, getattr(hashlib, bank)
    while at < end:
        # The common entry, in few bytecodes; whatever is odd about one goes to _other.
        if common := match(data, at):
            field, size, body, digest, path_size, path = common.groups()
            length = len(path)
            if (
                (size, path_size) == _SIZES[length]
                and b".." not in path
                and sha1(body).digest() == field
            ):
                append((path.decode(), digest, extend(body).digest(), None))
                at += 87 + length
                continue
        entry, at = _other(data, at, len(out), bank)
        append(entry[:])
        if len(out) > MAX_ENTRIES:
            raise too_large("more entries")
    if len(out) > MAX_ENTRIES:
        raise too_large(f"{len(out)} entries")
    return out


def length_of(data: bytes, count: int) -> int:
    """Bytes of the first ``count`` entries of a log that was parsed."""
    at = 0
    for _ in range(count):
        (name,) = _U32.unpack_from(data, at + 24)
        (body,) = _U32.unpack_from(data, at + 28 + name)
        at += 32 + name + body
    return at


def too_large(observed: str) -> LimitError:
    return LimitError(
        "ima.size",
        expected=f"at most {MAX_LOG_BYTES} bytes and {MAX_ENTRIES} entries",
        observed=observed,
        next_step="restart the host with a smaller file system",
    )


def boot_aggregate_digest(pcrs: Mapping[int, bytes], bank: str = "sha256") -> bytes:
    """A bank's hash over its own PCR 0 to 9, as the kernel computes it (M13); SHA-1: 0 to 7.

    Raises:
        EvidenceError: ``pcr.missing``.
    """
    wanted = range(8 if bank == "sha1" else 10)
    missing = [i for i in wanted if i not in pcrs]
    if missing:
        raise EvidenceError(
            "pcr.missing",
            expected=f"PCRs 0 to {wanted[-1]}",
            observed=f"without {missing}",
            next_step=f"read PCRs 0 to {wanted[-1]} as well",
        )
    values = b"".join(pcrs[i] for i in wanted)
    return hashlib.new(bank, values, usedforsecurity=False).digest()


def _build(name: bytes, digest: bytes) -> bytes:
    body = _SHA256_DATA.pack(40, b"sha256:\0", digest, len(name) + 1) + name + b"\0"
    sha1 = hashlib.sha1(body, usedforsecurity=False).digest()
    return _HEADER.pack(MEASUREMENT_PCR, sha1, len(_TEMPLATE), _TEMPLATE, len(body)) + body


def build_entry(path: str, digest: str) -> bytes:
    """One ``ima-ng`` entry for the launcher's log.

    Args:
        path: absolute path of the file.
        digest: ``sha256:`` and hex.

    Raises:
        EvidenceError: ``ima.path``, ``ima.alg``.
    """
    raw = path.encode("utf-8", "surrogateescape")
    if check_path(raw) == BOOT_AGGREGATE:
        raise EvidenceError("ima.path", expected="a file", observed=path, next_step="name a file")
    algorithm, _, value = digest.partition(":")
    try:
        file_digest = bytes.fromhex(value)
    except ValueError:
        file_digest = b""
    if algorithm != "sha256" or len(file_digest) != 32:
        raise EvidenceError(
            "ima.alg",
            expected="sha256: and 64 hex digits",
            observed=digest,
            next_step="measure with SHA-256",
        )
    return _build(raw, file_digest)


def boot_aggregate(pcrs: Mapping[int, bytes]) -> bytes:
    """The first entry of every log, the launcher's too: it ties the log to this boot's PCR 0-9.

    Raises:
        EvidenceError: ``pcr.missing``.
    """
    return _build(BOOT_AGGREGATE.encode(), boot_aggregate_digest(pcrs))


def extension(entry: bytes) -> bytes:
    """What PCR 10 of the SHA-256 bank must be extended with for one entry just built.

    Raises:
        ParseError, EvidenceError: as :func:`parse_log`; ``ima.malformed`` for more than one.
    """
    entries = parse_log(entry)
    if len(entries) != 1:
        raise malformed("one entry", len(entries))
    return entries[0].extension
