"""Parsers of what reference values are made from: packages, container images, reviewed texts."""

from __future__ import annotations

import gzip
import lzma
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fuzz.targets import Target
from svetovid.evidence.ima import parse_log
from svetovid.stakeholder.sources import approved, from_container, from_debian, propose

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


def _proposals() -> Iterable[bytes]:
    from fuzz.evidence import good

    log = good()["ima.bin"]
    assert parse_log(log)
    text, _ = propose([log])
    yield text.encode()
    yield text.replace("?", "+").encode()


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
