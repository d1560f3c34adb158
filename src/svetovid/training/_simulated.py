"""Masked mode at home: everything is quantised as in a job, and nothing is masked."""

from __future__ import annotations

from svetovid.crypto import Secret
from svetovid.offload.plain import PlainMultiplier

__all__ = ["Simulator"]


class Simulator(PlainMultiplier):
    """The plain 8-bit simulator, which numbers its steps."""

    def __init__(self) -> None:
        super().__init__("local", Secret(bytes(32)))
        self.steps = 0

    def start(self) -> None:
        """Begin the next step; one that its body left half done is over."""
        self.end()
        self.begin(self.steps)
        self.steps += 1

    def finish(self) -> None:
        """End it."""
        self.end()
