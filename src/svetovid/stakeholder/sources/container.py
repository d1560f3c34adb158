"""Values of a container image: its layers, unpacked one over the other as a runtime would.

OCI image specification 1.1: ``index.json`` names manifests, a manifest names layers, each by its
SHA-256, which is checked. ``docker save`` of before OCI: ``manifest.json`` names layers, whose
SHA-256 stands in the configuration, whose own is the image's id.

A layer's whiteouts take away what lower layers have: ``.wh.NAME`` one name, ``.wh..wh..opq`` all
that is in a folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from svetovid.errors import InputError, IntegrityError
from svetovid.evidence.references import Source
from svetovid.stakeholder.sources.archives import Member, members, odd_path
from svetovid.stakeholder.sources.boxes import Box, listed, opened_box, read_json, text
from svetovid.stakeholder.sources.directory import below, printable
from svetovid.stakeholder.sources.streams import Progress, file_digest, malformed, quiet, unpack
from svetovid.stakeholder.sources.tree import Tree, parts

__all__ = ["from_container"]

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_REFERENCE_NAME = "org.opencontainers.image.ref.name"
_REFERENCE_TYPE = "vnd.docker.reference.type"
_MAX_INDEXES = 16
_MAX_LAYERS = 512
_HIDDEN, _OPAQUE = ".wh.", ".wh..wh..opq"


def _differs(what: str, expected: str, observed: str) -> IntegrityError:
    return IntegrityError(
        "source.digest",
        expected=f"{what}: {expected}",
        observed=observed,
        next_step="fetch the image again",
    )


def _blob(box: Box, digest: str) -> str:
    """The name of a blob whose content is what its name says."""
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise malformed("blobs named by their SHA-256", digest[:80])
    name = f"blobs/sha256/{found[1]}"
    if (observed := box.digest(name)) != digest:
        raise _differs("a blob of the image", digest, observed)
    return name


def _platform(descriptor: Any) -> str:
    fields = [text(descriptor, "platform", f) for f in ("os", "architecture", "variant")]
    return "/".join(f for f in fields if f)


def _manifests(box: Box) -> dict[str, tuple[str, str]]:
    """Digest of each image's manifest, with its platform and name; indexes are followed."""
    found: dict[str, tuple[str, str]] = {}
    indexes: list[tuple[str, str]] = [("index.json", "")]
    for _ in range(_MAX_INDEXES):
        if not indexes:
            return found
        where, named = indexes.pop()
        for descriptor in listed(read_json(box, where), "manifests"):
            digest = text(descriptor, "digest")
            name = text(descriptor, "annotations", _REFERENCE_NAME) or named
            if text(descriptor, "annotations", _REFERENCE_TYPE) == "attestation-manifest":
                continue  # says something of an image and is none
            if text(descriptor, "mediaType").endswith(
                ("image.index.v1+json", "manifest.list.v2+json")
            ):
                indexes.append((_blob(box, digest), name))
            else:
                found[digest] = (_platform(descriptor), name)
    raise malformed(f"fewer than {_MAX_INDEXES} indexes", "more")


def _oci(box: Box, platform: str) -> tuple[str, str, list[str]]:
    """Manifest's digest, the image's name, and its layers' files."""
    manifests = _manifests(box)
    fitting = [d for d, (p, _) in manifests.items() if not platform or p == platform]
    if len(fitting) != 1:
        raise _which([f"{p or 'unknown'} ({d})" for d, (p, _) in manifests.items()])
    digest = fitting[0]
    layers = listed(read_json(box, _blob(box, digest)), "layers")
    return digest, manifests[digest][1], [_blob(box, text(layer, "digest")) for layer in layers]


def _which(images: list[str]) -> InputError:
    return InputError(
        "source.platform",
        expected="one image, or the platform of one",
        observed=", ".join(images)[:400] or "no image",
        next_step="name one with --platform, for example linux/amd64, or save one image alone",
    )


def _saved(box: Box, platform: str) -> tuple[str, str, list[str]]:
    """The same of what ``docker save`` wrote before it wrote OCI layouts."""
    images = read_json(box, "manifest.json")
    if not isinstance(images, list) or len(images) != 1:
        names = images if isinstance(images, list) else []
        raise _which([", ".join(map(str, listed(i, "RepoTags"))) for i in names])
    (image,) = images
    config = text(image, "Config")
    layers = [str(layer) for layer in listed(image, "Layers")]
    configured = read_json(box, config)
    made_for = _platform({"platform": configured})
    if platform and made_for and made_for != platform:
        raise _which([made_for])
    diff_ids = listed(configured, "rootfs", "diff_ids")
    for layer, wanted in zip(layers, diff_ids, strict=False):
        with unpack(box.open(layer)) as raw:
            if (observed := file_digest(raw)) != wanted:
                raise _differs(f"layer {layer}", str(wanted), observed)
    if len(layers) != len(diff_ids):
        raise malformed(f"{len(diff_ids)} layers, as configured", len(layers))
    name = next((str(tag) for tag in listed(image, "RepoTags")), "")
    return box.digest(config), name, layers


def _apply(box: Box, layer: str, tree: Tree, progress: Progress) -> None:
    """One layer over the others: whiteouts are about what lies below, so they come first."""
    added: list[Member] = []
    with unpack(box.open(layer, progress)) as raw:
        for member in members(raw):
            path = parts(member.name)
            if not path or not path[-1].startswith(_HIDDEN):
                added.append(member)
            elif path[-1] == _OPAQUE:
                tree.empty(path[:-1])
            elif (name := path[-1].removeprefix(_HIDDEN)) in ("", ".", ".."):
                raise odd_path(member.name)
            else:
                tree.remove((*path[:-1], name))
    for member in added:
        tree.add(member)


def from_container(
    image: Path, *, platform: str = "", at: str = "/", progress: Progress = quiet
) -> Source:
    """The SHA-256 of every file that a container of this image sees at its start.

    Args:
        image: an OCI layout or what ``docker save`` wrote, as a folder or a tar.
        platform: ``os/architecture``, where there are several.
        at: where the log sees the image's root; a container's own files are mostly at ``/``.
        progress: told of bytes of the layers as they are read.

    Raises:
        InputError: ``file.unreadable``, ``source.malformed``, ``source.size``, ``source.path``,
            ``source.platform``.
        IntegrityError: ``source.digest`` where a part is not what the image says.
        HostError: ``source.zstd``.
    """
    tree = Tree()
    with opened_box(image) as box:
        digest, name, layers = (
            _oci(box, platform) if box.has("index.json") else _saved(box, platform)
        )
        if len(layers) > _MAX_LAYERS:
            raise malformed(f"at most {_MAX_LAYERS} layers", len(layers))
        for layer in layers:
            _apply(box, layer, tree, progress)
    files: dict[str, tuple[str, ...]] = {}
    for path, value in sorted(tree.files()):
        files[below(at, path)] = (value,)
    shown = printable(name or image.name)
    return Source(kind="container", name=shown, artifact=digest, files=files)
