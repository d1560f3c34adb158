"""An owner's asset keys at home: one file each, sealed to the owner's own card, mode 0600."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from svetovid.crypto import Base64, Digest, Document, KeyId, Secret, canonical, keystore, seal
from svetovid.errors import InputError
from svetovid.stakeholder.home import read_bounded
from svetovid.stakeholder.identity import Stakeholder

__all__ = ["asset_key", "keep_key"]

_MAX_FILE = 16 << 10


class _StoredKey(Document):
    TYPE: ClassVar[str] = "stored-asset-key"
    manifest: Digest
    owner: KeyId
    sealed: Base64


def _context(manifest: str, owner: str) -> dict[str, str]:
    return {"purpose": "own asset key", "manifest": manifest, "owner": owner}


def keep_key(who: Stakeholder, manifest: Digest, key: Secret) -> None:
    """Keep the key of asset ``manifest``; it is never written in the clear."""
    sealed = seal(key, who.identity.receiving.public, _context(manifest, who.key_id))
    stored = _StoredKey(manifest=manifest, owner=who.key_id, sealed=sealed)
    keystore.write_private(_path(who, manifest), canonical(stored.to_json()))


def asset_key(who: Stakeholder, manifest: Digest) -> Secret:
    """The key of asset ``manifest``, also where it was kept by an identity since rotated.

    Raises:
        InputError: ``key.asset`` where this home has none.
        IntegrityError: ``hpke.open`` for a file that was altered or exchanged.
    """
    path = _path(who, manifest)
    if not path.is_file():
        raise InputError(
            "key.asset",
            expected=f"the key of {manifest}",
            observed=f"none in {who.home.keys}",
            next_step="use the --home that sealed the asset",
        )
    stored = _StoredKey.parse(
        read_bounded(path, _MAX_FILE, what="an asset key"), max_bytes=_MAX_FILE
    )
    return who.receiving_key(stored.owner).open(stored.sealed, _context(manifest, stored.owner))


def _path(who: Stakeholder, manifest: str) -> Path:
    return who.home.keys / f"{manifest.removeprefix('sha256:')}.json"
