"""Reference values of a machine's firmware: proposed from a boot that was watched, then reviewed.

Nothing but the machine's maker could predict them. For a virtual machine the firmware is a file,
so what was once seen of it is kept under that file's digest, and the size of the guest's memory,
which OVMF writes into what it measures: in the recipe's folder for Debian's present edition, in the
cache for another.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from attested_host.build import HERE
from attested_host.lock import cache_folder
from svetovid.evidence.boot.log import SEPARATORS, hash_data, parse_boot_log
from svetovid.evidence.documents import BootReferences, ReferenceValues

__all__ = ["kept_values", "propose"]

_FIRMWARE_PCRS = (0, 2)
_ALGORITHM = 0x000B


def propose(boot_log: bytes, product: str, provenance: str) -> ReferenceValues:
    """What a boot log shows of the firmware's own code; to be looked at before it is signed."""
    known = {hash_data("sha256", s) for s in SEPARATORS}
    events: dict[str, dict[str, tuple[str, ...]]] = {}
    for event in parse_boot_log(boot_log).events:
        digest = event.digests.get(_ALGORITHM)
        if not event.extends or digest is None or digest in known:
            continue
        if event.pcr in _FIRMWARE_PCRS:
            name = f"event {event.number}, type {event.kind:#x}"
            events.setdefault(str(event.pcr), {})[name] = ("sha256:" + digest.hex(),)
    return ReferenceValues(
        product=product, version=1, boot=BootReferences(events=events), provenance=provenance
    )


def kept_values(firmware: Path, memory_mib: int) -> Path:
    """Where the values of a firmware file are kept once they were seen."""
    name = f"{hashlib.sha256(firmware.read_bytes()).hexdigest()}-{memory_mib}.json"
    known = HERE / "firmware" / name
    return known if known.exists() else cache_folder() / "firmware" / name
