"""How a product is shared between workers, and put together again: each protocol is data."""

from __future__ import annotations

from svetovid.offload.protocols.scheme import Scheme
from svetovid.offload.protocols.tables import (
    CODED,
    CODED_CHECKED,
    GOTEN,
    GOTEN_PUBLISHED,
    PACKED,
    SCHEMES,
)

__all__ = ["CODED", "CODED_CHECKED", "GOTEN", "GOTEN_PUBLISHED", "PACKED", "SCHEMES", "Scheme"]
