"""Entries of the kernel's ``binary_runtime_measurements`` in the ``ima-ng`` form.

One entry, little endian::

    u32 pcr | 20 bytes SHA-1 of the template data | u32 6 | "ima-ng" | u32 length | template data
    template data:  u32 length | "sha256:" NUL digest | u32 length | path NUL

The kernel extends the SHA-256 bank with SHA-256 of the template data. A violation (a file written
while it was measured) has a zero SHA-1 field and extends 0xff..ff.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from typing import NamedTuple

from svetovid.errors import EvidenceError, LimitError, ParseError
from svetovid.evidence.tpm.constants import MEASUREMENT_PCR

__all__ = [
    "BOOT_AGGREGATE",
    "MAX_ENTRIES",
    "MAX_LOG_BYTES",
    "VIOLATION",
    "Entry",
    "boot_aggregate",
    "boot_aggregate_digest",
    "build_entry",
    "extension",
    "parse_log",
    "too_large",
]

MAX_LOG_BYTES = 32 << 20
MAX_ENTRIES = 1 << 18
"""Entries of one boot that are held in memory; about 100 MB."""
_MAX_PATH = 4096
BOOT_AGGREGATE = "boot_aggregate"
VIOLATION = b"\xff" * 32
_TEMPLATE = b"ima-ng"
_NO_SHA1 = bytes(20)

_COMMON = re.compile(
    rb"\x0a\0\0\0(.{20})\x06\0\0\0ima-ng(.{4})"
    rb"(\x28\0\0\0sha256:\0(.{32})(.{4})(/[\x01-\x09\x0b-\x7f]{0,4095})\0)",
    re.DOTALL,
)
"""An entry as nearly all are: PCR 10, SHA-256, an ASCII path; bounded, so it never runs long."""
_SIZES = [
    ((49 + n).to_bytes(4, "little"), (1 + n).to_bytes(4, "little")) for n in range(_MAX_PATH + 1)
]
"""Length of a path to the two size fields that must go with it."""
_HEADER = struct.Struct("<I20sI6sI")
_SHA256_DATA = struct.Struct("<I8s32sI")
_U32 = struct.Struct("<I")
_DIGEST_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}


class Entry(NamedTuple):
    """One measured file.

    Attributes:
        path: as the kernel or launcher wrote it; ``boot_aggregate`` for the first entry.
        digest: of the file; 32 bytes SHA-256, 48 SHA-384 or 64 SHA-512.
        extension: the 32 bytes that the SHA-256 bank was extended with.
    """

    path: str
    digest: bytes
    extension: bytes

    @property
    def violation(self) -> bool:
        return self.extension == VIOLATION

    @property
    def named_digest(self) -> str:
        """The digest as reference values write it, for example ``sha256:ab...``."""
        return f"sha{len(self.digest) * 8}:{self.digest.hex()}"


def _malformed(expected: str, observed: object) -> ParseError:
    return ParseError(
        "ima.malformed",
        expected=expected,
        observed=observed,
        next_step="send the measurement log as it is, whole entries only",
    )


def _check_path(raw: bytes) -> str:
    """A path as it can stand in reference values, or ``boot_aggregate``."""
    observed: object = raw[:80]
    try:
        path = raw.decode("utf-8")
    except UnicodeDecodeError:
        path = ""
    if path == BOOT_AGGREGATE or (
        path.startswith("/")
        and len(raw) <= _MAX_PATH
        and "\0" not in path
        and "\n" not in path
        and ".." not in path.split("/")
    ):
        return path
    raise EvidenceError(
        "ima.path",
        expected="an absolute UTF-8 path without NUL, newline or ..",
        observed=observed,
        next_step="remove the file from the host, restart it and attest again",
    )


def _slow(data: bytes, at: int, index: int) -> tuple[Entry, int]:
    """Any one entry, with a reason for whatever is wrong about it."""
    where = f"entry {index} at byte {at}"
    if at + _HEADER.size > len(data):
        raise _malformed("a whole entry", where)
    pcr, sha1, name_size, template, size = _HEADER.unpack_from(data, at)
    if name_size != len(_TEMPLATE) or template != _TEMPLATE:
        raise EvidenceError(
            "ima.template_unknown",
            expected="ima-ng",
            observed=f"{bytes(data[at + 28 : at + 28 + min(name_size, 32)])!r}, {where}",
            next_step="boot with ima_template=ima-ng",
        )
    if pcr != MEASUREMENT_PCR:
        raise EvidenceError(
            "ima.pcr",
            expected=f"PCR {MEASUREMENT_PCR}",
            observed=f"PCR {pcr}, {where}",
            next_step="use an IMA policy without pcr=",
        )
    body = data[at + _HEADER.size : at + _HEADER.size + size]
    if len(body) != size:
        raise _malformed(f"{size} bytes of template data", where)
    digest, path = _fields(body, where)
    if sha1 == _NO_SHA1:
        return Entry(path, digest, VIOLATION), at + _HEADER.size + size
    if hashlib.sha1(body, usedforsecurity=False).digest() != sha1:
        raise EvidenceError(
            "ima.template",
            expected="the SHA-1 of the template data",
            observed=f"{sha1.hex()}, {where}",
            next_step="send the log unchanged",
        )
    return Entry(path, digest, hashlib.sha256(body).digest()), at + _HEADER.size + size


def _fields(body: bytes, where: str) -> tuple[bytes, str]:
    """(file digest, path) of ima-ng template data."""
    if len(body) < 8:
        raise _malformed("a digest field and a path field", where)
    split = 4 + _U32.unpack_from(body, 0)[0]
    if split + 4 > len(body):
        raise _malformed("a digest field within the entry", where)
    name, sign, digest = body[4:split].partition(b":\0")
    if split + 4 + _U32.unpack_from(body, split)[0] != len(body):
        raise _malformed("a path field that ends with the entry", where)
    if not sign or body[-1:] != b"\0" or len(body) == split + 4:
        raise _malformed("algorithm, colon, NUL, digest; path, NUL", where)
    size = _DIGEST_BYTES.get(name.decode("latin-1"))
    if size is None:
        raise EvidenceError(
            "ima.alg",
            expected="file digests in SHA-256, SHA-384 or SHA-512",
            observed=f"{name[:32]!r}, {where}",
            next_step="boot with ima_hash=sha256",
        )
    if len(digest) != size:
        raise _malformed(f"a digest of {size} bytes", where)
    return digest, _check_path(body[split + 4 : -1])


def parse_log(data: bytes) -> tuple[Entry, ...]:
    """Read whole ``ima-ng`` entries and recompute each one's template hash in both banks.

    Raises:
        LimitError: ``ima.size``.
        ParseError: ``ima.malformed``.
        EvidenceError: ``ima.template_unknown``, ``ima.template`` (the SHA-1 field is not that of
            the template data), ``ima.alg``, ``ima.path``, ``ima.pcr``.
    """
    if len(data) > MAX_LOG_BYTES:
        raise too_large(f"{len(data)} bytes")
    end, at = len(data), 0
    out: list[Entry] = []
    append, new, match = out.append, tuple.__new__, _COMMON.match
    sha1, sha256 = hashlib.sha1, hashlib.sha256
    while at < end:
        # The common entry, in few bytecodes; whatever is odd about one goes to _slow.
        if common := match(data, at):
            field, size, body, digest, path_size, path = common.groups()
            length = len(path)
            if (
                (size, path_size) == _SIZES[length]
                and b".." not in path
                and sha1(body).digest() == field
            ):
                append(new(Entry, (path.decode(), digest, sha256(body).digest())))
                at += 87 + length
                continue
        entry, at = _slow(data, at, len(out))
        append(entry)
        if len(out) > MAX_ENTRIES:
            raise too_large("more entries")
    if len(out) > MAX_ENTRIES:
        raise too_large(f"{len(out)} entries")
    return tuple(out)


def too_large(observed: str) -> LimitError:
    return LimitError(
        "ima.size",
        expected=f"at most {MAX_LOG_BYTES} bytes and {MAX_ENTRIES} entries",
        observed=observed,
        next_step="restart the host with a smaller file system",
    )


def boot_aggregate_digest(pcrs: Mapping[int, bytes]) -> bytes:
    """SHA-256 over PCR 0 to 9 of the SHA-256 bank, as the kernel computes it (M13).

    Raises:
        EvidenceError: ``pcr.missing``.
    """
    missing = [i for i in range(10) if i not in pcrs]
    if missing:
        raise EvidenceError(
            "pcr.missing",
            expected="PCRs 0 to 9",
            observed=f"without {missing}",
            next_step="read PCRs 0 to 9 as well",
        )
    return hashlib.sha256(b"".join(pcrs[i] for i in range(10))).digest()


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
    if _check_path(raw) == BOOT_AGGREGATE:
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
        raise _malformed("one entry", len(entries))
    return entries[0].extension
