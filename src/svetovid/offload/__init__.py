"""Bilinear operations on accelerators that see only masked numbers, or that are checked."""

from __future__ import annotations

__all__: list[str] = []
