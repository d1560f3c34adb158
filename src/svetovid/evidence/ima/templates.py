"""The templates of the kernel's measurement log: which fields template data has, and their forms.

Each field is a u32 length, little endian, and that many bytes; the fields fill the template data
(Linux ``security/integrity/ima/ima_template.c`` and ``ima_template_lib.c``)::

    d-ng    "sha256:" NUL digest            d-ngv2  "ima:" or "verity:", then as d-ng
    n-ng    path NUL                        sig     the file's security.ima, if that is a signature
    buf     what was measured, itself       d-modsig, modsig  digest without, and the PKCS #7 part
    evmsig, xattrnames, xattrlengths, xattrvalues, iuid, igid, imode: what EVM signs

The template's *name* is under no digest. That gives a liar nothing: no template data can be read as
two templates of different meaning, since a path begins with a slash and a buffer's name does not.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import NamedTuple

from svetovid.errors import EvidenceError, LimitError, ParseError

__all__ = [
    "BOOT_AGGREGATE",
    "DIGEST_BYTES",
    "MAX_PATH",
    "MAX_SIGNATURE",
    "TEMPLATES",
    "Detail",
    "check_path",
    "malformed",
    "read_fields",
    "template_fields",
]

MAX_PATH = 4096
_MAX_NAME = 255
MAX_SIGNATURE = 4096
"""Bytes of a ``sig`` field: an RSA signature of 16,384 bits has half of it."""
BOOT_AGGREGATE = "boot_aggregate"
DIGEST_BYTES: Mapping[str, int] = {"sha256": 32, "sha384": 48, "sha512": 64}
_U32 = struct.Struct("<I")
TEMPLATES: Mapping[bytes, tuple[str, ...]] = {
    b"ima-ng": ("d-ng", "n-ng"),
    b"ima-ngv2": ("d-ngv2", "n-ng"),
    b"ima-sig": ("d-ng", "n-ng", "sig"),
    b"ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    b"ima-buf": ("d-ng", "n-ng", "buf"),
    b"ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    b"evm-sig": (
        *("d-ng", "n-ng", "evmsig", "xattrnames", "xattrlengths", "xattrvalues"),
        *("iuid", "igid", "imode"),
    ),
}


class Detail(NamedTuple):
    """What some entries say beyond path and digest.

    Attributes:
        verity: the digest is fs-verity's, of a Merkle tree over the file.
        signature: of the file, as :func:`~.signatures.check_signature` reads it; empty for none.
        buffer: no file was measured but some bytes, for example a key or a command line. They were
            held against their digest, and are not kept: whoever is root can measure any amount.
    """

    verity: bool = False
    signature: bytes = b""
    buffer: bool = False


def malformed(expected: str, observed: object) -> ParseError:
    return ParseError(
        "ima.malformed",
        expected=expected,
        observed=observed,
        next_step="send the measurement log as it is, whole entries only",
    )


def check_path(raw: bytes) -> str:
    """A path as it can stand in reference values, or ``boot_aggregate``."""
    observed: object = raw[:80]
    try:
        path = raw.decode("utf-8")
    except UnicodeDecodeError:
        path = ""
    if path == BOOT_AGGREGATE or (
        path.startswith("/")
        and len(raw) <= MAX_PATH
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


def _check_name(raw: bytes) -> str:
    """The name of a buffer; it can never be taken for a path or for ``boot_aggregate``."""
    text = raw.decode("ascii", "replace")
    plain = 1 <= len(raw) <= _MAX_NAME and raw.isascii() and text.isprintable()
    if plain and not text.startswith("/") and text != BOOT_AGGREGATE:
        return text
    raise EvidenceError(
        "ima.path",
        expected=f"a printable name of at most {_MAX_NAME} characters for what is no file",
        observed=raw[:80],
        next_step="find out what the kernel measured under that name",
    )


def _split(body: bytes, count: int, where: str) -> list[bytes]:
    fields: list[bytes] = []
    at = 0
    for _ in range(count):
        if at + 4 > len(body):
            raise malformed(f"{count} fields", where)
        end = at + 4 + _U32.unpack_from(body, at)[0]
        fields.append(body[at + 4 : end])
        at = end
    if at != len(body):
        raise malformed("fields that end with the entry", where)
    return fields


def _algorithm(name: bytes, digest: bytes, where: str, *, aggregate: bool = False) -> None:
    text = name.decode("latin-1")
    # SHA-1 can be an old kernel's word for its PCRs, never for a file (M8).
    size = 20 if aggregate and text == "sha1" else DIGEST_BYTES.get(text)
    if size is None:
        raise EvidenceError(
            "ima.alg",
            expected="file digests in SHA-256, SHA-384 or SHA-512",
            observed=f"{name[:32]!r}, {where}",
            next_step="boot with ima_hash=sha256",
        )
    if len(digest) != size:
        raise malformed(f"a digest of {size} bytes", where)


def _digest(field: bytes, where: str, v2: bool, aggregate: bool) -> tuple[bytes, bool]:
    """(digest, whether it is fs-verity's) of a d-ng or d-ngv2 field."""
    name, sign, digest = field.partition(b":\0")
    if not sign:
        raise malformed("algorithm, colon, NUL, digest", where)
    kind = b"ima"
    if v2:
        kind, sign, name = name.partition(b":")
        if kind not in (b"ima", b"verity") or not sign:
            raise malformed("a digest of type ima or verity", where)
    _algorithm(name, digest, where, aggregate=aggregate)
    return digest, kind == b"verity"


def _modsig(fields: Mapping[str, bytes], where: str) -> None:
    """Digest and PKCS #7 part come together or not at all; the part is one DER SEQUENCE."""
    digest, part = fields["d-modsig"], fields["modsig"]
    if not digest and not part:
        return
    name, sign, value = digest.partition(b":\0")
    if not sign:
        raise malformed("algorithm, colon, NUL, digest in d-modsig", where)
    _algorithm(name, value, where)
    width = part[1] - 0x80 if len(part) > 1 and part[1] > 0x80 else 0
    size = int.from_bytes(part[2 : 2 + width], "big") if width else part[1] if part[1:] else 0
    if part[:1] != b"\x30" or width > 4 or 2 + width + size != len(part):
        raise malformed("one DER SEQUENCE in modsig", where)


def _evm(fields: Mapping[str, bytes], where: str) -> None:
    """As many lengths as names, values as long as they say, ids and mode of their widths."""
    names, lengths = fields["xattrnames"], fields["xattrlengths"]
    count, odd = divmod(len(lengths), 4)
    total = sum(struct.unpack(f"<{count}I", lengths[: 4 * count]))
    named = len(names.split(b"|")) if names else 0
    if odd or named != count or total != len(fields["xattrvalues"]):
        raise malformed("a length and a value for every extended attribute", where)
    if names and (not names.endswith(b"\0") or b"\0" in names[:-1]):
        raise malformed("names that end with a NUL", where)
    if [len(fields[f]) for f in ("iuid", "igid", "imode")] != [4, 4, 2]:
        raise malformed("owner and group of 4 bytes, mode of 2", where)


def _signature(field: bytes, where: str) -> bytes:
    if len(field) > MAX_SIGNATURE:
        raise LimitError(
            "ima.sig_size",
            expected=f"a signature of at most {MAX_SIGNATURE} bytes",
            observed=f"{len(field)} bytes, {where}",
            next_step="sign the file anew, restart the host and attest again",
        )
    return field


def _check_buffer(name: str, digest: bytes, data: bytes, where: str) -> None:
    algorithm = next(a for a, size in DIGEST_BYTES.items() if size == len(digest))
    if hashlib.new(algorithm, data).digest() != digest:
        raise EvidenceError(
            "ima.buf",
            expected=f"{algorithm} of the {len(data)} bytes of {name}",
            observed=f"{digest.hex()}, {where}",
            next_step="send the log unchanged",
        )


def template_fields(template: bytes, where: str) -> tuple[str, ...]:
    """The fields of a template.

    Raises:
        EvidenceError: ``ima.template_unknown`` (M7).
    """
    if template not in TEMPLATES:
        raise EvidenceError(
            "ima.template_unknown",
            expected=", ".join(t.decode() for t in TEMPLATES),
            observed=f"{template[:32]!r}, {where}",
            next_step="boot with ima_template=ima-ng and without ima_template_fmt",
        )
    return TEMPLATES[template]


def read_fields(
    names: tuple[str, ...], body: bytes, where: str, *, violation: bool
) -> tuple[str, bytes, Detail | None]:
    """(path or name, digest, detail) of an entry's template data.

    A violation's digest says nothing, so its buffer is not held against it.

    Raises:
        ParseError: ``ima.malformed``.
        LimitError: ``ima.sig_size``.
        EvidenceError: ``ima.alg``, ``ima.path``, ``ima.buf``.
    """
    split = _split(body, len(names), where)
    fields = dict(zip(names, split, strict=True))
    raw = fields["n-ng"]
    if raw[-1:] != b"\0":
        raise malformed("path, NUL", where)
    aggregate = raw[:-1] == BOOT_AGGREGATE.encode()
    digest, verity = _digest(split[0], where, names[0] == "d-ngv2", aggregate)
    if "modsig" in fields:
        _modsig(fields, where)
    if "evmsig" in fields:
        _evm(fields, where)
    if "buf" in fields:
        name = _check_name(raw[:-1])
        if not violation:
            _check_buffer(name, digest, fields["buf"], where)
        return name, digest, Detail(buffer=True)
    signature = _signature(fields.get("sig", b""), where)
    detail = Detail(verity, signature) if verity or signature else None
    return check_path(raw[:-1]), digest, detail
