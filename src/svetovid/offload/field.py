"""Prime fields that masked numbers live in, and how long a sum may be before it could wrap.

Two limits that must not be mixed up: a sum of products of *operands* must stay within (p - 1) / 2
in size, or the trusted side could not tell it from another (:attr:`Field.longest`); a sum of
products of *residues* must be exact on the worker, which reduces as often as its arithmetic needs.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIELDS", "LARGEST", "M31", "P21", "P24", "Field"]

LARGEST = 128
"""Greatest size of a quantised operand."""


@dataclass(frozen=True)
class Field:
    """The integers modulo a prime just below a power of two.

    Attributes:
        p: the prime.
    """

    p: int

    @property
    def half(self) -> int:
        """Greatest size of a centred residue."""
        return (self.p - 1) // 2

    @property
    def longest(self) -> int:
        """Most products of two operands whose sum cannot wrap, whatever they are."""
        return self.half // LARGEST**2


P21 = Field(2**21 - 9)
"""Goten's."""
P24 = Field(2**24 - 3)
M31 = Field(2**31 - 1)
"""The default (ADR 0022)."""
FIELDS = {field.p: field for field in (P21, P24, M31)}
