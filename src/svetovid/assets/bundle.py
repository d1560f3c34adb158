"""Code bundles: a directory as one deterministic stream of bytes, its file names sealed with it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Unpack

from pydantic import Field

from svetovid.assets.manifest import Kind, Manifest
from svetovid.assets.reader import AssetReader
from svetovid.assets.seal import Terms, seal_stream
from svetovid.crypto import Digest, Document, Secret, digest
from svetovid.errors import InputError, IntegrityError, LimitError, ParseError

__all__ = ["load_bundle", "seal_bundle"]

MAGIC = b"svetovid.bundle\0"
MAX_FILES = 4096
MAX_FILE_BYTES = 64 << 20
MAX_BUNDLE_BYTES = 256 << 20
_MAX_INDEX_BYTES = 2 << 20
_LENGTH_BYTES = 4
_PREFIX = len(MAGIC) + _LENGTH_BYTES
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}){0,7}")
_SKIPPED = "__pycache__"


class _File(Document):
    path: str
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    sha256: Digest


class _Index(Document):
    TYPE: ClassVar[str] = "bundle"
    files: Annotated[tuple[_File, ...], Field(min_length=1, max_length=MAX_FILES)]


def seal_bundle(
    url: str,
    directory: Path,
    *,
    kind: Kind = "code",
    **terms: Unpack[Terms],
) -> tuple[Manifest, Secret]:
    """Seal a directory's regular files: their paths and bytes, and nothing else of them.

    Two directories with the same files give the same plaintext. ``__pycache__`` folders are left
    out: what Python compiled by itself is no part of what anybody agreed to.

    Args:
        directory: paths below it have up to 8 parts of ``A-Z a-z 0-9 _ . -``, each beginning with
            a letter, digit or underscore, at most 64 characters long.
        kind, terms: as :func:`seal_stream`.

    Raises:
        InputError: ``bundle.path`` for a link, device or odd name; ``bundle.collision`` for two
            paths that differ in case only; ``bundle.empty``; ``bundle.limit`` beyond 4096 files,
            64 MiB a file or 256 MiB in all; ``asset.input`` where a file cannot be read or
            changed meanwhile; and as :func:`seal_stream`.
    """
    return seal_stream(url, list(_plaintext(directory)), kind=kind, **terms)


def load_bundle(reader: AssetReader) -> dict[str, bytes]:
    """Every file of an opened bundle, by path; checked before anything is returned.

    Raises:
        ParseError: ``bundle.format``, ``bundle.path``, ``bundle.collision``, ``json.*``,
            ``document.invalid``.
        LimitError: ``bundle.limit``.
        IntegrityError: ``bundle.digest`` where a file is not what the index says; ``asset.*``.
    """
    if reader.size > MAX_BUNDLE_BYTES + _MAX_INDEX_BYTES + _PREFIX:
        raise _limit(f"{MAX_BUNDLE_BYTES} bytes", f"{reader.size} bytes")
    prefix = reader.read_at(0, min(_PREFIX, reader.size))
    length = int.from_bytes(prefix[len(MAGIC) :], "big")
    if prefix[: len(MAGIC)] != MAGIC or not 0 < length <= min(
        _MAX_INDEX_BYTES, reader.size - _PREFIX
    ):
        raise _format("a bundle's magic and index")
    raw = reader.read_at(_PREFIX, length)
    index = _Index.parse(raw, max_bytes=_MAX_INDEX_BYTES)
    if index.canonical() != raw:
        raise _format("an index in canonical form (RFC 8785)")
    _check_paths([f.path for f in index.files])
    if _PREFIX + length + sum(f.size for f in index.files) != reader.size:
        raise _format("exactly the bytes that the index lists")
    out: dict[str, bytes] = {}
    offset = _PREFIX + length
    for file in index.files:
        data = reader.read_at(offset, file.size)
        if digest(data) != file.sha256:
            raise IntegrityError(
                "bundle.digest",
                expected=f"{file.path} with {file.sha256}",
                observed=digest(data),
                next_step="ask the code's owner to seal it again",
            )
        out[file.path] = data
        offset += file.size
    return out


def _plaintext(directory: Path) -> Iterator[bytes]:
    files = {path: _read(directory / path) for path in _walk(directory)}
    _check_paths(list(files))
    total = sum(len(data) for data in files.values())
    if total > MAX_BUNDLE_BYTES:
        raise _limit(f"{MAX_BUNDLE_BYTES} bytes", f"{total} bytes")
    index = _Index(
        files=tuple(_File(path=p, size=len(d), sha256=digest(d)) for p, d in files.items())
    ).canonical()
    yield MAGIC + len(index).to_bytes(_LENGTH_BYTES, "big") + index
    yield from files.values()


def _walk(directory: Path) -> list[str]:
    """Paths of all regular files, sorted by their ASCII bytes."""
    found: list[str] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        for entry in _entries(directory / prefix):
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name != _SKIPPED:
                    _check_path(path)
                    pending.append(path + "/")
            elif entry.is_file(follow_symlinks=False):
                found.append(path)
            else:
                raise _path(path, "a regular file, no link or device")
        if len(found) + len(pending) > MAX_FILES:
            raise _limit(f"{MAX_FILES} files and folders", "more")
    return sorted(found)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as e:
        raise _unreadable(folder, e.strerror) from e


def _read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as f:
            if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
                raise _path(str(path), "a regular file, no link or device")
            data = f.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise _unreadable(path, e.strerror) from e
    if len(data) > MAX_FILE_BYTES:
        raise _limit(f"{MAX_FILE_BYTES} bytes a file", f"more in {path.name}")
    return data


def _check_path(path: str) -> None:
    if not _PATH.fullmatch(path):
        raise _path(path, "up to 8 parts of A-Z a-z 0-9 _ . - that begin with a letter or digit")


def _check_paths(paths: list[str]) -> None:
    if not paths:
        raise ParseError(
            "bundle.empty", expected="at least one file", next_step="choose the right folder"
        )
    for path in paths:
        _check_path(path)
    if paths != sorted(set(paths)):
        raise _format("each path once, in order")
    folders = {"/".join(p.split("/")[:n]) for p in paths for n in range(1, p.count("/") + 1)}
    named = [*paths, *folders]
    if len({n.lower() for n in named}) != len(named):
        raise ParseError(
            "bundle.collision",
            expected="paths that differ in more than case, and no file that is also a folder",
            next_step="rename one of the files",
        )


def _path(path: str, expected: str) -> ParseError:
    return ParseError(
        "bundle.path",
        expected=expected,
        observed=path,
        next_step="rename or remove it, or seal another folder",
    )


def _format(expected: str) -> ParseError:
    return ParseError(
        "bundle.format",
        expected=expected,
        observed="something else",
        next_step="seal the folder with seal_bundle",
    )


def _limit(expected: str, observed: str) -> LimitError:
    return LimitError(
        "bundle.limit",
        expected=f"at most {expected}",
        observed=observed,
        next_step="put large files into an asset of their own",
    )


def _unreadable(path: Path, why: str | None) -> InputError:
    return InputError(
        "asset.input",
        expected=f"to read {path}",
        observed=why or "unreadable",
        next_step="check the path and its rights",
    )
