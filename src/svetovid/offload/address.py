"""Where random numbers come from: every tensor has a key of its own, by its address.

A key is HMAC-SHA-256 of the address's canonical form under a master key. It feeds AES-256 in
counter mode (NIST SP 800-38A) from the counter block 0, so the n-th number of a tensor depends on
its address and n alone, whatever was asked for before.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass

from svetovid.crypto import Secret

__all__ = ["KEY_BYTES", "Mask", "Rounding"]

KEY_BYTES = 32


@dataclass(frozen=True)
class Mask:
    """Of a one-time mask. Two values may never share one.

    Attributes:
        run: names the run.
        attempt: rises whenever something may be done a second time: it keeps masks apart that
            would hide other values.
        step: of the training.
        tensor: its name in the step.
        role: which of the masks that a protocol takes.
        p: the field's prime.
    """

    run: str
    attempt: int
    step: int
    tensor: str
    role: str
    p: int

    def key(self, master: Secret) -> bytes:
        """The key of this mask alone: who has it has the mask."""
        said = ["mask", self.run, self.attempt, self.step, self.tensor, self.role, self.p]
        return _derived(master, said)


@dataclass(frozen=True)
class Rounding:
    """Of the numbers that a tensor is rounded by. Without the attempt: what is done again gives the
    same bits. Its master key is not that of the masks, of which roundings must say nothing."""

    run: str
    step: int
    tensor: str

    def key(self, master: Secret) -> bytes:
        return _derived(master, ["rounding", self.run, self.step, self.tensor])


def _derived(master: Secret, said: list[object]) -> bytes:
    # Of a list of whole numbers and texts this is the canonical form (RFC 8785), written quickly.
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    return hmac.digest(master.reveal(), text.encode(), "sha256")
