"""The worker: multiplies what it is handed, and holds nothing but a bounded cache of operands."""

from __future__ import annotations

__all__: list[str] = []
