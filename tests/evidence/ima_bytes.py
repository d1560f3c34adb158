"""Measurement log entries packed by hand, apart from the code under test."""

from __future__ import annotations

import hashlib
import struct

_DIGEST = hashlib.sha256(b"x").digest()


def raw_entry(
    path=b"/bin/x",
    file_digest=_DIGEST,
    *,
    pcr=10,
    template=b"ima-ng",
    algorithm=b"sha256:\0",
    sha1=None,
    body=None,
    nul=b"\0",
):
    """An entry packed apart from the code under test."""
    if body is None:
        d = algorithm + file_digest
        n = path + nul
        body = struct.pack("<I", len(d)) + d + struct.pack("<I", len(n)) + n
    sha1 = hashlib.sha1(body).digest() if sha1 is None else sha1
    head = struct.pack("<I20sI", pcr, sha1, len(template)) + template
    return head + struct.pack("<I", len(body)) + body


def fields(*parts):
    """Template data: each field behind its length."""
    return b"".join(struct.pack("<I", len(p)) + p for p in parts)
