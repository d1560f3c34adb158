"""Debian packages, layers and images for tests, packed apart from the code under test."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

Entry = bytes | tuple[str, str] | None
"""A file's content; ("hard" or "link", target); None for a folder."""


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar(entries: Mapping[str, Entry] | Sequence[tuple[str, Entry]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, entry in entries.items() if isinstance(entries, Mapping) else entries:
            info = tarfile.TarInfo(name)
            if entry is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(entry, tuple):
                info.type = tarfile.LNKTYPE if entry[0] == "hard" else tarfile.SYMTYPE
                info.linkname = entry[1]
            else:
                info.size = len(entry)
            archive.addfile(info, io.BytesIO(entry) if isinstance(entry, bytes) else None)
    return out.getvalue()


def ar(members: Sequence[tuple[str, bytes]]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


CONTROL = b"Package: libssl3\nArchitecture: amd64\nVersion: 3.0.15-1\nDescription: x\n y\n"


def deb(entries: Mapping[str, Entry], *, control: bytes = CONTROL, pack=gzip.compress) -> bytes:
    return ar(
        [
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", gzip.compress(tar({"./control": control}))),
            ("data.tar.gz", pack(tar(entries))),
        ]
    )


def oci(folder: Path, layers: Sequence[bytes], name: str = "lab/train:1", **more: object) -> str:
    """An OCI layout with one image; the digest of its manifest back."""

    def put(data: bytes) -> dict[str, object]:
        at = folder / "blobs" / "sha256" / sha(data).removeprefix("sha256:")
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(data)
        return {"digest": sha(data), "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "config": put(b"{}"),
        "layers": [put(layer) for layer in layers],
    }
    entry = {
        **put(json.dumps(manifest).encode()),
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "platform": {"os": "linux", "architecture": "amd64"},
        "annotations": {"org.opencontainers.image.ref.name": name},
        **more,
    }
    index = folder / "index.json"
    known = json.loads(index.read_text())["manifests"] if index.exists() else []
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*known, entry]}))
    return str(entry["digest"])


def saved(layers: Sequence[bytes], tags: Sequence[str] = ("lab/train:1",), **more: object) -> bytes:
    """What ``docker save`` wrote before OCI layouts."""
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"diff_ids": [sha(layer) for layer in layers]},
        }
    ).encode()
    names = [f"{i}/layer.tar" for i in range(len(layers))]
    image = {"Config": "c.json", "RepoTags": list(tags), "Layers": names, **more}
    return tar(
        {
            "c.json": config,
            "manifest.json": json.dumps([image]).encode(),
            **dict(zip(names, layers, strict=True)),
        }
    )
