"""Values of a Debian package: what it installs, hashed; its own md5sums are not enough.

A .deb is an ar archive (deb(5)): ``debian-binary``, ``control.tar``, ``data.tar``. Nothing in it is
run. What maintainer scripts make on the host (byte code, caches, diversions) is in no package;
:mod:`~svetovid.stakeholder.sources.proposal` is for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from svetovid.evidence.references import Source
from svetovid.stakeholder.sources.archives import members
from svetovid.stakeholder.sources.directory import printable
from svetovid.stakeholder.sources.streams import (
    Part,
    Progress,
    file_digest,
    malformed,
    opened,
    quiet,
    unpack,
)
from svetovid.stakeholder.sources.tree import Tree

__all__ = ["from_debian"]

_MAGIC = b"!<arch>\n"
_HEADER = re.compile(
    rb"([!-~ ]{16})[0-9 ]{12}[0-9 ]{6}[0-9 ]{6}[0-7 ]{8}([0-9]{1,10}) *`\n", re.DOTALL
)
_MAX_CONTROL = 1 << 20
_FIELD = re.compile(r"^(Package|Version|Architecture): ([!-~]{1,200})$", re.MULTILINE)
_MERGED = re.compile(r"^/(?=(?:bin|sbin|lib|lib32|lib64|libo32|libx32)/)")
"""Folders at the root that are links into /usr since Debian 12 and Ubuntu 23.10."""


def _ar(file: IO[bytes], progress: Progress) -> Iterator[tuple[str, Part]]:
    """Name and content of each member."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise malformed("a Debian package", "no ar archive")
    at = len(_MAGIC)
    while header := file.read(60):
        found = _HEADER.fullmatch(header)
        if found is None:
            raise malformed("the header of an ar member", f"byte {at}")
        size, start = int(found[2]), at + 60
        if file.seek(0, 2) < start + size:
            raise malformed(f"{size} bytes of an ar member", f"byte {at}")
        name = found[1].rstrip(b" ").removesuffix(b"/").decode("ascii")
        yield name, Part(file, start, size, progress if name.startswith("data.") else quiet)
        at = start + size + size % 2
        file.seek(at)


def _control(part: Part) -> str:
    """Package, version and architecture, as one name."""
    texts: list[str] = []

    def keep(name: str, content: IO[bytes]) -> None:
        if name.removeprefix("./") == "control":
            texts.append(content.read(_MAX_CONTROL).decode("utf-8", "replace"))

    with unpack(part) as raw:
        for _ in members(raw, keep=keep):
            pass
    fields = dict(_FIELD.findall("".join(texts)))
    if len(texts) != 1 or len(fields) != 3:
        raise malformed("one control file with Package, Version and Architecture", sorted(fields))
    return f"{fields['Package']} {fields['Version']} {fields['Architecture']}"


def from_debian(package: Path, *, merged_usr: bool = True, progress: Progress = quiet) -> Source:
    """The SHA-256 of every file that a package installs, under the paths that a log gives them.

    Args:
        merged_usr: ``/bin``, ``/sbin`` and ``/lib*`` are links into ``/usr`` on the host, as they
            are since Debian 12 and Ubuntu 23.10.
        progress: told of bytes of the package as they are read.

    Raises:
        InputError: ``file.unreadable``, ``source.malformed``, ``source.size``, ``source.path``.
        HostError: ``source.zstd``.
    """
    with opened(package, what="a Debian package") as file:
        found: dict[str, Part] = {}
        for name, part in _ar(file, progress):
            kind = name.partition(".tar")[0]
            if kind in found:
                raise malformed("each part of the package once", name)
            found[kind] = part
        if not {"debian-binary", "control", "data"} <= found.keys():
            raise malformed("debian-binary, control.tar and data.tar", sorted(found))
        if found["debian-binary"].read(4) != b"2.0\n":
            raise malformed("a package of format 2.0", "another")
        name = _control(found["control"])
        tree = Tree()
        with unpack(found["data"]) as raw:
            for member in members(raw):
                tree.add(member)
        file.seek(0)
        artifact = file_digest(file)
    files: dict[str, tuple[str, ...]] = {}
    for path, value in sorted(tree.files()):
        shown = _MERGED.sub("/usr/", path) if merged_usr else path
        known = files.get(shown, ())
        files[shown] = known if value in known else (*known, value)
    return Source(kind="debian", name=printable(name), artifact=artifact, files=files)
