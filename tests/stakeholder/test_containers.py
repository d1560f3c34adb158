"""Container images: layers over one another as a runtime unpacks them, each of its digest."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stakeholder.packing import oci, saved, sha, tar
from svetovid.errors import SvetovidError
from svetovid.stakeholder.sources import from_container

BASE = tar(
    {
        "bin": ("link", "usr/bin"),
        "usr/bin/": None,
        "usr/bin/sh": b"sh",
        "etc/a": b"a",
        "etc/b": b"b",
        "opt/x/1": b"1",
        "opt/x/2": b"2",
        "was/file": b"f",
    }
)
NEXT = tar(
    {
        "etc/.wh.a": b"",
        "bin/python": b"py",
        "opt/x/3": b"3",
        "opt/x/.wh..wh..opq": b"",
        "was": b"a file now",
        "etc/c": ("hard", "etc/b"),
    }
)
WANTED = {
    "/usr/bin/sh": b"sh",
    "/usr/bin/python": b"py",
    "/etc/b": b"b",
    "/etc/c": b"b",
    "/opt/x/3": b"3",
    "/was": b"a file now",
}
VALUES = {path: (sha(content),) for path, content in WANTED.items()}


def refused(code: str, image: Path, **more: str) -> None:
    with pytest.raises(SvetovidError) as e:
        from_container(image, **more)
    assert e.value.code == code, e.value
    assert e.value.reason.next_step


def as_tar(folder: Path) -> bytes:
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return tar(files)


def test_an_oci_layout(tmp_path: Path) -> None:
    digest = oci(tmp_path / "image", [gzip.compress(BASE), NEXT])
    read: list[int] = []
    source = from_container(tmp_path / "image", progress=read.append)
    assert source.files == VALUES
    assert (source.kind, source.name, source.artifact) == ("container", "lab/train:1", digest)
    assert sum(read) > 0
    (tmp_path / "image.tar").write_bytes(as_tar(tmp_path / "image"))
    assert from_container(tmp_path / "image.tar") == source
    below = from_container(tmp_path / "image.tar", at="/run/rootfs").files
    assert below == {"/run/rootfs" + path: value for path, value in VALUES.items()}


def test_what_docker_saved(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(saved([BASE, NEXT]))
    source = from_container(tmp_path / "image.tar")
    assert (source.files, source.name) == (VALUES, "lab/train:1")
    assert from_container(tmp_path / "image.tar", platform="linux/amd64") == source
    refused("source.platform", tmp_path / "image.tar", platform="linux/arm64")
    diff_ids = {"diff_ids": [sha(BASE), sha(NEXT)]}
    config = {"os": "linux", "architecture": "amd64", "rootfs": diff_ids}
    assert source.artifact == sha(json.dumps(config).encode())


def test_a_changed_part_is_refused(tmp_path: Path) -> None:
    for number in range(4):  # configuration is not used; layers, manifest
        image = tmp_path / str(number)
        oci(image, [BASE, NEXT])
        blob = sorted((image / "blobs/sha256").iterdir())[number]
        unused = blob.read_bytes() == b"{}"
        blob.write_bytes(blob.read_bytes().replace(b"sh", b"xx").replace(b"{", b"{ ") + b" ")
        if unused:
            assert from_container(image).files == VALUES
        else:
            refused("source.digest", image)
    (tmp_path / "image.tar").write_bytes(saved([BASE, NEXT]).replace(b"a file now", b"a file new"))
    refused("source.digest", tmp_path / "image.tar")


def test_several_images(tmp_path: Path) -> None:
    oci(tmp_path, [BASE])
    attestation = {"vnd.docker.reference.type": "attestation-manifest"}
    oci(tmp_path, [tar({"in-toto.json": b"{}"})], annotations=attestation)
    assert "/etc/a" in from_container(tmp_path).files
    oci(
        tmp_path,
        [tar({"etc/z": b"z"})],
        platform={"os": "linux", "architecture": "arm64", "variant": "v8"},
    )
    refused("source.platform", tmp_path)
    refused("source.platform", tmp_path, platform="linux/riscv64")
    assert "/etc/a" in from_container(tmp_path, platform="linux/amd64").files
    assert "/etc/a" not in from_container(tmp_path, platform="linux/arm64/v8").files


def test_an_index_in_an_index(tmp_path: Path) -> None:
    oci(tmp_path, [BASE, NEXT])
    inner = (tmp_path / "index.json").read_bytes()
    (tmp_path / "blobs/sha256" / sha(inner).removeprefix("sha256:")).write_bytes(inner)
    entry = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": sha(inner)}
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry]}))
    assert from_container(tmp_path).files == VALUES
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry] * 20}))
    refused("source.malformed", tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"manifests": {}}',
        b'{"manifests": ["x"]}',
        b'{"manifests": [{"digest": "sha256:../../../etc/passwd"}]}',
        b'{"manifests": [{"digest": "md5:00"}]}',
        b'{"manifests": [{"digest": "sha256:%s"}]}' % (b"0" * 64),
    ],
)
def test_an_index_that_is_none(index: bytes, tmp_path: Path) -> None:
    oci(tmp_path, [BASE])
    (tmp_path / "index.json").write_bytes(index)
    refused("source.malformed", tmp_path)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (b"", "source.malformed"),
        (gzip.compress(saved([BASE])), "source.malformed"),
        (saved([BASE])[:3000], "source.malformed"),
        (saved([BASE], Layers=["../../etc/x"]), "source.path"),
        (saved([BASE], Layers=["none.tar"]), "source.malformed"),
        (saved([BASE, NEXT], Layers=["0/layer.tar"]), "source.malformed"),
        (saved([BASE], Config="none.json"), "source.malformed"),
        (tar({"manifest.json": b"[]"}), "source.platform"),
        (tar({"manifest.json": b'[{"RepoTags": []}, {"RepoTags": ["x"]}]'}), "source.platform"),
        (tar({"manifest.json": b"[1]"}), "source.malformed"),
        (saved([tar({"a/.wh...": b""})]), "source.path"),
        (saved([tar({"a/.wh.": b""})]), "source.path"),
        (saved([tar({"../a": b""})]), "source.path"),
    ],
)
def test_an_image_that_is_none(image: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(image)
    refused(code, tmp_path / "image.tar")


def test_a_layer_with_a_name_that_no_file_has(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(saved([BASE], Layers=["x" * 256]))) as archive:
        archive.extractall(tmp_path, filter="data")
    refused("source.malformed", tmp_path)


NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "d"])
LAYER = st.lists(st.tuples(st.sampled_from(["file", "gone", "opaque"]), NAMES), max_size=5)


def unpacked(layers: list[list[tuple[str, str]]]) -> dict[str, tuple[str, ...]]:
    """The same layers by the words of the specification, on a flat table of paths."""
    files: dict[str, bytes] = {}
    for number, layer in enumerate(layers):
        for kind, name in layer:
            if kind == "opaque":
                files = {p: c for p, c in files.items() if not p.startswith(f"/{name}/")}
                files.pop(f"/{name}", None)
            elif kind == "gone":
                at = f"/{name}"
                files = {p: c for p, c in files.items() if p != at and not p.startswith(at + "/")}
        for kind, name in layer:
            if kind == "file":
                at = f"/{name}"
                above = {at[:i] for i, c in enumerate(at) if c == "/"}
                files = {
                    p: c for p, c in files.items() if p not in above and not p.startswith(at + "/")
                }
                files[at] = f"{number}".encode()
    return {path: (sha(content),) for path, content in files.items()}


@settings(max_examples=50, deadline=None)
@given(st.lists(LAYER, max_size=4))
def test_layers_as_the_specification_says(tmp_path_factory, layers) -> None:
    packed = []
    for number, layer in enumerate(layers):
        entries = []
        for kind, name in layer:
            folder, _, base = name.rpartition("/")
            hidden = f"{name}/.wh..wh..opq" if kind == "opaque" else f"{folder}/.wh.{base}"
            entries.append((name, b"%d" % number) if kind == "file" else (hidden, b""))
        packed.append(tar(entries))
    image = tmp_path_factory.getbasetemp() / "layers.tar"
    image.write_bytes(saved(packed))
    assert from_container(image).files == unpacked(layers)
