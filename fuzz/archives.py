"""Parsers of what reference values are made from: packages, container images, reviewed texts."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fuzz.targets import Target
from svetovid.stakeholder.sources import approved, from_container, from_debian

_ZSTD = b"\x28\xb5\x2f\xfd"


def _at(data: bytes, folder: str) -> Path:
    path = Path(folder) / "given"
    path.write_bytes(data)
    return path


def _package(data: bytes) -> None:
    if _ZSTD not in data:  # that is read by a program of its own, whose start is the dear part
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            from_debian(_at(data, folder))


def _packages() -> Iterable[bytes]:
    from stakeholder.packing import deb

    files = {"usr/bin/x": b"x", "usr/lib/": None, "usr/bin/y": ("link", "x")}
    for pack in (gzip.compress, lzma.compress, bytes):
        yield deb(files, pack=pack)


def _image(data: bytes) -> None:
    if _ZSTD not in data:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            from_container(_at(data, folder))


def _images() -> Iterable[bytes]:
    from stakeholder.packing import oci, saved, tar

    base = tar({"bin": ("link", "usr/bin"), "usr/bin/sh": b"sh", "etc/a": b"a"})
    layers = [base, tar({"etc/.wh.a": b"", "bin/python": ("hard", "usr/bin/sh")})]
    yield saved(layers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        oci(folder, [gzip.compress(layers[0]), layers[1]])
        found = sorted(p for p in folder.rglob("*") if p.is_file())
        yield tar({str(p.relative_to(folder)): p.read_bytes() for p in found})


def _proposal(data: bytes) -> None:
    approved(data.decode("utf-8", "replace"), "review")


def _named(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _proposals() -> Iterable[bytes]:
    """As docs/spec/evidence.md writes one, decided and not."""
    one, long = "sha256:" + "1" * 64, "sha384:" + "2" * 96
    lines = [
        *("svetovid proposal 1", f"log {one} 1834 entries", "# 2 of 3 logs have it"),
        *(f'+ file {one} "/usr/bin/python3.11"', f'- buffer {one} "kexec-cmdline"', ""),
        *(f'+ file verity:{long} "/opt/a \\u017e"', f'+ line {_named(b"quiet")} "quiet"'),
        *(f'+ kernel 4 {one} "Linux"', f'+ event 9 {one} "initrd"'),
    ]
    yield "\n".join(lines).encode()
    yield "\n".join(lines[:4]).replace("+ file", "? file").encode()


_FORWARD = ("svetovid.stakeholder.sources.archives", "svetovid.stakeholder.sources.streams")
TARGETS = (
    Target(
        "debian-package",
        _package,
        (*_FORWARD, "svetovid.stakeholder.sources.debian", "svetovid.stakeholder.sources.tree"),
        _packages,
    ),
    Target(
        "container-image",
        _image,
        (
            *_FORWARD,
            "svetovid.stakeholder.sources.boxes",
            "svetovid.stakeholder.sources.container",
            "svetovid.stakeholder.sources.tree",
        ),
        _images,
    ),
    Target("proposal", _proposal, ("svetovid.stakeholder.sources.proposal",), _proposals),
)
