"""How sure a check of a product is: how often it is done, and what may still pass.

Apart from the check itself, so that a card can be computed where nothing is multiplied.
"""

from __future__ import annotations

import math

from svetovid.offload.field import Field

__all__ = ["ERROR", "bits", "repeats"]

ERROR = 2.0**-40
"""Greatest probability with which a wrong product passes."""


def repeats(field: Field) -> int:
    """How often a product is checked."""
    return math.ceil(math.log2(ERROR) / math.log2(2 / field.p))


def bits(field: Field) -> int:
    """A wrong product passes all checks with probability 2^-bits at most."""
    return math.floor(repeats(field) * math.log2(field.p / 2))
