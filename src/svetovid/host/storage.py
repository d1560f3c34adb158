"""Where the sealed assets of a job are, as far as folders tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svetovid.assets import Manifest
from svetovid.errors import SvetovidError
from svetovid.policy.documents import Job

__all__ = ["find_storage"]

_MAX_MANIFEST = 4 << 20
_ENDING = ".sealed.manifest.json"


def find_storage(job: Job, places: Sequence[str]) -> dict[str, str]:
    """Slot to container URL, from ``SLOT=URL`` and folders of sealed assets.

    In a folder, sealing left ``X.manifest.json`` beside each container ``X``; the one whose digest
    the job names is meant. What is found is checked when it is opened, not here; a file that is no
    manifest is passed over.

    Args:
        job: whose slots are wanted.
        places: ``SLOT=URL``, ``SLOT=PATH`` or the path of a folder; earlier ones win.
    """
    found: dict[str, str] = {}
    wanted = {asset.manifest: slot for slot, asset in job.assets.items()}
    for place in places:
        slot, separator, url = place.partition("=")
        if separator and slot in job.assets:
            found.setdefault(slot, url if "://" in url else Path(url).absolute().as_uri())
            continue
        for path in sorted(Path(place).glob(f"*{_ENDING}")):
            name = wanted.get(_digest(path))
            if name is not None:
                container = path.with_name(path.name.removesuffix(".manifest.json"))
                found.setdefault(name, container.absolute().as_uri())
    return found


def _digest(manifest: Path) -> str:
    try:
        if not manifest.is_file():
            return ""
        with manifest.open("rb") as f:
            data = f.read(_MAX_MANIFEST + 1)
        return Manifest.parse(data, max_bytes=_MAX_MANIFEST).digest()
    except (OSError, SvetovidError):
        return ""
