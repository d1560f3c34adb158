"""Sealing at home: data files, code folders and models become assets; the key stays in the home."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from svetovid.assets import Manifest, open_asset, seal_bundle, seal_dataset, seal_file
from svetovid.crypto import Secret
from svetovid.errors import InputError, SvetovidError
from svetovid.stakeholder.home import Home
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.keys import asset_key, keep_key
from svetovid.stakeholder.manager import connect
from svetovid.stakeholder.names import read_document, write_public
from svetovid.stakeholder.pins import pinned_manager
from svetovid.stakeholder.readers import read_columns

__all__ = [
    "deposit_key",
    "kind_of",
    "newest_manifest",
    "read_manifest",
    "seal_asset",
    "sealed_assets",
    "verify_asset",
]

_READ_BYTES = 1 << 20


def seal_asset(
    who: Stakeholder,
    source: Path,
    *,
    name: str | None = None,
    url: str | None = None,
    folder: Path | None = None,
) -> Manifest:
    """Seal a data file, a code folder or a ``.safetensors`` model; keep its key in the home.

    Args:
        who: the owner. Its pinned manager is named in the manifest (T1).
        source: what to seal; a folder is code, its files become a bundle.
        name: the asset's name; from the source's name where none is given. Sealing under a name
            again makes its next version.
        url: fsspec URL of the container; ``FOLDER/NAME.vN.sealed`` where none is given.
        folder: where containers go by default, ``HOME/sealed`` if it is not said.

    Raises:
        InputError: ``asset.kind`` where what goes by this name so far is of another kind;
            ``data.*``, ``asset.*``, ``file.*``, ``manager.unpinned``, ``name.invalid``.
    """
    label = name or re.sub(r"[^a-z0-9._-]", "-", source.stem.lower()) or "asset"
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", label):
        raise InputError(
            "name.invalid",
            expected="a name of lower case letters, digits, dots, dashes and underscores",
            observed=label,
            next_step="give --name",
        )
    before = newest_manifest(who, label)
    place = url or ((folder or who.home.sealed).resolve() / _file_name(label, before)).as_uri()
    manager = pinned_manager(who.home).open().signing
    version = before.version + 1 if before else 1
    predecessor = before.digest() if before else None
    seal: Callable[..., tuple[Manifest, Secret]]
    kind = kind_of(source)
    if before is not None and before.kind != kind:
        raise InputError(
            "asset.kind",
            expected=f"{label} to stay a {before.kind}, as its version {before.version} is",
            observed=f"{source}: a {kind}",
            next_step="seal it under another name, with --name",
        )
    if kind == "code":
        seal = partial(seal_bundle, place, source)
    elif kind == "model":
        seal = partial(seal_file, place, source)
    else:
        columns = {field: column.view() for field, column in read_columns(source).items()}
        seal = partial(seal_dataset, place, columns)
    manifest, key = seal(
        name=label,
        owner=who.key_id,
        manager=manager,
        version=version,
        predecessor=predecessor,
    )
    keep_key(who, manifest, key)
    write_public(_manifest_path(who, label), manifest)
    return manifest


def kind_of(source: Path) -> str:
    """Kind of the asset that a source becomes."""
    if source.is_dir():
        return "code"
    return "model" if source.name.endswith(".safetensors") else "dataset"


def newest_manifest(who: Stakeholder, name: str) -> Manifest | None:
    """The newest version this owner sealed under ``name``."""
    path = _manifest_path(who, name)
    return read_document(path, Manifest) if path.is_file() else None


def sealed_assets(home: Home) -> dict[str, Manifest]:
    """The newest version of each asset sealed in a home, by name; files of no use are left out."""
    found = {}
    for path in sorted(home.sealed.glob("*.manifest.json")):
        with suppress(SvetovidError):
            manifest = read_document(path, Manifest)
            if path.name == f"{manifest.name}.manifest.json":  # and none left beside a container
                found[manifest.name] = manifest
    return found


def read_manifest(path: Path) -> Manifest:
    """A manifest from a file; it says nothing about who wrote the file.

    Raises:
        InputError: ``file.*``, ``json.*``, ``document.invalid``.
    """
    return read_document(path, Manifest)


def verify_asset(who: Stakeholder, manifest: Manifest, url: str) -> int:
    """Open an own asset and read all of it, so that every chunk is checked; bytes of content back.

    Args:
        who: whose home holds the key.
        manifest: the asset's.
        url: where the container is.

    Raises:
        InputError: ``key.asset`` where the key is not in this home.
        IntegrityError: ``asset.*`` for whatever does not hold.
    """
    key = asset_key(who, manifest.digest())
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        for start in range(0, reader.size, _READ_BYTES):
            reader.read_at(start, min(_READ_BYTES, reader.size - start))
        return reader.size


def deposit_key(who: Stakeholder, manifest: Manifest) -> str:
    """Give the key of an own asset to the manager it names, sealed to the pinned card.

    Raises:
        InputError: ``key.asset``, ``manager.unpinned``, ``asset.manager`` where the manifest names
            another manager than the pinned one (T1).
        IntegrityError, TransportError: as :class:`svetovid.protocol.ManagerClient`.
    """
    pinned = pinned_manager(who.home).open().signing
    if manifest.manager != pinned:
        raise InputError(
            "asset.manager",
            expected=pinned,
            observed=manifest.manager,
            next_step="seal the asset again for the manager that is pinned now",
        )
    key = asset_key(who, manifest.digest())
    with connect(who) as client:
        return client.deposit_key(manifest, key)


def _manifest_path(who: Stakeholder, name: str) -> Path:
    return who.home.sealed / f"{name}.manifest.json"


def _file_name(name: str, before: Manifest | None) -> str:
    return f"{name}.v{before.version + 1 if before else 1}.sealed"
