"""How the trusted side reaches workers: over shared memory on one machine, over TLS between two."""

from __future__ import annotations

from svetovid.offload.links.framed import FramedLink, Observer
from svetovid.offload.links.local import linked, started

__all__ = ["FramedLink", "Observer", "linked", "started"]
