"""Bilinear operations on accelerators that see only masked numbers.

What a script of one's own needs has its name here, and is imported when it is asked for: policies
name protocols, and need no PyTorch for that.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from svetovid.offload.card import Seat
    from svetovid.offload.planner import costs, measure_rates, plan
    from svetovid.offload.protecting import protect
    from svetovid.offload.protocols import CODED, SCHEMES
    from svetovid.offload.session import Place, Session

__all__ = [
    "CODED",
    "SCHEMES",
    "Place",
    "Seat",
    "Session",
    "costs",
    "measure_rates",
    "plan",
    "protect",
]

_HOME = {
    "CODED": "protocols",
    "SCHEMES": "protocols",
    "Place": "session",
    "Seat": "card",
    "Session": "session",
    "costs": "planner",
    "measure_rates": "planner",
    "plan": "planner",
    "protect": "protecting",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
