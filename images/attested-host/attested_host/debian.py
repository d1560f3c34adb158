"""Debian packages: a closure resolved once into the lock, and archives unpacked without scripts."""

from __future__ import annotations

import io
import lzma
import re
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from attested_host.lock import BuildError, Package
from attested_host.tree import Tree

__all__ = ["addresses", "now_stamp", "resolve", "unpack"]

_ARCHIVE = "http://deb.debian.org"
_SNAPSHOT = "http://snapshot.debian.org/archive"
_SECURITY_POOL = "pool/updates/"
_FIELD = re.compile(r"^([A-Z][A-Za-z0-9-]*): (.*)$", re.MULTILINE)
_AR_MAGIC = b"!<arch>\n"
_MAX_TAR = 1 << 31


def addresses(path: str, stamp: str) -> list[str]:
    """Where a package is: Debian's archive while it is current, the snapshot of it for ever.

    Args:
        path: of a package in a lock; it begins with the archive's name.
        stamp: when the lock was made, as snapshot.debian.org writes it.
    """
    archive, _, rest = path.partition("/")
    return [f"{_ARCHIVE}/{path}", f"{_SNAPSHOT}/{archive}/{stamp}/{rest}"]


# -- the lock ---------------------------------------------------------------------------------


def _apt(*arguments: str) -> str:
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, timeout=120, env={"LC_ALL": "C"}
    )
    if done.returncode != 0:
        raise BuildError(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _records(names: Sequence[str]) -> Iterator[dict[str, str]]:
    text = _apt("/usr/bin/apt-cache", "show", "--no-all-versions", *names)
    for paragraph in text.split("\n\n"):
        fields = dict(_FIELD.findall(paragraph))
        if fields:
            yield fields


def _needs(record: dict[str, str]) -> Iterator[list[str]]:
    """What a package depends on; each a list of alternatives."""
    line = ", ".join(filter(None, (record.get("Pre-Depends"), record.get("Depends"))))
    for clause in filter(None, line.split(",")):
        yield [re.split(r"[ (:]", a.strip())[0] for a in clause.split("|")]


def resolve(seeds: Iterable[str], without: Iterable[str]) -> list[Package]:
    """The newest version of each seed and of what it depends on, from apt's lists.

    Args:
        seeds: package names.
        without: packages that are left out although something asks for them: what only
            maintainer scripts use, since none is ever run.
    """
    left_out = set(without)
    found: dict[str, Package] = {}
    todo = sorted(set(seeds))
    while todo:
        for record in _records(todo):
            name = record["Package"]
            path = record["Filename"]
            archive = "debian-security" if path.startswith(_SECURITY_POOL) else "debian"
            found[name] = Package(name, record["Version"], record["SHA256"], f"{archive}/{path}")
            todo += [options[0] for options in _needs(record)]
        todo = sorted(set(todo) - found.keys() - left_out)
    return [found[name] for name in sorted(found)]


def now_stamp() -> str:
    """The present second, as snapshot.debian.org writes it."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


# -- unpacking --------------------------------------------------------------------------------


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Files of an ``ar`` archive (deb(5))."""
    if not data.startswith(_AR_MAGIC):
        raise BuildError("not a Debian package")
    at = len(_AR_MAGIC)
    while at + 60 <= len(data):
        name = data[at : at + 16].decode("ascii").strip().rstrip("/")
        size = int(data[at + 48 : at + 58])
        yield name, data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def _contents(package: Package, path: Path) -> bytes:
    for name, content in _members(path.read_bytes()):
        if name == "data.tar":
            return content
        if name == "data.tar.xz":
            return lzma.decompress(content)
        if name.startswith("data.tar"):
            raise BuildError(f"{package.label}: {name} is not supported")
    raise BuildError(f"{package.label} has no data.tar")


def unpack(package: Package, path: Path) -> Tree:
    """The files of a package. Its maintainer scripts are not even looked at."""
    tree = Tree()
    with tarfile.open(fileobj=io.BytesIO(_contents(package, path))) as tar:
        members = {m.name: m for m in tar}
        for member in members.values():
            if member.isdir():
                continue
            if member.issym():
                tree.link(member.name, member.linkname, package.label)
                continue
            real = members[member.linkname] if member.islnk() else member
            if not real.isreg() or real.size > _MAX_TAR:
                raise BuildError(f"{package.label}: {member.name} is no regular file")
            content = tar.extractfile(real)
            assert content is not None
            tree.add(member.name, content.read(), package.label, executable=bool(real.mode & 0o111))
    return tree
