"""How the trusted side reaches workers: over shared memory on one machine, over TLS between two."""

from __future__ import annotations

from svetovid.offload.links.certificate import fingerprint, make_certificate
from svetovid.offload.links.framed import FramedLink, Observer
from svetovid.offload.links.local import linked, started
from svetovid.offload.links.tls import connected

__all__ = [
    "FramedLink",
    "Observer",
    "connected",
    "fingerprint",
    "linked",
    "make_certificate",
    "started",
]
