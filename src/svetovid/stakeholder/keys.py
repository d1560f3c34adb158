"""An owner's asset keys at home: one file each, sealed to the owner's own card, mode 0600.

Beside the key stands which version of which asset it opens: what this home sealed, it can name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from svetovid.assets import Manifest
from svetovid.crypto import (
    Base64,
    Digest,
    Document,
    KeyId,
    Name,
    Secret,
    canonical,
    seal,
)
from svetovid.crypto.private import write_private
from svetovid.errors import InputError
from svetovid.stakeholder.home import Home, read_bounded
from svetovid.stakeholder.identity import Stakeholder

__all__ = ["SealedVersion", "asset_key", "keep_key", "sealed_by", "sealed_version"]

_MAX_FILE = 16 << 10


class _StoredKey(Document):
    TYPE: ClassVar[str] = "stored-asset-key"
    manifest: Digest
    name: Name
    version: Annotated[int, Field(ge=1)]
    owner: KeyId
    sealed: Base64


@dataclass(frozen=True, slots=True)
class SealedVersion:
    """Which version of which own asset a manifest is."""

    name: str
    version: int


def _context(manifest: str, owner: str) -> dict[str, str]:
    return {"purpose": "own asset key", "manifest": manifest, "owner": owner}


def keep_key(who: Stakeholder, manifest: Manifest, key: Secret) -> None:
    """Keep the key of the asset ``manifest`` names; it is never written in the clear."""
    asset = manifest.digest()
    sealed = seal(key, who.identity.receiving.public, _context(asset, who.key_id))
    stored = _StoredKey(
        manifest=asset,
        name=manifest.name,
        version=manifest.version,
        owner=who.key_id,
        sealed=sealed,
    )
    write_private(_path(who.home, asset), canonical(stored.to_json()))


def asset_key(who: Stakeholder, manifest: Digest) -> Secret:
    """The key of asset ``manifest``, also where it was kept by an identity since rotated.

    Raises:
        InputError: ``key.asset`` where this home has none.
        IntegrityError: ``hpke.open`` for a file that was altered or exchanged.
    """
    stored = _stored(who.home, manifest)
    if stored is None:
        raise InputError(
            "key.asset",
            expected=f"the key of {manifest}",
            observed=f"none in {who.home.keys}",
            next_step="use the --home that sealed the asset",
        )
    return who.receiving_key(stored.owner).open(stored.sealed, _context(manifest, stored.owner))


def sealed_version(who: Stakeholder, manifest: Digest) -> SealedVersion | None:
    """What this home sealed as ``manifest``; none where it was sealed elsewhere.

    Raises:
        InputError: ``file.*``, ``json.*``, ``document.invalid`` for a file that was altered.
    """
    stored = _stored(who.home, manifest)
    return SealedVersion(stored.name, stored.version) if stored else None


def sealed_by(home: Home, manifest: Digest) -> KeyId | None:
    """The key that this home had when it sealed ``manifest``: the owner that the asset names.

    Raises:
        InputError: as :func:`sealed_version`.
    """
    stored = _stored(home, manifest)
    return stored.owner if stored else None


def _stored(home: Home, manifest: Digest) -> _StoredKey | None:
    path = _path(home, manifest)
    if not path.is_file():
        return None
    data = read_bounded(path, _MAX_FILE, what="an asset key")
    return _StoredKey.parse(data, max_bytes=_MAX_FILE)


def _path(home: Home, manifest: str) -> Path:
    return home.keys / f"{manifest.removeprefix('sha256:')}.json"
