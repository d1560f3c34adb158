"""Which storage addresses are taken: ``file``, ``memory`` and ``s3``, in one plain form each.

fsspec reads far more into a URL (chains, caches, archives, credentials, other protocols); whoever
writes such a URL could make a host fetch from anywhere. What is not plainly an address is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from svetovid.errors import InputError

__all__ = ["Address", "parse_url"]

_MAX_URL = 2048
_SEGMENT = r"[A-Za-z0-9_=+,-][A-Za-z0-9._=+,-]*"
_KEY = rf"{_SEGMENT}(?:/{_SEGMENT})*"
_MEMORY = re.compile(rf"memory://(?P<path>{_KEY})")
_S3 = re.compile(rf"s3://(?P<path>[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]/{_KEY})")
_FILE = re.compile(r"file://(?P<path>/[A-Za-z0-9._~!$&'()+,;=:@/%-]*)")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Address:
    """A checked address: the scheme, and the path as its file system wants it."""

    scheme: str
    path: str


def parse_url(url: str) -> Address:
    """Check a storage URL; ``pathlib.Path.as_uri()`` makes the right one for a local path.

    Raises:
        InputError: ``asset.url`` for another scheme or anything odd.
    """
    if len(url) <= _MAX_URL:
        if m := _MEMORY.fullmatch(url):
            return Address("memory", "/" + m["path"])
        if m := _S3.fullmatch(url):
            return Address("s3", m["path"])
        if (m := _FILE.fullmatch(url)) and (path := _local(m["path"])):
            return Address("file", path)
    raise InputError(
        "asset.url",
        expected="file:///absolute/path, memory://name or s3://bucket/key, without odd characters",
        observed=url,
        next_step="write the address plainly; Path(...).resolve().as_uri() for a local file",
    )


def _local(escaped: str) -> str | None:
    """A local path out of its escaped form, or None where it is not a plain absolute file path."""
    # An escaped slash would name another file than the URL shows.
    if _ESCAPE.search(escaped) or "%2f" in escaped.lower():
        return None
    try:
        path = unquote_to_bytes(escaped).decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not path.isprintable():
        return None
    segments = path.split("/")[1:]
    return None if any(s in ("", ".", "..") for s in segments) else path
